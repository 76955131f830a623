"""What is run for a job: commands of the program, each a process; and how to repeat them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from episome.jobs import request_code

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from episome.web._settings import ServeSettings
    from episome.web._store import Job

__all__ = ["OPTIONS", "Step", "repeat", "steps"]

#: Options that a form may give to a command, by kind of job.
OPTIONS: dict[str, tuple[str, ...]] = {
    "check": (),
    "annotate": (
        "layer", "input_kind", "duplicates", "gene_case", "nan", "auto_raw",
        "min_confidence", "error_rate", "roll_up", "cluster_key",
    ),
    "train": (
        "labels_key", "donor_key", "layer", "input_kind", "unlabeled", "duplicates", "max_epochs",
        "auto_raw", "nan",
    ),
    "explain": ("cell", "layer", "input_kind", "duplicates", "gene_case", "nan", "auto_raw"),
    "demo": (),
}  # fmt: skip
#: Options without a value.
FLAGS = frozenset({"auto_raw"})


@dataclass(frozen=True, slots=True)
class Step:
    """One process of a job.

    Parameters
    ----------
    label
        What it does, as the page says it.
    module
        Module that is run as a program.
    arguments
        Of the program.
    """

    label: str
    module: str
    arguments: tuple[str, ...]


def steps(
    job: Job,
    file: Path | None,
    model: Path | None,
    folder: Path,
    settings: ServeSettings,
    names: tuple[str, str] = ("cells.h5ad", "my-model"),
) -> list[Step]:
    """Return the steps of a job; the first one's answer is the answer of the job.

    Parameters
    ----------
    job
        What was asked for.
    file, model
        Of the job.
    folder
        Of the job: everything that is written goes there.
    settings
        Of the page.
    names
        Of file and model, as the user knows them.
    """
    if job.kind == "demo":
        return [Step("writing the demo data", "episome.web._demo", (str(folder),))]
    limit = ("--max-memory", f"{settings.memory / (1 << 30):.4g}")
    plain = ("--json", *limit)
    options = _options(job)
    if job.kind == "check":
        meant = () if model is None else ("-m", str(model))
        words = ("check", str(file), *meant, *plain)
        return [Step("looking at the file", "episome", words)]
    device = ("--device", settings.device)
    if job.kind == "train":
        method = str(job.options.get("method") or "auto")
        words = ("train", method, str(file), *options, "-o", str(folder / "model"))
        return [Step("training", "episome", (*words, *device, *plain))]
    if job.kind == "explain":
        words = ("explain", str(file), "-m", str(model), "--by", "cells", *options, "-o", "-")
        return [Step("asking the model", "episome", (*words, *device, *plain))]
    words = ("annotate", str(file), "-m", str(model), *options, *device, *plain)
    table = str(folder / "calls.parquet")
    found = [
        Step("annotating", "episome", (*words, "-o", table, *_report(folder, names))),
        Step(
            "making the tables and pictures",
            "episome.web._view",
            (str(file), str(model), table, str(folder), str(job.options.get("layer") or "")),
        ),
    ]
    if job.options.get("h5ad"):
        whole = (*words, "-o", str(folder / "annotated.h5ad"), "--overwrite-columns")
        whole += ("--no-report",)
        found.append(Step("writing the annotated h5ad", "episome", whole))
        if author := job.options.get("author"):
            made = (str(folder / "annotated.h5ad"), "-o", str(folder / "annotation.json"))
            name = () if file is None else ("--title", file.name)
            cas = ("data", "convert", *made, "--to", "cas", "--author", str(author), *name)
            found.append(Step("writing the cell annotation", "episome", (*cas, *plain)))
    return found


def _report(folder: Path, names: tuple[str, str]) -> tuple[str, ...]:
    return ("--report", str(folder / "report.html"), "--report-names", *names)


def repeat(job: Job, file: str, model: str) -> tuple[str, str] | None:
    """Return the command line, and the Python code, that do the same on the user's files.

    Parameters
    ----------
    job
        What was asked for.
    file, model
        Names that the user knows.
    """
    options = _options(job)
    if job.kind == "check":
        meant = ("-m", model) if job.model else ()
        known = {"input": file, "model": model if job.model else None}
        code = request_code("check", "CheckRequest", known)
        return shlex.join(["episome", "check", file, *meant]), code
    if job.kind == "explain":
        words = ["episome", "explain", file, "-m", model, "--by", "cells", *options]
        given = {k: job.options[k] for k in OPTIONS["explain"] if job.options.get(k)}
        if given.pop("auto_raw", None):
            given["use_raw"] = "auto"
        cell = (given.pop("cell"),)
        known = {"input": file, "model": model, "output": "genes.csv", "by": "cells"}
        code = request_code("explain", "ExplainRequest", {**known, "cells": cell, **given})
        return shlex.join([*words, "-o", "genes.csv"]), code
    if job.kind == "annotate":
        words = ["episome", "annotate", file, "-m", model, *options, "-o", "calls.csv"]
        given = {k: _value(job.options[k]) for k in OPTIONS["annotate"] if job.options.get(k)}
        if given.pop("auto_raw", None):
            given["use_raw"] = "auto"
        known = {"input": file, "model": model, "output": "calls.csv"}
        code = request_code("annotate", "AnnotateRequest", {**known, **given})
        return shlex.join(words), code
    if job.kind == "train":
        method = str(job.options.get("method") or "auto")
        words = ["episome", "train", method, file, *options, "-o", "my-model"]
        return shlex.join(words), _python_of_training(job, method, file)
    return None


def _options(job: Job) -> tuple[str, ...]:
    """Return the options of a job as words of a command."""
    words: list[str] = []
    for name in OPTIONS[job.kind]:
        value = job.options.get(name)
        if value in (None, "", False):
            continue
        words.append(f"--{name.replace('_', '-')}")
        if name not in FLAGS:
            words.append(str(value))
    return tuple(words)


def _value(text: Any) -> Any:
    """Return the number that a text of a form is, else the text."""
    try:
        return float(text) if not isinstance(text, bool) else text
    except ValueError:
        return text


def _python_of_training(job: Job, method: str, file: str) -> str:
    setup: dict[str, Any] = {}
    train: dict[str, Any] = {}
    options: Mapping[str, Any] = job.options
    for name in OPTIONS["train"]:
        value = options.get(name)
        if value in (None, "", False):
            continue
        if name == "max_epochs":
            train[name] = int(value)
        elif name == "auto_raw":
            setup["use_raw"] = "auto"
        else:
            setup[name] = value
    more = {"train": train} if train else {}
    return (
        "from pathlib import Path\n\nfrom episome.jobs import TrainRequest, train\n\n"
        "result = train(TrainRequest(\n"
        f"    method={method!r},\n    input=Path({file!r}),\n    output=Path('my-model'),\n"
        f"    setup={setup!r},\n"
        + "".join(f"    {name}={value!r},\n" for name, value in more.items())
        + "    seed=0,\n))\n"
    )
