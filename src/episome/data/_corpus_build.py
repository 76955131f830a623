"""Making a corpus: cells are sorted into shards at random, then each shard into its order.

Memory is bounded: a few blocks of cells, one shard's index, and about 48 bytes per cell for the
order. Any moment may be the last: what is complete is in a small file that is replaced at once,
and the next run of the same plan goes on from there and ends with the same bytes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import sparse

from episome.data._compiled import offsets_of
from episome.data._corpus_plan import plain_inputs
from episome.data._corpus_records import encode, gather
from episome.data._corpus_source import GENES, MEASURED
from episome.data._corpus_tables import write_columns, write_names, write_parts
from episome.data._corpus_work import State, WorkFolder, array_bytes
from episome.errors import InputDataError, InputFileError, ResourceError
from episome.io._atomic import adopt_folder, disk_errors, ensure_free, sync
from episome.io._corpus import (
    corpus_manifest_files,
    is_corpus,
    path_stamp,
    read_corpus_manifest,
)
from episome.io._json import dumps
from episome.log import get_logger

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._corpus_plan import CorpusPlan, PlannedInput
    from episome.data._source import CellSource

logger = get_logger(__name__)

#: Called with what is done, how many of the cells are, and how many there are.
BuildProgress: TypeAlias = "Callable[[str, int, int], None]"
#: One cell in the index of a shard: its place there, stored values, bytes.
_ENTRY = np.dtype([("place", "<u4"), ("stored", "<u4"), ("size", "<u4")])
_WRITE_BYTES = 64 << 20


def build_corpus(
    plan: CorpusPlan,
    output: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = True,
    save_seconds: float = 30.0,
    progress: BuildProgress | None = None,
) -> Path:
    """Write the corpus that a plan describes.

    Parameters
    ----------
    plan
        What it holds.
    output
        Folder to write. It appears when it is complete, and not before; until then the work is in
        a folder beside it whose name starts with a dot.
    overwrite
        Replace a corpus that is there.
    resume
        Go on where a run of the same plan stopped; ``False`` starts anew.
    save_seconds
        How often what is sorted is flushed to disk: the most that a kill can lose.
    progress
        Called while cells are sorted, and while shards are written.

    Returns
    -------
    The folder.

    Raises
    ------
    InputFileError
        The output exists (E-F26), cannot be written (E-F27), or an input changed (E-F16).
    ResourceError
        The disk is full (E-R02), or another program makes the same corpus (E-R05).
    """
    output = Path(output)
    work = WorkFolder(output)
    if is_corpus(output) and read_corpus_manifest(output).get("plan") == plan.digest:
        logger.info("%s is this corpus already", output)
        shutil.rmtree(work.path, ignore_errors=True)
        return output
    check_corpus_output(output, overwrite=overwrite)
    if not resume or work.load(plan.digest) is None:
        _require_room(plan, output)
    with disk_errors(output), work.locked():
        state = work.load(plan.digest) if resume else None
        if state is None:
            state = work.begin(plan.digest, plan.n_shards)
        else:
            logger.info("going on with %s", output)
        known = {str(i.source.path.resolve()): i.checked.to_json() for i in plan.inputs}
        work.keep_inputs(known)
        _Builder(plan, work, state, save_seconds, progress).run()
        adopt_folder(work.done, output, overwrite=overwrite)
        work.remove()
    return output


def unfinished_corpus(output: str | Path) -> dict[str, Any] | None:
    """Return what an unfinished run found out about its inputs, or ``None`` where there is none.

    :func:`check_corpus_inputs` takes it as ``known``.
    """
    work = WorkFolder(Path(output))
    return work.known_inputs() if work.path.exists() else None


def check_corpus_output(output: Path, *, overwrite: bool) -> None:
    """Check before any work that a corpus can be written to ``output``.

    Raises
    ------
    InputFileError
        Something is there that is no corpus, or is one and ``overwrite`` is false (E-F26); the
        place cannot be written (E-F27).
    """
    ensure_free(output, overwrite=overwrite)
    other = output.is_file() or (output.is_dir() and any(output.iterdir()))
    if other and not is_corpus(output):
        raise InputFileError(
            "E-F26",
            "the output exists and is no corpus",
            where=str(output),
            why="only a corpus is replaced by one",
            fix="choose another place",
        )


def _require_room(plan: CorpusPlan, output: Path) -> None:
    free = shutil.disk_usage(output.parent).free
    if free < plan.disk:
        raise ResourceError(
            "E-R02",
            "too little room on the disk",
            where=str(output.parent),
            why=f"about {plan.disk / 1e9:,.1f} GB are needed and {free / 1e9:,.1f} GB are free",
            fix="free space, or choose another place",
        )


class _Builder:
    def __init__(
        self,
        plan: CorpusPlan,
        work: WorkFolder,
        state: State,
        save_seconds: float,
        progress: BuildProgress | None,
    ) -> None:
        self.plan, self.work, self.state = plan, work, state
        self.save_seconds = save_seconds
        self.say: BuildProgress = progress or (lambda what, done, total: None)
        self.places = plan.order()
        self.touched: set[Path] = set()

    def run(self) -> None:
        """Do what is left to do."""
        self._write_parts()
        self._sort()
        for number in range(len(self.state.shards), self.plan.n_shards):
            self._write_shard(number)
            self.say("writing", sum(s["n_obs"] for s in self.state.shards), self.plan.n_obs)
        self._finish()

    def _write_parts(self) -> None:
        for number in range(self.state.tables, len(self.plan.inputs)):
            write_parts(self.plan, number, self.work.parts)
            self.state.tables = number + 1
            self.work.save(self.state)

    # -- sorting into shards ---------------------------------------------------------------------

    def _sort(self) -> None:
        before = 0
        for number, one in enumerate(self.plan.inputs):
            if number >= self.state.input:
                self._sort_input(number, one, before)
            before += len(one.rows)

    def _sort_input(self, number: int, one: PlannedInput, before: int) -> None:
        saved = time.monotonic()
        start = self.state.row
        with one.source.opened() as source:
            for first, rows in _blocks(one, start, self.plan.options.max_memory):
                block = _aligned(_read(source, rows), one.targets, self.plan.n_vars, source.where)
                places = self.places[before + first : before + first + len(rows)]
                self._append(block, places)
                self.state.row = first + len(rows)
                self.say("sorting", before + self.state.row, self.plan.n_obs)
                if time.monotonic() - saved >= self.save_seconds:
                    self._save_sorted()
                    saved = time.monotonic()
        _require_unchanged(one)
        self.state.input, self.state.row = number + 1, 0
        self._save_sorted()

    def _append(self, block: sparse.csr_matrix, places: NDArray[np.int64]) -> None:
        """Add the records of a block to the shards that their places belong to."""
        records, offsets = encode(block)
        shard, local = np.divmod(places, self.plan.shard_cells)
        order = np.argsort(shard, kind="stable")
        sizes = np.diff(offsets)
        sorted_records = gather(records, offsets[:-1][order], sizes[order])
        entries = np.empty(len(places), dtype=_ENTRY)
        entries["place"], entries["stored"] = local[order], np.diff(block.indptr)[order]
        entries["size"] = sizes[order]
        ends = offsets_of(sizes[order])
        cuts = np.searchsorted(shard[order], np.arange(self.plan.n_shards + 1))
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            a, b = int(cuts[number]), int(cuts[number + 1])
            kept = self.state.sizes[number]
            for which, data in enumerate((sorted_records[ends[a] : ends[b]], entries[a:b])):
                self._write_at(self._bucket(number)[which], kept[which], data)
                kept[which] += data.nbytes

    def _bucket(self, number: int) -> tuple[Path, Path]:
        name = self.work.parts / f"{number:05d}"
        return name.with_suffix(".records"), name.with_suffix(".index")

    def _write_at(self, file: Path, at: int, data: NDArray[Any]) -> None:
        # What a killed run wrote after its last saved state is written over.
        with file.open("r+b" if at or file.exists() else "wb") as handle:
            handle.seek(at)
            handle.write(data.tobytes())
        self.touched.add(file)

    def _save_sorted(self) -> None:
        for file in self.touched:
            sync(file)
        self.touched.clear()
        self.work.save(self.state)

    # -- writing shards --------------------------------------------------------------------------

    def _write_shard(self, number: int) -> None:
        records_file, index_file = self._bucket(number)
        size, index_size = self.state.sizes[number]
        entries = np.fromfile(index_file, dtype=_ENTRY, count=index_size // _ENTRY.itemsize)
        order = np.argsort(entries["place"], kind="stable")
        sizes = entries["size"].astype(np.int64)
        starts, sizes = offsets_of(sizes)[:-1][order], sizes[order]
        name = f"{number:05d}"
        empty = np.empty(0, dtype=np.uint8)
        records = np.memmap(records_file, np.uint8, "r", shape=(size,)) if size else empty
        with self.work.storing(f"shards/{name}.records") as (write, entry):
            for part in _parts_of(sizes, _WRITE_BYTES):
                write(gather(records, starts[part], sizes[part]))
        indptr = offsets_of(entries["stored"].astype(np.int64)[order])
        files = {f"shards/{name}.records": entry}
        for kind, array in (("places", offsets_of(sizes)), ("indptr", indptr)):
            file = f"shards/{name}.{kind}.npy"
            files[file] = self.work.store(file, array_bytes(array.astype("<i8")))
        facts = {"name": name, "n_obs": len(entries), "n_stored": int(indptr[-1])}
        self.state.shards.append(facts)
        self.state.files.update(files)
        self.work.save(self.state)
        del records
        records_file.unlink(missing_ok=True)
        index_file.unlink(missing_ok=True)

    # -- the rest --------------------------------------------------------------------------------

    def _finish(self) -> None:
        files = dict(self.state.files)
        files |= write_columns(self.plan, self.places, self.work)
        files |= write_names(self.plan, self.places, self.work)
        files[GENES] = self.work.store(GENES, dumps(self.plan.genes))
        files[MEASURED] = self.work.store(MEASURED, array_bytes(self.plan.measured))
        for name, data in corpus_manifest_files(self._manifest(files)).items():
            self.work.store(name, data)

    def _manifest(self, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
        plan = self.plan
        return {
            "plan": plan.digest,
            "n_obs": plan.n_obs,
            "n_vars": plan.n_vars,
            "n_stored": sum(s["n_stored"] for s in self.state.shards),
            "modality": "rna",
            "labels_key": plan.options.labels_key,
            "donor_keys": list(plan.options.donor_keys),
            "join": plan.options.join,
            "shuffle_seed": plan.seed,
            "inputs": plain_inputs(plan),
            "shards": self.state.shards,
            "provenance": {"versions": {"episome": version("episome")}},
            "files": files,
        }


def _blocks(
    one: PlannedInput, start: int, max_memory: int
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the place and the row numbers of blocks whose cells fit into the memory."""
    stored = one.checked.n_stored / max(one.checked.n_obs, 1)
    # A dense matrix is read dense; of a sparse one a few copies are in use at a time.
    n = int(np.clip(max_memory / max(32 * stored, 4 * one.checked.n_vars, 1), 16, 1 << 16))
    for first in range(start, len(one.rows), n):
        yield first, one.rows[first : first + n]


