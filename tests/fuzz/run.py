"""Flip bits and cut files, thousands of times: the answer is an error of episome, or right.

    python tests/fuzz/run.py --cases 2000 --seed 0

Every case is read in a child of one warm process, with limits of memory and time. Its outcome:

``refused``
    an error of the family in ``episome.errors``;
``same``
    what was read and every call are those of the clean file;
``warned``
    something was said, and the run went on;
``silent``
    another value was read, and nothing could tell: the place has no checksum. Calls may differ;
``WRONG``
    a model folder, which has checksums, gave other calls;
``BARE``, ``CRASH``, ``HANG``, ``CODE``
    an exception that is not of the family, a signal, too much time, code that the file brought.

The outcomes in capitals are failures; there must be none.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import anndata
import numpy as np
import pandas as pd
import zarr

from episome import get_model
from episome.data import AnnDataSource, _read_hdf5, inspect, read_cells, simulate_cells
from episome.errors import EpisomeError, EpisomeWarning
from episome.inference import Predictor

FAILURES = ("WRONG", "BARE", "CRASH", "HANG", "CODE")
OUTCOMES = ("refused", "same", "warned", "silent", *FAILURES)
CPU_SECONDS = 20
WALL_SECONDS = 120
EXTRA_MEMORY = 2 << 30
SHARE_CUT = 0.2
#: What no reader of data has a reason to do.
FORBIDDEN = frozenset(
    {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"}
    | {"socket.connect", "shutil.rmtree", "os.remove", "os.rename"}
)


@dataclass(frozen=True, slots=True)
class Target:
    """Something that is damaged and read again.

    ``read`` gives a digest of all that was read, and one of the calls. ``sealed``: checksums
    cover all of it, so a difference is a failure.
    """

    path: Path
    read: Callable[[Path, int], tuple[str, str]]
    sealed: bool = False

    def files(self) -> list[Path]:
        """What can be damaged."""
        if self.path.is_file():
            return [self.path]
        return sorted(p for p in self.path.rglob("*") if p.is_file())


@dataclass(slots=True)
class Result:
    """Outcomes of one target."""

    counts: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    #: Cases whose calls differ and nothing could tell.
    differing: list[str] = field(default_factory=list)


# -- what is damaged -----------------------------------------------------------------------------


def make_cells() -> anndata.AnnData:
    """Cells with everything that a file holds."""
    adata = simulate_cells(60, 40, n_types=3)
    adata.layers["dense"] = adata.X.toarray()
    adata.obs["score"] = np.arange(60.0)
    adata.obs["flag"] = pd.array([True, False, None] * 20, dtype="boolean")
    adata.obsm["X_pca"] = np.ones((60, 3), np.float32)
    adata.uns["info"] = {"n": 3, "text": "a", "list": np.array(["a", "b"])}
    adata.raw = adata.copy()
    return adata


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Warnings of other libraries are not what is looked for here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make_targets(folder: Path) -> dict[str, Target]:
    """Write the clean files and the model that calls their cells."""
    adata = make_cells()
    with quiet():
        cls = get_model("centroid")
        reference = adata.copy()
        cls.setup_anndata(reference, labels_key="cell_type")
        model = cls(reference)
        model.train()
        model.save(folder / "model")
        adata.write_h5ad(folder / "plain.h5ad")
        adata.write_h5ad(folder / "gzip.h5ad", compression="gzip")
        for version in (2, 3):
            group = zarr.open_group(folder / f"cells{version}.zarr", mode="w", zarr_format=version)
            anndata.io.write_elem(group, "/", adata)
            zarr.consolidate_metadata(group.store)
    predictor = Predictor.from_folder(folder / "model", device="cpu")

    def read_data(path: Path, number: int) -> tuple[str, str]:
        got = read_cells(path, backed=bool(number % 2))
        content, calls = digest(got), call(predictor, got)
        inspect(got)
        return content, calls

    def read_model(path: Path, number: int) -> tuple[str, str]:
        calls = call(Predictor.from_folder(path, device="cpu"), adata)
        return calls, calls

    return {
        "h5ad": Target(folder / "plain.h5ad", read_data),
        "h5ad, gzip": Target(folder / "gzip.h5ad", read_data),
        "zarr 2": Target(folder / "cells2.zarr", read_data),
        "zarr 3": Target(folder / "cells3.zarr", read_data),
        "model folder": Target(folder / "model", read_model, sealed=True),
    }


def call(predictor: Predictor, adata: anndata.AnnData) -> str:
    """Digest of the calls of all cells, in both matrices."""
    out = []
    for use_raw in (False, True):
        source = AnnDataSource(adata, use_raw=use_raw)
        out.append(predictor.annotate(predictor.prepare(source))["label"].to_csv(index=False))
    return sha("".join(out))


def digest(adata: anndata.AnnData) -> str:
    """Digest of everything that a user could look at."""
    parts = [adata.obs.to_csv(), adata.var.to_csv(), repr(adata.uns)]
    everything = slice(0, adata.n_obs)
    for keys in ({}, {"use_raw": True}, {"layer": "dense"}):
        block = AnnDataSource(adata, **keys).read(everything)
        parts += [block.data.tobytes(), block.indices.tobytes(), block.indptr.tobytes()]
    parts += [np.asarray(adata.obsm[k]).tobytes() for k in sorted(adata.obsm)]
    parts.append(adata.raw.var.to_csv())
    return sha(*parts)


def sha(*parts: str | bytes) -> str:
    """Digest of texts and bytes."""
    out = hashlib.sha256()
    for part in parts:
        out.update(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
    return out.hexdigest()


# -- one case ------------------------------------------------------------------------------------


def damage(target: Target, place: Path, rng: random.Random) -> str:
    """Copy a target to ``place`` with one fault, and say which."""
    if target.path.is_dir():
        shutil.copytree(target.path, place)
    else:
        shutil.copy(target.path, place)
    files = target.files()
    sizes = [p.stat().st_size for p in files]
    # Half by size, so that every bit counts the same, and half by file: the small ones matter.
    weights = sizes if rng.random() < 0.5 else [int(s > 0) for s in sizes]
    chosen = rng.choices(files, weights)[0]
    path = place / chosen.relative_to(target.path) if target.path.is_dir() else place
    name = "/".join(chosen.relative_to(target.path.parent).parts)
    data = bytearray(path.read_bytes())
    if rng.random() < SHARE_CUT:
        n = rng.randrange(len(data))
        path.write_bytes(data[:n])
        return f"{name} cut at {n}"
    bit = rng.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return f"{name} bit {bit}"


def outcome(target: Target, place: Path, number: int, clean: tuple[str, str]) -> dict[str, object]:
    """Read a damaged target in a child and say what came of it."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        try:
            answer = in_child(target, place, number, clean)
            os.write(write_end, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        slow = number in (signal.SIGXCPU, signal.SIGALRM)
        return {"outcome": "HANG" if slow else "CRASH", "why": signal.Signals(number).name}
    return json.loads(data) if data else {"outcome": "CRASH", "why": "no answer"}


def in_child(
    target: Target, place: Path, number: int, clean: tuple[str, str]
) -> dict[str, object]:
    """Read with limits; everything that is raised becomes an answer."""
    faulthandler.disable()
    seen: list[str] = []
    sys.addaudithook(lambda event, args: seen.append(event) if event in FORBIDDEN else None)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit + EXTRA_MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (used + CPU_SECONDS, used + 2 * CPU_SECONDS))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(WALL_SECONDS)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            content, calls = target.read(place, number)
        except EpisomeError as error:
            answer: dict[str, object] = {"outcome": "refused", "code": error.code}
        except BaseException as error:  # noqa: BLE001 - what is raised is what is measured
            where = traceback.extract_tb(error.__traceback__)
            ours = [f for f in where if "episome" in f.filename] or where
            at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
            answer = {"outcome": "BARE", "why": f"{type(error).__name__} at {at}: {error!s:.120}"}
        else:
            answer = compare(target, (content, calls), clean)
            if answer["outcome"] == "silent" and any(
                issubclass(w.category, EpisomeWarning) for w in said
            ):
                answer["outcome"] = "warned"
    if seen:
        return {"outcome": "CODE", "why": ", ".join(sorted(set(seen)))}
    return answer


