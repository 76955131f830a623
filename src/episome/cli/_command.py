"""What every command shares: its options, its state, and how it answers."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

import click

from episome import settings
from episome.cli._config import config_text, merged_config, read_config
from episome.errors import EpisomeError, EpisomeWarning, InputFileError, UsageError
from episome.log import configure, get_logger

if TYPE_CHECKING:
    from episome.jobs import Run

__all__ = [
    "MODEL",
    "NO_DIFFERENCE",
    "Outcome",
    "State",
    "WithInput",
    "answer",
    "cell_options",
    "command_options",
    "examples",
    "global_options",
    "file_options",
    "gene_options",
    "machine_options",
    "made_before",
    "remembered",
    "run_command",
    "running",
    "runs_text",
    "state_of",
    "value_options",
]

#: Options that change nothing in a result.
NO_DIFFERENCE = frozenset({"overwrite", "threads", "max_memory", "trust"})

#: Reasons of failures that are printed; all are in the report.
_REASONS = 5

#: State of the command that runs, for the message about whatever ends it.
running: list[State] = []

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class State:
    """Options that every command has, and what it has to say about its inputs so far.

    Parameters
    ----------
    command
        Name of the command that runs.
    json
        Whether the answer is one JSON object.
    verbosity
        Below zero quiet, above zero more.
    debug
        Whether tracebacks are shown.
    log_file
        File that receives the log.
    progress
        Whether progress is shown.
    inputs, outputs, warnings
        What the JSON object lists, also after a failure.
    stdout
        The real standard output while a command runs; see :func:`run_command`.
    resumable
        Whether the command goes on where it was interrupted when it is given again.
    offline
        Whether a connection is refused.
    print_config
        Whether the values of all options are answered instead of doing anything.
    run_folder
        Folder that keeps the record and the log of the run.
    """

    command: str = ""
    json: bool = False
    verbosity: int = 0
    debug: bool = False
    log_file: Path | None = None
    progress: bool = True
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    warnings: list[Any] = field(default_factory=list)
    stdout: IO[str] | None = None
    resumable: bool = False
    offline: bool = False
    print_config: bool = False
    run_folder: Path | None = None


@dataclass(slots=True)
class Outcome:
    """What a command answers.

    Parameters
    ----------
    text
        What is printed on standard output without ``--json``.
    inputs, outputs
        Files that were read and written: paths, or objects with ``path`` and more.
    warnings
        What was repaired or looks wrong, beyond the warnings that were issued.
    metrics, timings
        Numbers; seconds.
    data
        Further keys of the JSON object.
    exit_code
        0, or the code of a gate that was not met.
    error
        What a command that reports problems found; its exit code counts then.
    """

    text: str = ""
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    warnings: list[Any] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0
    error: EpisomeError | None = None

    def __post_init__(self) -> None:
        if self.error is not None:
            self.exit_code = self.error.exit_code

    @classmethod
    def of(cls, value: object) -> Outcome:
        """Make an outcome of what a command's function returned."""
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            names = set(cls.__slots__) - {"data"}
            known = {k: v for k, v in value.items() if k in names}
            extra = {k: v for k, v in value.items() if k not in names}
            return cls(**known, data=extra)
        return cls(text="" if value is None else str(value))


def made_before(run: Run, *, overwrite: bool) -> Outcome | None:
    """Return the answer of the same command, where it made the output from the same inputs.

    Parameters
    ----------
    run
        The command and its inputs.
    overwrite
        The output is to be made again.
    """
    answer = None if overwrite else run.answer()
    if answer is None:
        return None
    text = "%s was made by this command from these inputs: nothing is done, see --overwrite"
    get_logger("cli").info(text, run.output)
    kept = {k: answer[k] for k in ("text", "outputs", "metrics", "data") if k in answer}
    outcome = Outcome(**kept)
    outcome.data["repeated"] = True
    return outcome