def _read(source: CellSource, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    span = int(rows[-1] - rows[0]) + 1
    if span > 4 * len(rows):
        return source.read(rows)
    # Rows that lie close are read as one run: stores on disk are slow at single ones.
    block = source.read(slice(int(rows[0]), int(rows[0]) + span))
    return block if span == len(rows) else block[rows - rows[0]]


def _aligned(
    block: sparse.csr_matrix, targets: NDArray[np.int64], n_vars: int, where: str
) -> sparse.csr_matrix:
    """Return a block with the genes of the corpus, without stored zeros."""
    kept = (targets[block.indices] >= 0) & (block.data != 0)
    ends = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum(kept, out=ends[1:])
    out = sparse.csr_matrix(
        (block.data[kept], targets[block.indices[kept]], ends[block.indptr]),
        shape=(block.shape[0], n_vars),
    )
    out.sum_duplicates()
    if not np.isfinite(out.data).all():
        raise InputDataError("E-D01", "values that are no numbers", where=where)
    return out


def _parts_of(sizes: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Yield runs of records of about ``most`` bytes."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        base = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, base + most, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


def _require_unchanged(one: PlannedInput) -> None:
    if path_stamp(one.source.path) != one.checked.stamp:
        raise InputFileError(
            "E-F16",
            "the file changed while it was read",
            where=one.checked.name,
            fix="wait until nothing writes to it, and run the command again",
        )
