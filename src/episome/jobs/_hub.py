"""Models from and to the Hugging Face hub: only when that is said, and checked."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from episome import settings
from episome.errors import (
    InputFileError,
    MissingDependencyError,
    RemoteError,
    UsageError,
)
from episome.io import (
    CARD,
    EVALUATION,
    SEALED,
    cached_model,
    check_model_output,
    find_model,
    folder_beside,
    folder_files,
    read_manifest,
    require_space,
    write_file,
)
from episome.jobs._model_card import require_complete_card
from episome.jobs._models import folder_size, record_file, record_of, whole_folder
from episome.log import get_logger

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = get_logger(__name__)

DEFAULT_ENDPOINT = "https://huggingface.co"
#: Seconds until a hub that does not answer counts as away.
TIMEOUT = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
#: Files that no manifest seals: people edit them.
_BESIDE = (CARD, EVALUATION)
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class PulledModel:
    """A model that was pulled: its folder, and which commit of which model it is."""

    name: str
    path: Path
    commit: str
    n_bytes: int
    #: Whether this commit was there already.
    known: bool = False


@dataclass(frozen=True, slots=True)
class PushedModel:
    """A model that was pushed, or would be: where to, and which files."""

    name: str
    url: str
    commit: str
    files: tuple[str, ...]


def models_pull(
    name: str,
    *,
    revision: str = "main",
    output: Path | None = None,
    overwrite: bool = False,
) -> PulledModel:
    """Fetch a model from the hub, verify it, and put it into the cache or a folder.

    Only files that the manifest names are fetched, from the one commit that the revision stands
    for; every byte is compared with its checksum before the folder has its name. Where
    ``settings.offline`` is set, what is in the cache is answered.

    Parameters
    ----------
    name
        ``owner/name``.
    revision
        Branch, tag or commit.
    output
        Folder; default the cache, where the model is found by its name.
    overwrite
        Replace another commit of it, or a folder that is there.

    Raises
    ------
    UsageError
        No name of a model (E-U119).
    RemoteError
        The hub cannot be reached (E-N01), may not be asked (E-N02), or has no such model, revision
        or file (E-N03).
    InputFileError
        Another commit, or another folder, is there (E-F26).
    ModelFileError
        What was fetched is no model or damaged.
    """
    _require_name(name)
    place = cached_model(name) if output is None else output
    if settings.offline:
        return _offline(name, place)
    api = _api()
    with _remote(name):
        commit = str(api.model_info(name, revision=revision, timeout=TIMEOUT).sha)
    known = record_of(place) if output is None else {}
    if known.get("commit") == commit and known.get("repo") == name and place.is_dir():
        whole_folder(place)
        return PulledModel(name, place, commit, folder_size(place), known=True)
    check_model_output(place, overwrite=overwrite)
    with folder_beside(place, overwrite=overwrite) as folder:
        with _remote(name):
            _fetch(api, name, commit, folder, PurePosixPath())
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        whole_folder(folder)
    if output is None:
        _remember(place, name, revision, commit, str(api.endpoint))
    return PulledModel(name, place, commit, folder_size(place))


def models_push(
    model: str | Path, name: str, *, private: bool = False, dry_run: bool = False
) -> PushedModel:
    """Put a model with a complete card on the hub.

    Parameters
    ----------
    model
        Path, or name of a model in the cache.
    name
        ``owner/name``; made if it is not there. Who you are is what ``hf auth login`` or
        ``HF_TOKEN`` says.
    private
        A new one is seen by you alone.
    dry_run
        Check everything, and open no connection.

    Raises
    ------
    UsageError
        No name of a model (E-U119).
    ModelFileError
        The folder is damaged, or its card is not complete (E-M21).
    RemoteError
        The hub cannot be reached (E-N01), or refuses (E-N03).
    """
    _require_name(name)
    path = find_model(model)
    whole_folder(path)
    require_complete_card(path)
    files = _listed(path, PurePosixPath())
    if dry_run:
        return PushedModel(name, f"{_endpoint()}/{name}", "", tuple(files))
    api = _api()
    with _remote(name):
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=path,
            allow_patterns=files,
            commit_message="A model of episome",
        )
    return PushedModel(name, f"{_endpoint()}/{name}", str(done.oid), tuple(files))


def _fetch(api: HfApi, name: str, commit: str, folder: Path, inside: PurePosixPath) -> None:
    """Fetch a manifest, and what it names."""
    for file in SEALED:
        _file(api, name, commit, folder, str(inside / file))
    manifest = read_manifest(folder / inside)
    wanted = folder_files(manifest)
    require_space(folder, sum(wanted.values()), fewer="take a smaller model")
    for file in wanted:
        _file(api, name, commit, folder, str(inside / file))
    for file in _BESIDE:
        if api.file_exists(name, str(inside / file), revision=commit):
            _file(api, name, commit, folder, str(inside / file))
    for number in range(len(manifest.get("members", ()))):
        _fetch(api, name, commit, folder, inside / "members" / str(number))


def _file(api: HfApi, name: str, commit: str, folder: Path, file: str) -> None:
    from huggingface_hub import hf_hub_download

    logger.debug("fetching %s of %s", file, name)
    hf_hub_download(
        name, file, revision=commit, local_dir=folder, endpoint=api.endpoint, token=api.token
    )


def _listed(path: Path, inside: PurePosixPath) -> list[str]:
    """Return the files of a folder that its manifest names, and itself."""
    manifest = read_manifest(path / inside)
    found = [str(inside / n) for n in (*SEALED, *folder_files(manifest))]
    found += [str(inside / n) for n in _BESIDE if (path / inside / n).is_file()]
    for number in range(len(manifest.get("members", ()))):
        found += _listed(path, inside / "members" / str(number))
    return found


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(
            "E-U119",
            f"{name!r} is no name of a model on the hub",
            fix="pass owner/name, such as my-lab/lung-annotator",
        )


def _offline(name: str, place: Path) -> PulledModel:
    known = record_of(place)
    if not (place / SEALED[0]).is_file():
        settings.require_online(
            f"{name}, which is not in the cache,",
            "leave offline (--offline) out, or pass the path of a copy",
        )
    whole_folder(place)
    return PulledModel(name, place, str(known.get("commit", "")), folder_size(place), known=True)


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")


def _api() -> HfApi:
    settings.require_online("the hub", "leave offline (--offline) out")
    if find_spec("huggingface_hub") is None:
        raise MissingDependencyError(
            "E-P02",
            "the hub is reached by huggingface_hub, which is not installed",
            fix='pip install "episome[hub]"',
        )
    endpoint = _endpoint()
    parts = urlparse(endpoint)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise RemoteError(
            "E-N02",
            "the address of the hub is not encrypted",
            where="HF_ENDPOINT",
            why="whoever is on the way could change a model",
            fix="pass an address that begins with https://",
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when it is imported
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint, library_name="episome")


@contextmanager
def _remote(name: str) -> Iterator[None]:
    """Say of a hub that does not answer, or refuses, that it does."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        raise RemoteError(
            "E-N03",
            f"the hub refuses {name}" + (f" (status {status})" if status else ""),
            where=_endpoint(),
            why=str(getattr(error, "server_message", "") or error).strip().splitlines()[0][:200],
            fix="correct the name or the revision; for private models and to push log in: "
            "`hf auth login`, or set HF_TOKEN",
        ) from error
    except _connection_errors() as error:
        if isinstance(error, InputFileError):
            raise
        raise RemoteError(
            "E-N01",
            "the hub cannot be reached",
            where=_endpoint(),
            why=f"{type(error).__name__}: {error}".splitlines()[0][:200],
            fix="look at the connection; models in the cache work without: `episome models list`",
        ) from error


def _connection_errors() -> tuple[type[Exception], ...]:
    """Return what the libraries below the hub's raise where there is no connection."""
    found: list[type[Exception]] = [ConnectionError, TimeoutError]
    for name in ("httpx", "httpx2", "requests"):
        module = sys.modules.get(name)
        for error in ("HTTPError", "RequestException"):
            kind = getattr(module, error, None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                found.append(kind)
    return tuple(found)


def _remember(place: Path, name: str, revision: str, commit: str, endpoint: str) -> None:
    facts = {
        "repo": name,
        "revision": revision,
        "commit": commit,
        "endpoint": endpoint,
        "manifest_sha256": (place / SEALED[1]).read_text(encoding="utf-8").split()[0],
        "pulled": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_file(record_file(place), json.dumps(facts, indent=1).encode(), overwrite=True)
