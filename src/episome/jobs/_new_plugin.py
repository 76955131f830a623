"""Write a package that adds a model to episome: `episome plugins new`."""

from __future__ import annotations

import importlib.resources
import keyword
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from episome import __version__, plugins
from episome.errors import InputFileError, UsageError
from episome.io import write_folder
from episome.plugins._manager import RESERVED

MAX_LENGTH = 32

#: File of the package -> its template, in the folder of the task or in the common one.
_FILES = {
    ".github/workflows/test.yml": "workflow.yml",
    ".gitignore": "gitignore",
    "README.md": "README.md",
    "docs/$name.md": "page.md",
    "pyproject.toml": "pyproject.toml",
    "src/$module/__init__.py": "init.py",
    "src/$module/cli.py": "cli.py",
    "src/$module/core.py": "core.py",
    "src/$module/data.py": "data.py",
    "src/$module/metrics.py": "metrics.py",
    "src/$module/model.py": "model.py",
    "src/$module/plugin.py": "plugin.py",
    "src/$module/py.typed": "",
    "tests/test_$identifier.py": "test_method.py",
    "tests/test_conformance.py": "test_conformance.py",
}

#: What is particular to a task, apart from its templates.
_TASKS: dict[str, dict[str, str]] = {
    "annotation": {
        "summary": "names the type of every cell with a network of one hidden layer",
        "capabilities": '("annotation", "embedding", "explanation")',
        "metric": "worst_recall",
        "metric_summary": "recall of the class that is missed most",
        "needs": '("labels",)',
    },
    "embedding": {
        "summary": "gives every cell a short vector with a linear autoencoder",
        "capabilities": '("embedding",)',
        "metric": "between_types",
        "metric_summary": "share of the variance that lies between the types",
        "needs": '("labels", "embedding")',
    },
    "reconstruction": {
        "summary": "gives the expression that it expects of every cell, with an autoencoder",
        "capabilities": '("embedding", "reconstruction")',
        "metric": "cell_correlation",
        "metric_summary": "correlation over genes, mean of all cells",
        "needs": "()",
    },
    "translation": {
        "summary": "predicts surface proteins from RNA with a network of one hidden layer",
        "capabilities": '("translation",)',
        "metric": "feature_correlation",
        "metric_summary": "correlation over cells, mean of all features",
        "needs": "()",
    },
}

_EQUATIONS = {
    "annotation": "$h = \\mathrm{ReLU}(W_1 x + b_1)$ of log1p values $x$; the logits are "
    "$W_2 h + b_2$.",
    "embedding": "$z = W_1 x + b_1$ of log1p values $x$, trained so that $W_2 z + b_2$ is close "
    "to $x$ in squared error.",
    "reconstruction": "$z = W_2\\,\\mathrm{ReLU}(W_1 x + b_1) + b_2$ of log1p values $x$; the "
    "expected shares are $\\mathrm{softmax}(W_3 z + b_3)$, trained by the multinomial likelihood.",
    "translation": "$h = \\mathrm{ReLU}(W_1 x + b_1)$ of log1p values $x$; $W_2 h + b_2$ is "
    "trained on log1p counts of proteins in squared error.",
}

_PARAMETERS = {
    "n_hidden": "width of the hidden layer",
    "n_latent": "length of the vectors",
    "dropout_rate": "share of the hidden layer that is left out in training",
}


@dataclass(frozen=True, slots=True)
class NewPluginRequest:
    """What ``episome plugins new`` is asked for.

    Parameters
    ----------
    name
        Name of the plugin and of its model: lower-case letters, digits and single hyphens.
    task
        ``annotation``, ``embedding``, ``reconstruction`` or ``translation``.
    folder
        Where the folder of the package is made; default the current one.
    """

    name: str
    task: str
    folder: Path = field(default_factory=Path)


@dataclass(frozen=True, slots=True)
class NewPluginResult:
    """The package that was written: its folder, its names and its files."""

    folder: Path
    name: str
    distribution: str
    module: str
    class_name: str
    task: str
    files: tuple[str, ...]


def new_plugin(request: NewPluginRequest) -> NewPluginResult:
    """Write a complete package with a model that works: a start for a method of one's own.

    Parameters
    ----------
    request
        Name, task and place.

    Returns
    -------
    A :class:`NewPluginResult`; ``files`` are relative to ``folder``.

    Raises
    ------
    UsageError
        A name of the wrong form (E-U70), one that means something else (E-U71) or is taken by an
        installed plugin (E-U72), or an unknown task (E-U73).
    InputFileError
        The folder exists and is not empty (E-F26), or cannot be written (E-F27).
    """
    if request.task not in _TASKS:
        raise UsageError(
            "E-U73",
            f"there is no template for the task {request.task!r}",
            fix=f"use one of {', '.join(_TASKS)}",
        )
    _require_free_name(request.name)
    words = _words(request.name, request.task)
    folder = Path(request.folder) / words["distribution"]
    _require_free_folder(folder)
    files = _render(request.task, words)
    write_folder(folder, files, overwrite=folder.is_dir())
    return NewPluginResult(
        folder=folder,
        name=request.name,
        distribution=words["distribution"],
        module=words["module"],
        class_name=words["class_name"],
        task=request.task,
        files=tuple(files),
    )