def remembered(run: Run | None, outcome: Outcome) -> Outcome:
    """Keep the answer for the same command again, and return it."""
    if run is not None:
        fields = ("text", "outputs", "metrics", "data")
        run.remember(json.loads(dumps({k: getattr(outcome, k) for k in fields})))
    return outcome


def runs_text(
    counts: Mapping[str, int], missing: Mapping[str, str], reasons: Sequence[str]
) -> list[str]:
    """Return the lines on how the runs of a study ended.

    Parameters
    ----------
    counts
        Runs by how they ended.
    missing
        What took no part, with its reason.
    reasons
        Why runs did not end well, each once; the first five are told.
    """
    ended = ", ".join(f"{n:,} {status}" for status, n in sorted(counts.items()))
    lines = [f"  {sum(counts.values()):,} runs: {ended}"]
    lines += [f"  {name} took no part: {why}" for name, why in missing.items()]
    lines += [f"  {why}" for why in reasons[:_REASONS]]
    if (more := len(reasons) - _REASONS) > 0:
        lines.append(f"  and {more:,} more reasons: see the report")
    return lines


def state_of(ctx: click.Context) -> State:
    """Return the state of this run."""
    root = ctx.find_root()
    if not isinstance(root.obj, State):
        root.obj = State()
    return root.obj


def _store(
    name: str, convert: Callable[[Any], Any] = lambda v: v
) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value not in (None, False, 0) and not ctx.resilient_parsing:
            setattr(state_of(ctx), name, convert(value))

    return callback


def _louder(ctx: click.Context, _: click.Parameter, value: int) -> None:
    state_of(ctx).verbosity += value


