"""Bad model folders, row by row of the catalogue of bad inputs.

Every row is one test whose id is the row's, from the side of the user: a refusal names its code
and leaves the caller's object as it was, a repair gives the result of the clean input and says
so, a warning names its count. What other tests show in depth is shown here once.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from _bad_cells import (
    cells,
    copied,
    dense,
    logged_lines,
    model,
    query,
    refused,
    same,
    set_up,
    trained,
)
from _catalogue import Catalogue, marked
from _hub import serving

from episome.errors import (
    InputFileError,
    ModelFileError,
    ModelMismatchError,
    PluginError,
    RemoteError,
    UntrustedModelError,
    UsageError,
)
from episome.jobs import models_pull
from episome.models import NearestCentroid, load

CATALOGUE = Catalogue("test_bad_folders")
row = CATALOGUE.row

#: Rows that wait for what is not built yet: they are no tests.
LATER: dict[str, str] = {
    "M02": "converting a file of another program",
    "M17": "a model in an archive or on a hub",
}

#: Rows, or parts of rows, that do not hold yet, and why. Their number may only go down.
OPEN: dict[str, str] = {}


def resealed(place: Path, **changes) -> Path:
    """Write right checksums over a spoilt model, as somebody with bad intentions can."""
    manifest = json.loads((place / "manifest.json").read_text())
    manifest |= changes
    for name, entry in manifest["files"].items():
        data = (place / name).read_bytes()
        entry |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    text = json.dumps(manifest).encode()
    (place / "manifest.json").write_bytes(text)
    line = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
    (place / "manifest.sha256").write_text(line)
    return place


def manifest_of(place: Path) -> dict:
    return json.loads((place / "manifest.json").read_text())


def not_loaded(place: Path, code: str, match: str = "", error=ModelFileError) -> None:
    """Neither the model nor a predictor is made of the folder, and the folder stays as it is."""
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} if place.is_dir() else {}
    for way in (load, NearestCentroid.load):
        refused(lambda way=way: way(place), code=code, error=error, match=match)
    assert {p: p.read_bytes() for p in before} == before


class Bomb:
    """A pickle of it writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@row("M01", "a pickle in the place of a model", "never executed")
def pickled(folder):
    mark = folder / "executed"
    data = pickle.dumps(Bomb(mark))
    place = folder / "foreign"
    place.mkdir()
    for name in ("model.pt", "model.pkl"):
        (place / name).write_bytes(data)
        not_loaded(place, "E-M02", "may run code", UntrustedModelError)
        not_loaded(place / name, "E-M02", "may run code", UntrustedModelError)
        (place / name).unlink()
    place = copied(folder)
    (place / "weights.safetensors").write_bytes(data)
    not_loaded(place, "E-M03", "weights.safetensors")
    not_loaded(resealed(place), "E-M03", "weights.safetensors")
    assert not mark.exists()


@row("M03", "one flipped bit in any file of a model", "refused; the file is named")
def flipped(folder):
    place = copied(folder)
    rng = np.random.default_rng(0)
    names = [*manifest_of(place)["files"], "manifest.json", "manifest.sha256"]
    for name in names:
        good = (place / name).read_bytes()
        for _ in range(4):
            bad = bytearray(good)
            bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
            (place / name).write_bytes(bytes(bad))
            wanted = "manifest" if name.startswith("manifest") else re.escape(name)
            refused(lambda: load(place), code="E-M03", error=ModelFileError, match=wanted)
        (place / name).write_bytes(good)
    same(load(place), query())


@row("M04", "a file of a model that is cut short or empty", "refused; it is named")
def cut(folder):
    place = copied(folder)
    for name in manifest_of(place)["files"]:
        good = (place / name).read_bytes()
        for bad in (good[:-1], b""):
            (place / name).write_bytes(bad)
            refused(lambda: load(place), code="E-M03", error=ModelFileError, match=re.escape(name))
        (place / name).write_bytes(good)
    same(load(place), query())


