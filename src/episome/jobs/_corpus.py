"""Build, describe, verify and split a corpus: many cells on disk in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from episome.data import (
    Condition,
    CorpusInput,
    CorpusOptions,
    CorpusSource,
    build_corpus,
    check_corpus_inputs,
    check_corpus_output,
    check_readable,
    curation_of,
    nested_subsets,
    plan_corpus,
    split_by_groups,
    unfinished_corpus,
    verify_corpus,
)
from episome.errors import EpisomeError, InputDataError, InputFileError, Problem
from episome.io import ensure_free, is_corpus, read_corpus_manifest, write_file
from episome.log import get_logger

if TYPE_CHECKING:
    from episome.data import CorpusPlan

logger = get_logger(__name__)

#: Shares of the training donors and cells that a preset writes subsets of.
PRESET_SUBSETS = (0.15, 0.3, 0.5, 0.7)
#: Columns whose composition ``corpus info`` draws, where they exist; labels and donors besides.
DRAWN = ("tissue_general", "tissue", "assay", "disease", "corpus_input")


@dataclass(frozen=True, slots=True)
class CorpusRequest:
    """What ``episome corpus build`` is asked for.

    Parameters
    ----------
    inputs
        Files of cells; never changed.
    output
        Folder of the corpus.
    labels_key, donor_keys, columns, where, join, duplicates, min_gene_overlap, shuffle_seed
        See ``episome.data.CorpusOptions``.
    preset, rules
        Name of a curation and changes to it, see ``episome.data.curation_of``. A preset names
        labels and donors by the CELLxGENE schema where these are not given.
    layer, use_raw
        Where the counts are; default the first slot that holds some.
    max_memory
        Bytes that blocks of cells may take while they are sorted, beside about 48 for every
        cell of the corpus; what of an input must be read at once (tables of cells, or all of it
        where it is no h5ad or zarr) has to fit too. Default 1 GiB for the blocks.
    overwrite
        Replace a corpus that is there.
    resume
        ``"never"`` starts anew where an unfinished one is found.
    dry_run
        Check everything and write nothing.
    trust
        Of ``episome.data.read_cells``.
    """

    inputs: tuple[Path, ...]
    output: Path
    labels_key: str | None = None
    donor_keys: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    where: tuple[str, ...] = ()
    preset: str | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)
    join: Literal["outer", "inner"] = "outer"
    duplicates: Literal["error", "sum"] = "error"
    min_gene_overlap: float = 0.5
    shuffle_seed: int | None = None
    layer: str | None = None
    use_raw: bool = False
    max_memory: int | None = None
    overwrite: bool = False
    resume: Literal["auto", "never"] = "auto"
    dry_run: bool = False
    trust: bool = False

    @property
    def options(self) -> CorpusOptions:
        """The same, for the data."""
        # About four blocks are in use while one is sorted.
        memory = {} if self.max_memory is None else {"max_memory": self.max_memory // 4}
        return CorpusOptions(
            labels_key=self.labels_key or ("cell_type" if self.preset else None),
            donor_keys=self.donor_keys or (("donor_id",) if self.preset else ()),
            columns=self.columns,
            curation=curation_of(self.preset, **self.rules),
            where=tuple(Condition.parse(text) for text in self.where),
            join=self.join,
            duplicates=self.duplicates,
            min_gene_overlap=self.min_gene_overlap,
            seed=self.shuffle_seed,
            **memory,
        )


@dataclass(frozen=True, slots=True)
class CorpusResult:
    """What ``episome corpus build`` did, or would do.

    Parameters
    ----------
    output
        Folder of the corpus; ``None`` after a dry run.
    n_obs, n_vars
        Cells and genes.
    disk
        Bytes of the corpus; before it is written an estimate.
    notes
        A line about every input.
    inputs
        Name, SHA-256 and size of every input.
    splits
        Files of the split and subsets that a preset writes, the whole split first.
    """

    output: Path | None
    n_obs: int
    n_vars: int
    disk: int
    notes: tuple[str, ...]
    inputs: list[dict[str, object]]
    splits: tuple[Path, ...] = ()


def corpus_build(
    request: CorpusRequest, *, progress: Callable[[str, int, int], None] | None = None
) -> CorpusResult:
    """Build a corpus; every input is checked before anything is written.

    Parameters
    ----------
    request
        What to do.
    progress
        Called with what is done, how much of it is, and how much there is.

    Raises
    ------
    EpisomeError
        Of the family in ``episome.errors``: problems of all inputs at once. Nothing is written
        then.
    """
    inputs = _inputs(request)
    options = request.options
    unfinished = unfinished_corpus(request.output)
    # A run that was stopped at its very end left the corpus: whether it is this one is seen later.
    ended = unfinished is not None and is_corpus(request.output)
    check_corpus_output(request.output, overwrite=request.overwrite or ended)
    known = unfinished if request.resume == "auto" else None
    checked = check_corpus_inputs(
        inputs,
        duplicates=request.duplicates,
        required=options.required,
        known=known,
        progress=None if progress is None else lambda done, n: progress("checking", done, n),
    )
    plan = plan_corpus(inputs, checked, options)
    if request.dry_run:
        return _result(plan, None, plan.disk)
    build_corpus(
        plan,
        request.output,
        overwrite=request.overwrite,
        resume=request.resume == "auto",
        progress=progress,
    )
    splits = _preset_splits(request) if request.preset else ()
    return _result(plan, request.output, folder_size(request.output), splits)


def _preset_splits(request: CorpusRequest) -> tuple[Path, ...]:
    """Write the split by donor and the subsets of the paper beside the corpus."""
    wanted = SplitRequest(
        request.output,
        request.output.with_name(f"{request.output.name}.splits") / "split.json",
        by=request.donor_keys,
        seed=request.shuffle_seed,
        subsets=PRESET_SUBSETS,
        # Named after the corpus, so that it is of this one or of one that is replaced.
        overwrite=True,
    )
    try:
        wanted.output.parent.mkdir(exist_ok=True)
        return tuple(corpus_split(wanted))
    except InputDataError as error:
        logger.warning(
            "the corpus is complete and was not split: %s. Split it by other columns or sizes "
            "with `episome corpus split`",
            error.problems[0].what,
        )
        return ()


def _inputs(request: CorpusRequest) -> list[CorpusInput]:
    """Look for every input; what is wrong with any is said at once."""
    problems: list[Problem] = []
    for path in request.inputs:
        try:
            check_readable(path)
        except EpisomeError as error:
            problems += error.problems
    if problems:
        raise InputFileError(problems)
    return [
        CorpusInput(path, request.layer, request.use_raw, request.max_memory, request.trust)
        for path in request.inputs
    ]


def _result(
    plan: CorpusPlan, output: Path | None, disk: int, splits: tuple[Path, ...] = ()
) -> CorpusResult:
    inputs: list[dict[str, object]] = [
        {
            "path": str(i.source.path),
            "sha256": i.checked.sha256,
            "n_obs": i.checked.n_obs,
            "n_vars": i.checked.n_vars,
        }
        for i in plan.inputs
    ]
    return CorpusResult(output, plan.n_obs, plan.n_vars, disk, plan.notes, inputs, splits)


def folder_size(path: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """What a corpus holds.

    Parameters
    ----------
    path
        Its folder.
    n_obs, n_vars, n_stored
        Cells, genes, and counts above zero.
    disk
        Bytes on disk.
    columns
        Columns of the cell table.
    labels_key, donor_keys
        Those with labels and donors.
    shuffle_seed
        Seed of the order.
    inputs
        Where the cells came from.
    composition
        Cells by value, for the columns worth a picture, most cells first.
    """

    path: Path
    n_obs: int
    n_vars: int
    n_stored: int
    disk: int
    columns: tuple[str, ...]
    labels_key: str | None
    donor_keys: tuple[str, ...]
    shuffle_seed: int
    inputs: list[dict[str, Any]]
    composition: dict[str, dict[str, int]]


def corpus_info(path: Path) -> CorpusFacts:
    """Describe a corpus; its records are not read.

    Raises
    ------
    InputFileError
        It is no corpus or is damaged (E-F30 to E-F32).
    """
    source = CorpusSource(path)
    manifest = source.manifest
    donors = source.donor_keys or ("donor_id",)
    labels = source.labels_key or "cell_type"
    wanted = [c for c in dict.fromkeys((labels, *donors, *DRAWN)) if c in source.obs_columns]
    return CorpusFacts(
        path=path,
        n_obs=source.n_obs,
        n_vars=source.n_vars,
        n_stored=int(manifest["n_stored"]),
        disk=folder_size(path),
        columns=tuple(source.obs_columns),
        labels_key=source.labels_key,
        donor_keys=source.donor_keys,
        shuffle_seed=int(manifest["shuffle_seed"]),
        inputs=list(manifest["inputs"]),
        composition={c: _counts(source, c) for c in wanted},
    )


def _counts(source: CorpusSource, column: str) -> dict[str, int]:
    counts = source.obs_column(column).value_counts(dropna=False)
    return {str(k): int(v) for k, v in counts.items() if v}


@dataclass(frozen=True, slots=True)
class CorpusVerdict:
    """What ``episome corpus verify`` found: ``problems`` is empty where all is well."""

    path: Path
    n_files: int
    n_obs: int
    problems: tuple[Problem, ...]


def corpus_verify(
    path: Path, *, progress: Callable[[int, int], None] | None = None
) -> CorpusVerdict:
    """Compare every byte of a corpus with its checksum, and read everything in it.

    Raises
    ------
    InputFileError
        There is no corpus (E-F30), or its manifest cannot be read (E-F31, E-F32).
    """
    manifest = read_corpus_manifest(path)
    problems = verify_corpus(path, progress=progress)
    return CorpusVerdict(path, len(manifest["files"]), int(manifest["n_obs"]), tuple(problems))


@dataclass(frozen=True, slots=True)
class SplitRequest:
    """What ``episome corpus split`` is asked for.

    Parameters
    ----------
    corpus
        Folder of the corpus.
    output
        JSON file to write.
    by
        Columns that name a group together; default the donors of the corpus.
    sizes
        Shares of training, validation and test.
    labels_key
        Column whose values keep a training cell each; default the labels of the corpus.
    seed
        Default ``episome.settings.seed``.
    subsets
        Shares of the training groups and cells of nested subsets, which are written beside
        ``output``; see ``episome.data.nested_subsets``.
    overwrite
        Replace existing files.
    """

    corpus: Path
    output: Path
    by: tuple[str, ...] = ()
    sizes: tuple[float, ...] = (0.7, 0.15, 0.15)
    labels_key: str | None = None
    seed: int | None = None
    subsets: tuple[float, ...] = ()
    overwrite: bool = False


def corpus_split(request: SplitRequest) -> dict[Path, dict[str, Any]]:
    """Split a corpus so that no group stands on two sides, and write the split and its subsets.

    Returns
    -------
    What was written by file, the whole split first; see ``episome.data.split_by_groups``.

    Raises
    ------
    EpisomeError
        Of the family in ``episome.errors``; nothing is written then.
    """
    ensure_free(request.output, overwrite=request.overwrite)
    source = CorpusSource(request.corpus)
    split = split_by_groups(
        source,
        request.by or source.donor_keys or ("donor_id",),
        sizes=request.sizes,
        labels_key=request.labels_key or source.labels_key,
        seed=request.seed,
    )
    made = {request.output: split}
    for name, subset in nested_subsets(source, split, request.subsets).items():
        made[request.output.with_suffix(f".{name}{request.output.suffix}")] = subset
    for path in made:
        ensure_free(path, overwrite=request.overwrite)
    for path, content in made.items():
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_file(path, text.encode(), overwrite=request.overwrite)
    return made