def _quieter(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if value:
        state_of(ctx).verbosity = -1


def global_options(function: F) -> F:
    """Add ``-q --debug --log-file --no-progress``."""
    for option in (
        click.option(
            "--no-progress",
            is_flag=True,
            expose_value=False,
            callback=_store("progress", lambda _: False),
            help="Show no progress.",
        ),
        click.option(
            "--log-file",
            type=click.Path(dir_okay=False, path_type=Path),
            expose_value=False,
            callback=_store("log_file"),
            help="Write the log, with times, to this file too; .jsonl: an object in every line.",
        ),
        click.option(
            "--debug",
            is_flag=True,
            expose_value=False,
            callback=_store("debug"),
            help="Show the traceback of an unexpected error.",
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            callback=_quieter,
            help="Say nothing but errors.",
        ),
    ):
        function = option(function)
    return function


def command_options(function: F) -> F:
    """Add the options of every command.

    ``--json -q -v --debug --log-file --no-progress --config --print-config --offline``.
    """
    function = global_options(function)
    for option in (
        click.option(
            "--offline",
            is_flag=True,
            expose_value=False,
            callback=_store("offline"),
            envvar="EPISOME_OFFLINE",
            help="Open no connection.",
        ),
        click.option(
            "--print-config",
            is_flag=True,
            expose_value=False,
            callback=_store("print_config"),
            help="Print the value of every option and where it comes from, and do nothing.",
        ),
        click.option(
            "--run-folder",
            type=click.Path(file_okay=False, path_type=Path),
            expose_value=False,
            callback=_store("run_folder"),
            metavar="FOLDER",
            help="Keep the record of the run (manifest.json, config.toml, log.jsonl) in this new "
            "folder; `episome rerun` repeats it. train, annotate and others keep one beside their "
            "output.",
        ),
        click.option(
            "--config",
            type=click.Path(dir_okay=False, path_type=Path),
            is_eager=True,
            expose_value=False,
            callback=read_config,
            envvar="EPISOME_CONFIG",
            metavar="FILE.toml",
            help="File of options; those that are given, and EPISOME_COMMAND_OPTION in the "
            "environment, go before it.",
        ),
    ):
        function = option(function)
    function = click.option(
        "-v", "--verbose", count=True, expose_value=False, callback=_louder, help="Say more."
    )(function)
    return click.option(
        "--json",
        "json_",
        is_flag=True,
        expose_value=False,
        callback=_store("json"),
        help="Answer with one JSON object.",
    )(function)


def value_options(function: F) -> F:
    """Add the options that say where the values of a file are and what they are."""
    for option in (
        click.option(
            "--allow-fractional",
            is_flag=True,
            help="Say nothing about counts that are not integers.",
        ),
        click.option(
            "--input-kind",
            type=click.Choice(["auto", "counts", "log1p"]),
            default="auto",
            show_default=True,
            help="What the values are.",
        ),
        click.option(
            "--nan",
            type=click.Choice(["error", "zero"]),
            default="error",
            show_default=True,
            help="What to do with NaN: refuse, or read as zero.",
        ),
        click.option(
            "--auto-raw",
            is_flag=True,
            help="Take the values of raw where X holds no counts and raw does.",
        ),
        click.option("--use-raw", is_flag=True, help="Take the values of raw."),
        click.option("--layer", help="Layer that holds the values; default X."),
    ):
        function = option(function)
    return function


def raw_choice(options: Mapping[str, Any]) -> bool | Literal["auto"]:
    """Return what ``--use-raw`` and ``--auto-raw`` say.

    Raises
    ------
    UsageError
        Two of them and ``--layer`` are given (E-U27).
    """
    given = [f"--{n.replace('_', '-')}" for n in ("layer", "use_raw", "auto_raw") if options[n]]
    if len(given) > 1:
        raise UsageError(
            "E-U27",
            f"{' and '.join(given)} are given",
            why="each says where the values are",
            fix=f"give one of {', '.join(given)}",
        )
    return "auto" if options["auto_raw"] and not options["use_raw"] else bool(options["use_raw"])


def _gibibytes(ctx: click.Context, param: click.Parameter, value: float | None) -> int | None:
    return None if value is None else int(value * (1 << 30))


def file_options(function: F) -> F:
    """Add ``--max-memory`` and ``--trust``."""
    for option in (
        click.option(
            "--trust",
            is_flag=True,
            help="Follow links in the file to others, and lift the limits that a file made to do "
            "harm would meet. Only for files that you made.",
        ),
        click.option(
            "--max-memory",
            type=click.FloatRange(0, min_open=True),
            callback=_gibibytes,
            metavar="GIB",
            help="Refuse a file that declares more; default what this process may use.",
        ),
    ):
        function = option(function)
    return function


def gene_options(function: F) -> F:
    """Add the options that say how the genes of a query meet those of a model."""
    for option in (
        click.option(
            "--gene-case",
            type=click.Choice(["as is", "upper"]),
            default="as is",
            show_default=True,
            help="upper reads symbols in capitals, for human genes in small letters.",
        ),
        click.option(
            "--gene-map",
            type=click.Path(path_type=Path),
            help="Table of gene names (csv, tsv): the name in the data, the name to use; for "
            "aliases, other identifiers or orthologues.",
        ),
        click.option(
            "--min-gene-overlap",
            type=click.FloatRange(0, 1),
            default=0.5,
            show_default=True,
            help="Smallest share of the model's genes, and of what its calls rest on, that the "
            "data must have.",
        ),
        click.option(
            "--duplicates",
            type=click.Choice(["error", "sum", "first"]),
            default="error",
            show_default=True,
            help="What to do with genes of one name.",
        ),
    ):
        function = option(function)
    return function


def cell_options(function: F) -> F:
    """Add the options that say which cells a model is run over, and how many at once."""
    for option in (
        click.option("--batch-size", type=click.IntRange(1), help="Cells at a time."),
        click.option(
            "--part",
            type=click.Choice(["train", "validation", "test"]),
            help="Part of --split; default test.",
        ),
        click.option(
            "--split",
            type=click.Path(path_type=Path),
            help="File of `episome corpus split` of the same cells: only those of one part are "
            "taken.",
        ),
        click.option(
            "--where",
            multiple=True,
            metavar="COLUMN=VALUE",
            help="Only cells with this value of obs, or one of several (COLUMN=A|B), or another "
            "(COLUMN!=A); may be repeated.",
        ),
    ):
        function = option(function)
    return function


def machine_options(function: F) -> F:
    """Add ``--threads`` and ``--device``."""
    for option in (
        click.option(
            "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:0 or mps."
        ),
        click.option(
            "--threads",
            type=click.IntRange(1),
            help="Processor threads; default OMP_NUM_THREADS, else all.",
        ),
    ):
        function = option(function)
    return function


def examples(*lines: str) -> str:
    """Return the end of a command's help: lines to copy and paste."""
    return "\b\nExamples:\n" + "\n".join(f"  $ {line}" for line in lines)


def run_command(
    ctx: click.Context,
    name: str,
    function: Callable[[], Outcome | Mapping[str, Any] | str | None],
    *,
    long: bool = False,
) -> None:
    """Run the body of a command and print its answer.

    While ``function`` runs, standard output is standard error, so that a library that prints
    cannot spoil the answer; ``state_of(ctx).stdout`` is the real one, for a command that streams
    its result. Warnings of episome are shown, and listed in the JSON object; those of libraries go
    to the log.

    Parameters
    ----------
    ctx
        Context of the command.
    name
        Its name in the JSON object.
    function
        Does the work; returns an :class:`Outcome`, a mapping with its fields, a text or nothing.
    long
        Whether the record of the run is kept beside its output (``OUTPUT.run.json``) also without
        ``--run-folder``.
    """
    state = state_of(ctx)
    state.command = name
    running.append(state)
    state.stdout = sys.stdout
    start = time.perf_counter()
    recorded = _recorder(ctx, state, long=long)
    try:
        configure(state.verbosity, log_file=state.log_file)
    except OSError as error:
        raise InputFileError(
            "E-F27", "the log file cannot be written", where=str(state.log_file), why=str(error)
        ) from error
    with contextlib.redirect_stdout(sys.stderr), _listed_warnings(state), _connected(state):
        try:
            outcome = _configuration(ctx) if state.print_config else Outcome.of(function())
        except EpisomeError as error:
            recorded(Outcome(error=error))
            raise
    outcome.timings.setdefault("total", round(time.perf_counter() - start, 3))
    recorded(outcome)
    if state.json:
        click.echo(dumps(answer(state, outcome)))
    elif outcome.text:
        click.echo(outcome.text)
    if outcome.exit_code:
        ctx.exit(outcome.exit_code)


def _recorder(ctx: click.Context, state: State, *, long: bool) -> Callable[[Outcome], None]:
    """Return what keeps the record of a run."""
    if state.print_config or (state.run_folder is None and not long):
        return lambda outcome: None
    started = datetime.now(UTC).isoformat(timespec="seconds")
    if state.run_folder is None:
        return _beside(ctx, state, started)

    from episome.cli._manifest import LOG, described_files, write_run
    from episome.io import ensure_free

    folder = state.run_folder
    ensure_free(folder, overwrite=False)
    inputs = described_files(ctx)
    folder.mkdir()
    state.log_file = state.log_file or folder / LOG

    def record(outcome: Outcome) -> None:
        write_run(folder, ctx, _run_facts(state, outcome, started, inputs))

    return record


def _beside(ctx: click.Context, state: State, started: str) -> Callable[[Outcome], None]:
    """Return what keeps the record of a run beside its one output.

    Inputs are digested at the end, so that a mistake is told at once; one that was changed while
    the command ran has no digest.
    """
    from episome.cli._manifest import described_files, keep_beside, states_of_files

    before = states_of_files(ctx)

    def record(outcome: Outcome) -> None:
        place = ctx.params.get("output")
        made = _paths((*state.outputs, *outcome.outputs))
        if outcome.error or outcome.data.get("repeated") or not made:
            return
        place = place if isinstance(place, Path) else made[0]
        if not place.exists():
            return
        inputs = described_files(ctx)
        for entry, (path, known) in zip(inputs, states_of_files(ctx).items(), strict=True):
            if before.get(path) != known:
                entry["sha256"] = None
        keep_beside(place, ctx, _run_facts(state, outcome, started, inputs))

    return record


def _run_facts(
    state: State, outcome: Outcome, started: str, inputs: list[dict[str, Any]]
) -> dict[str, Any]:
    from episome.cli._manifest import described_output

    found = answer(state, outcome)
    made = _paths(found["outputs"])
    return {
        "command": state.command,
        "started": started,
        "inputs": inputs,
        "outputs": [described_output(p) for p in made if p.exists()],
        "exit_code": outcome.exit_code,
        **{k: found[k] for k in ("warnings", "metrics", "timings", "error")},
    }


def _paths(outputs: Sequence[Any]) -> list[Path]:
    """Return the files and folders among the outputs of a command."""
    named = [o.get("path") if isinstance(o, Mapping) else o for o in outputs]
    return [Path(str(p)) for p in named if p]


def _configuration(ctx: click.Context) -> Outcome:
    found = merged_config(ctx)
    return Outcome(text=config_text(found), data={"config": found})


@contextlib.contextmanager
def _connected(state: State) -> Iterator[None]:
    """Refuse connections while a command runs, where that is asked for."""
    before = settings.offline
    settings.offline = before or state.offline
    try:
        yield
    finally:
        settings.offline = before


@contextlib.contextmanager
def _listed_warnings(state: State) -> Iterator[None]:
    log = get_logger("cli")

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object
    ) -> None:
        if issubclass(category, EpisomeWarning):
            code = getattr(message, "code", None)
            state.warnings.append({"code": code, "message": str(message)})
            log.warning("%s", message)
        else:
            log.debug("%s:%s: %s: %s", filename, lineno, category.__name__, message)

    with warnings.catch_warnings():
        warnings.simplefilter("default", EpisomeWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


class WithInput(click.Command):
    """A command that also takes its INPUT as ``-i``, as other annotators do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the word behind ``-i`` first."""
        own = args[: args.index("--")] if "--" in args else args
        at = own.index("-i") if "-i" in own else len(own)
        if at + 1 < len(own) and not own[at + 1].startswith("-"):
            args = [args[at + 1], *args[:at], *args[at + 2 :]]
        return super().parse_args(ctx, args)


class _Model(click.Path):
    """Folder of a model: a path, or the name of one that was pulled."""

    name = "model"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from episome.io import find_model

        return find_model(Path(str(super().convert(value, param, ctx))))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        """Complete names in the cache, and paths where none begins so."""
        from click.shell_completion import CompletionItem

        from episome.io import cached_models

        names = [n for n in cached_models() if n.startswith(incomplete)]
        found = [CompletionItem(n) for n in names]
        return found or super().shell_complete(ctx, param, incomplete)


#: Type of the option that names a model.
MODEL = _Model()


def answer(
    state: State,
    outcome: Outcome | None = None,
    error: EpisomeError | dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the one JSON object of a command."""
    import episome

    outcome = outcome or Outcome()
    error = error or outcome.error
    fields = {
        "ok": error is None and outcome.exit_code == 0,
        "command": state.command,
        "version": episome.__version__,
        "inputs": [*state.inputs, *outcome.inputs],
        "outputs": [*state.outputs, *outcome.outputs],
        "warnings": [*state.warnings, *outcome.warnings],
        "metrics": outcome.metrics,
        "timings": outcome.timings,
        "error": error.to_json() if isinstance(error, EpisomeError) else error,
    }
    return {**fields, **{k: v for k, v in outcome.data.items() if k not in fields}}


def dumps(value: object) -> str:
    """Return one line of strict JSON: numbers of any library, paths and dates as text."""
    return json.dumps(_plain(value), ensure_ascii=True, allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if hasattr(value, "tolist") and callable(value.tolist):  # numpy and torch
        return _plain(value.tolist())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [_plain(v) for v in items]
    return str(value)