def compare(target: Target, got: tuple[str, str], clean: tuple[str, str]) -> dict[str, object]:
    """Say whether what was read is what it should be."""
    if got == clean:
        return {"outcome": "same"}
    if target.sealed:
        return {"outcome": "WRONG", "why": "other calls"}
    return {"outcome": "silent", "calls_differ": got[1] != clean[1]}


# -- all cases -----------------------------------------------------------------------------------


def fuzz(cases: int, seed: int, folder: Path) -> dict[str, Result]:
    """Run cases, the same number of every target, and count what came of them."""
    logging.getLogger("episome").setLevel(logging.ERROR)
    _read_hdf5.LOCK_SECONDS = 0.2
    targets = make_targets(folder)
    with quiet():
        clean = {name: [t.read(t.path, n) for n in (0, 1)] for name, t in targets.items()}
    results = {name: Result() for name in targets}
    for number in range(cases):
        name = list(targets)[number % len(targets)]
        target, result = targets[name], results[name]
        turn = number // len(targets)
        place = folder / f"case{target.path.suffix}"
        what = damage(target, place, random.Random(seed * 1_000_003 + number))
        answer = outcome(target, place, turn, clean[name][turn % 2])
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
        result.counts[str(answer["outcome"])] += 1
        if "code" in answer:
            result.codes[str(answer["code"])] += 1
        on = " on disk" if turn % 2 else ""
        if answer["outcome"] in FAILURES:
            line = f"{answer['outcome']} case {number} {name}{on}, {what}: {answer.get('why')}"
            result.failures.append(line)
        if answer.get("calls_differ"):
            result.differing.append(f"other calls, case {number} {name}{on}, {what}")
    return results


def table(results: dict[str, Result]) -> str:
    """Outcomes as text, one line per target."""
    rows = [["target", "cases", *OUTCOMES, "calls differ", "codes"]]
    for name, result in results.items():
        codes = " ".join(f"{c}:{n}" for c, n in result.codes.most_common(6))
        rows.append(
            [
                name,
                str(sum(result.counts.values())),
                *(str(result.counts[o]) for o in OUTCOMES),
                str(len(result.differing)),
                codes,
            ]
        )
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f.ljust(w) for f, w in zip(r, widths, strict=True)).rstrip() for r in rows
    )


def main() -> int:
    """Run from the command line; the exit code says whether there was a failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        results = fuzz(options.cases, options.seed, Path(folder))
    failures = [line for result in results.values() for line in result.failures]
    for line in failures + [line for result in results.values() for line in result.differing]:
        sys.stdout.write(f"{line}\n")
    seconds = time.perf_counter() - start
    sys.stdout.write(f"{table(results)}\n{len(failures)} failures, {seconds:.0f} s\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
