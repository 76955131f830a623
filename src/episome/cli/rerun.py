"""``episome rerun``: repeat a run from its record, and compare what comes out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from episome.cli._command import Outcome, command_options, examples, run_command
from episome.cli._manifest import described_output, read_run

__all__ = ["command"]

#: Exit code where something is not as it was.
DIFFERS = 9


@click.command(
    "rerun",
    epilog=examples(
        "episome rerun my-model",
        "episome annotate query.h5ad -m my-model -o calls.csv --run-folder runs/one",
        "episome rerun runs/one/manifest.json",
    ),
)
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Keep what comes out in this folder; default it is thrown away.",
)
@command_options
@click.pass_context
def command(ctx: click.Context, manifest: Path, keep: Path | None) -> None:
    """Repeat the run that MANIFEST records, and compare the digests of what comes out.

    MANIFEST is the output of a long command, which keeps OUTPUT.run.json beside it, or a file or
    folder of --run-folder. Inputs have to be where they were, and what they
    were. Nothing that is there is replaced. Exit code 9 means that something came out different.
    """
    run_command(ctx, "rerun", lambda: _rerun(ctx, manifest, keep))


def _rerun(ctx: click.Context, path: Path, keep: Path | None) -> Outcome:
    from episome.errors import InputFileError, UsageError
    from episome.io import ensure_free

    run = read_run(path)
    _require_inputs(run, path)
    outputs = [o for o in run["outputs"] if o.get("digest")]
    if len(outputs) != 1 or run.get("error"):
        raise UsageError(
            "E-U122",
            "the run has nothing that could be compared" if not outputs else "the run failed",
            where=str(path),
            why="runs that wrote one file or folder are repeated",
            fix="repeat it yourself: episome " + " ".join(run["arguments"]),
        )
    (known,) = outputs
    name = Path(known["path"]).name
    if keep is not None:
        ensure_free(keep / name, overwrite=False)
    with tempfile.TemporaryDirectory(prefix="episome-rerun-") as temporary:
        place = keep or Path(temporary)
        app = ctx.find_root().command
        code = app.main(_words(run["arguments"], place / name), "episome", standalone_mode=False)
        if not (place / name).exists():
            raise InputFileError("E-F07", "the run wrote nothing", where=name, why=f"code {code}")
        found = described_output(place / name)
    same = (found["kind"], found["digest"]) == (known["kind"], known["digest"])
    verdict = "the same" if same else f"different (exit code {DIFFERS})"
    versions = _changed(run)
    lines = [f"{known['path']}: {verdict}"]
    lines += [f"  {n} {a} then, {b} now" for n, (a, b) in versions.items()]
    return Outcome(
        text="\n".join(lines),
        inputs=run["inputs"],
        outputs=[] if keep is None else [{"path": str(keep / name)}],
        data={"same": same, "then": known, "now": found, "versions_that_changed": versions},
        exit_code=0 if same else DIFFERS,
    )


def _words(arguments: list[str], output: Path) -> list[str]:
    """Return the words of a run with another output."""
    words, last = list(arguments), []
    if "--" in words:
        at = words.index("--")
        words, last = words[:at], words[at:]
    for option in ("--output", "-o", "--report"):
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    words = [w for w in words if w != "--overwrite"]
    return [str(_home(w)) for w in [*words, "--output", str(output), *last]]


def _home(word: str) -> str:
    return str(Path(word).expanduser()) if word.startswith("~/") else word


def _require_inputs(run: dict[str, Any], path: Path) -> None:
    from episome.errors import InputFileError
    from episome.jobs import input_digest

    for entry in run["inputs"]:
        place = Path(_home(str(entry["path"])))
        if not place.exists() or input_digest(place) != entry.get("sha256"):
            raise InputFileError(
                "E-F35",
                "an input is not what it was" if place.exists() else "an input is not there",
                where=str(place),
                why=f"{path} records its digest",
                fix="put it back where it was, relative to the current folder",
            )


def _changed(run: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return packages whose version is another now."""
    from episome.cli._errors import versions
    from episome.plugins import plugin_status

    now = {**versions(), **{s.distribution: s.version for s in plugin_status()}}
    then = run.get("versions", {})
    return {n: (v, now.get(n, "none")) for n, v in then.items() if now.get(n, "none") != v}