# -- names ---------------------------------------------------------------------------------------


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def _require_free_name(name: str) -> None:
    well_formed = re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name)
    if not well_formed or len(name) > MAX_LENGTH or name.startswith("episome-"):
        raise UsageError(
            "E-U70",
            f"{name!r} cannot be the name of a plugin",
            why=f"a name is lower-case letters, digits and single hyphens, starts with a letter, "
            f"has at most {MAX_LENGTH} characters, and `episome-` is put before it",
            fix=f"for example {_suggestion(name)}",
        )
    if reason := _other_meaning(name):
        raise UsageError(
            "E-U71", f"the name {name!r} {reason}", fix=f"choose another, for example my-{name}"
        )
    if owner := _owner(name):
        raise UsageError(
            "E-U72",
            f"the name {name!r} is taken by {owner}",
            why="on a clash of names neither plugin gets the name",
            fix=f"choose another, for example my-{name}, or uninstall {owner}",
        )


def _suggestion(name: str) -> str:
    """Return a name of the right form that is close to a wrong one."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "-", name.strip())
    text = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-").removeprefix("episome-")
    text = re.sub(r"^[0-9-]+", "", text)[:MAX_LENGTH].strip("-")
    return text or "my-method"


def _other_meaning(name: str) -> str:
    """Return what a name means already in episome or in Python; an empty text for a free one."""
    from episome.models import __all__ as bases

    word, class_name = name.replace("-", "_"), _class_name(name)
    if name in RESERVED:
        return "belongs to the host"
    if keyword.iskeyword(word) or word in keyword.softkwlist or word in sys.stdlib_module_names:
        return "means something in Python"
    if class_name in bases or f"{class_name}Core" in {"TorchCore", "ArrayCore"}:
        return "would give its class the name of a base of the host"
    if word == "conformance":
        return "is that of a file of tests in every plugin"
    return ""


def _owner(name: str) -> str:
    """Return the installed distribution that has a name, as plugin, model or class."""
    for status in plugins.plugin_status():
        if name == _normal(status.id) or f"episome-{name}" == _normal(status.distribution):
            return status.distribution
    for spec in plugins.models().values():
        if name == _normal(spec.name) or _class_name(name) == spec.class_name:
            return spec.distribution
    return ""


def _normal(name: str) -> str:
    """Write a name as package indexes compare it: what differs in ``_`` is the same module."""
    return re.sub(r"[-_.]+", "-", name).lower()


# -- files ---------------------------------------------------------------------------------------


def _require_free_folder(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputFileError(
            "E-F26",
            "the folder of the package exists already and is not empty",
            where=str(folder),
            why="nothing that you wrote is replaced",
            fix="choose another place with -o, or another name",
        )


def _words(name: str, task: str) -> dict[str, str]:
    """Return what the templates say about a name and a task."""
    own, identifier = _TASKS[task], name.replace("-", "_")
    translates = task == "translation"
    needed = [f"episome>={__version__}", "click>=8.1.7", "numpy>=1.26", "torch>=2.3"]
    if translates:
        needed += ["anndata>=0.11", "mudata>=0.3", "pandas>=2.1.4"]
    summary = own["summary"]
    words = {
        **own,
        "about": f"it {summary}",
        "api": repr(plugins.API_VERSION),
        "class_name": _class_name(name),
        "data_summary": "simulated cells of four types"
        + (", RNA and eight proteins" if translates else ""),
        "dependencies": ", ".join(f'"{d}"' for d in sorted(needed)),
        "distribution": f"episome-{name}",
        "equations": _EQUATIONS[task],
        "identifier": identifier,
        "kind": "mudata" if translates else "anndata",
        "metric_name": own["metric"].replace("_", "-"),
        "modalities": '("rna", "protein")' if translates else '("rna",)',
        "module": f"episome_{identifier}",
        "name": name,
        "summary_sentence": f"{summary[0].upper()}{summary[1:]}.",
        "task": task,
    }
    words["example"] = _text(task, "example.py", words).rstrip()
    shown = _text(task, "core.py", words)
    rows = [f"| `{n}` | {t} |" for n, t in _PARAMETERS.items() if f'"{n}"' in shown]
    words["parameters"] = "\n".join(rows)
    return words


def _render(task: str, words: Mapping[str, str]) -> dict[str, bytes]:
    """Return every file of the package."""
    return {
        Template(path).substitute(words): _text(task, template, words).encode()
        for path, template in _FILES.items()
    }


def _text(task: str, template: str, words: Mapping[str, str]) -> str:
    """Fill a template of the task, or the one that all tasks share; no name is an empty file."""
    if not template:
        return ""
    home = importlib.resources.files("episome.jobs") / "_template"
    found = home / task / f"{template}.txt"
    if not found.is_file():
        found = home / "common" / f"{template}.txt"
    return Template(found.read_text(encoding="utf-8")).substitute(words)