@row("M04b", "a pointer of Git LFS in the place of weights", "the message says what it is")
def pointer(folder):
    place = copied(folder)
    (place / "weights.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused(lambda: load(place), code="E-M04", error=ModelFileError, match="Git LFS")


@row("M05", "a file is missing, or one too many", "refused; left alone with a line")
def missing_file(folder):
    place = copied(folder)
    for name in (*manifest_of(place)["files"], "manifest.json", "manifest.sha256"):
        good = (place / name).read_bytes()
        (place / name).unlink()
        refused(lambda: load(place), code="E-M05", error=ModelFileError, match=re.escape(name))
        (place / name).write_bytes(good)
    (place / "notes.txt").write_text("mine")
    assert any("notes.txt" in line for line in logged_lines(lambda: load(place)))
    not_loaded(folder / "nowhere", "E-M05", "no such folder")


@row("M06", "a tensor too many, too few, or of another shape", "refused")
def tensors(folder):
    good = safetensors.numpy.load((copied(folder) / "weights.safetensors").read_bytes())
    name = "centroids"
    assert name in good
    for bad in (
        {k: v for k, v in good.items() if k != name},
        {**good, "extra": good[name]},
        {**good, name: good[name][:, :-1].copy()},
    ):
        place = copied(folder)
        (place / "weights.safetensors").write_bytes(safetensors.numpy.save(bad))
        not_loaded(resealed(place), "E-M06", "centroids|extra")


@row("M07", "weights that are not finite", "neither saved nor loaded")
def not_finite(folder):
    place = copied(folder)
    good = safetensors.numpy.load((place / "weights.safetensors").read_bytes())
    bad = {k: np.full_like(v, np.nan) if k == "centroids" else v for k, v in good.items()}
    (place / "weights.safetensors").write_bytes(safetensors.numpy.save(bad))
    not_loaded(resealed(place), "E-M07", "first: centroids")
    spoilt = trained(cells())
    spoilt.module.arrays["centroids"] = np.full((3, 40), np.inf, np.float32)
    refused(lambda: spoilt.save(folder / "new"), code="E-M07", error=ModelFileError)
    assert not (folder / "new").exists()


@row("M08", "the folder of another class", "refused; both and the right call are named")
def other_class(folder):
    from episome.models import SCTab

    place = copied(folder)
    refused(
        lambda: SCTab.load(place),
        code="E-M08",
        error=ModelMismatchError,
        match=r"NearestCentroid, not a SCTab.*NearestCentroid\.load",
    )


@row("M09", "a model of a plugin that is not installed", "refused with the line that installs it")
def no_plugin(folder):
    place = copied(folder)
    entry = manifest_of(place)["model"] | {"plugin": "ghost", "distribution": "episome-ghost"}
    resealed(place, model=entry)
    refused(
        lambda: load(place), code="E-P01", error=PluginError, match="pip install episome-ghost"
    )


@row("M10", "a folder of a newer format", "refused; upgrade")
def newer(folder):
    not_loaded(
        resealed(copied(folder), format_version=[99, 0]),
        "E-M10",
        "format 99.0.*pip install -U episome",
        ModelMismatchError,
    )


@row("M11", "weights that declare more than there is", "refused before anything is allocated")
def bombs(folder):
    def file(header: dict | bytes, size: int | None = None, data: bytes = b"") -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return (len(text) if size is None else size).to_bytes(8, "little") + text + data

    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for bad in (
        file(b"{}", 10 << 30),
        file({"a": tensor, "b": tensor}, data=b"\0" * 4),
        file({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}, data=b"\0" * 4),
        file({"a": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}),
    ):
        place = copied(folder)
        (place / "weights.safetensors").write_bytes(bad)
        not_loaded(resealed(place), "E-M03", "weights.safetensors")


@row("M12", "names and links that leave the folder", "refused")
def tricks(folder):
    for name in ("../secret", "/etc/passwd", "files/../../x", "a\\b"):
        place = copied(folder)
        manifest = manifest_of(place)
        files = manifest["files"] | {name: {"sha256": "0" * 64, "size": 1}}
        text = json.dumps({**manifest, "files": files}).encode()
        (place / "manifest.json").write_bytes(text)
        seal = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
        (place / "manifest.sha256").write_text(seal)
        not_loaded(place, "E-M12", "leaves the folder")
    place = copied(folder)
    shutil.move(place / "labels.tsv", folder / "labels.tsv")
    (place / "labels.tsv").symlink_to(folder / "labels.tsv")
    not_loaded(place, "E-M12", "labels.tsv")
    refused(
        lambda: model().save(folder / "new", prefix="../../x_"), code="E-U18", error=UsageError
    )


@row("M13", "labels or genes that do not fit the network", "refused")
def cross_check(folder):
    def with_lines(name: str, change) -> Path:
        place = copied(folder)
        lines = (place / name).read_text().splitlines()
        (place / name).write_text("\n".join(change(lines)) + "\n")
        return resealed(place)

    not_loaded(with_lines("labels.tsv", lambda x: x[:-1]), "E-M13", "2 labels.*3 model outputs")
    not_loaded(with_lines("labels.tsv", lambda x: [*x[:-1], x[1]]), "E-M13", "2 different")
    not_loaded(with_lines("genes.tsv", lambda x: x[:-1]), "E-M13", "39 genes and 40")


def in_child(action: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return pid


@row("M14", "a save over a model that is killed", "the old or the new model, whole")
def killed(folder):
    place = copied(folder)
    other = trained(cells(60))
    wanted = [m.predict_proba(query()) for m in (model(), other)]
    rng = np.random.default_rng(0)

    def keep_saving() -> None:
        for i in range(1000):
            (model(), other)[i % 2].save(place, overwrite=True)

    for _ in range(6):
        pid = in_child(keep_saving)
        time.sleep(rng.uniform(0.01, 0.1))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        got = load(place).predict_proba(query())
        assert any(np.array_equal(got, w) for w in wanted)


@row("M15", "two programs save to one place", "one of the models, whole")
def two_writers(folder):
    place = copied(folder)
    models = (model(), trained(cells(60)))
    wanted = [m.predict_proba(query()) for m in models]

    def save(which: int) -> None:
        for _ in range(5):
            try:
                models[which].save(place, overwrite=True)
            except InputFileError:  # the other was faster
                continue

    children = [in_child(lambda i=i: save(i)) for i in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
    got = load(place).predict_proba(query())
    assert any(np.array_equal(got, w) for w in wanted)


@row("M16", "a model of another device", "loaded on what is there")
def other_device(folder):
    place = copied(folder)
    text = (place / "manifest.json").read_text()
    assert "cuda" not in text
    fit = manifest_of(place)["fit"] | {"device": "cuda:7"}
    same(load(resealed(place, fit=fit), accelerator="cpu"), query())


@row(
    "M18",
    "a download that differs from its checksum, or comes over an open line",
    "refused, and nothing stays",
)
def damaged_on_the_way(folder):
    home = folder / "home"
    model().save(folder / "good")
    files = {p.name: p.read_bytes() for p in (folder / "good").iterdir()}
    files["genes.tsv"] = files["genes.tsv"].replace(b"G", b"g", 1)
    with serving() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPISOME_HOME", str(home))
        patch.setenv("HF_ENDPOINT", hub.url)
        hub.commit("lab/model", files)
        with pytest.raises(ModelFileError, match=r"genes\.tsv.*E-M03"):
            models_pull("lab/model")
        patch.setenv("HF_ENDPOINT", "http://example.com")
        with pytest.raises(RemoteError, match="HF_ENDPOINT.*E-N02"):
            models_pull("lab/model")
    assert list((home / "models").iterdir()) == []


@row("M19", "the same weights on another machine", "the calls of the formula, in float64")
def formula(folder):
    adata, x = query(), dense(query()).astype(np.float64)
    values = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    back = load(copied(folder), accelerator="cpu")
    scores = values @ back.module.arrays["centroids"].astype(np.float64).T
    scores *= float(back.module.arrays["scale"][0])
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    np.testing.assert_allclose(back.predict_proba(adata, calibrated=False), weights, atol=1e-4)
    names = np.array(back.labels.names, dtype=object)
    assert (back.predict(adata) == names[weights.argmax(1)]).all()


@row("M20", "a model that was not trained", "neither saved nor used")
def untrained(folder):
    adata = cells()
    set_up(adata)
    raw = NearestCentroid(adata)
    for call in (lambda: raw.save(folder / "m"), lambda: raw.predict(query())):
        refused(call, code="E-M20", error=UsageError, match=r"call train\(\) first")
    assert not (folder / "m").exists()


# -- the rows ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", marked(CATALOGUE, OPEN))
def test_bad_folders(name, tmp_path, toy):
    CATALOGUE[name].shows(tmp_path)
