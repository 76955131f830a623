"""Every command answers with one object that its published schema describes."""

from __future__ import annotations

import json
from pathlib import Path

import click
import jsonschema
import numpy as np
import pytest
from _program import program

from episome.cli import _app
from episome.cli._answers import answer_schema, answered_commands
from episome.data import simulate_cells

STUDY = """
task = "annotation"
models = ["centroid"]
floor = false
seeds = [0]
data = {name = "cells", source = "cells.h5ad", labels_key = "cell_type", donor_key = "donor_id"}
splits = {by = "group"}
"""
LABELS = ("--labels-key", "cell_type")
#: Command -> its words, in an order in which each finds what it needs.
RUNS = {
    "train": ("train", "logreg", "cells.h5ad", *LABELS, "-o", "model"),
    "pretrain": (
        "pretrain", "ssl", "cells.h5ad", "-o", "enc", "--max-epochs", 1, "--set", "hidden=[8]",
        "--set", "n_latent=4",
    ),
    "check": ("check", "cells.h5ad", "-m", "model"),
    "annotate": ("annotate", "cells.h5ad", "-m", "model", "-o", "annotated.h5ad"),
    "evaluate": (
        "evaluate", "cells.h5ad", "-m", "model", *LABELS, "--draws", 5, "-o", "scores.json",
    ),
    "report": ("report", "scores.json", "-o", "mine.html"),
    "explain": ("explain", "cells.h5ad", "-m", "model", "-o", "genes.csv"),
    "embed": ("embed", "cells.h5ad", "-m", "enc", "-o", "z.csv"),
    "impute": ("impute", "cells.h5ad", "-m", "enc", "--genes", "GENE1", "-o", "imputed.csv"),
    "audit": ("audit", "cells.h5ad", *LABELS, "--method", "centroid", "-o", "audit.csv"),
    "tune": (
        "tune", "logreg", "cells.h5ad", *LABELS, "--space", "model.max_iter=50,90", "--trials", 2,
        "-o", "tuned",
    ),
    "rerun": ("rerun", "model"),
    "benchmark run": ("benchmark", "run", "study.toml", "-o", "results"),
    "benchmark list": ("benchmark", "list"),
    "benchmark report": ("benchmark", "report", "results", "-o", "report.md"),
    "benchmark compare": ("benchmark", "compare", "results", "centroid", "centroid"),
    "benchmark merge": ("benchmark", "merge", "results", "-o", "all"),
    "corpus build": ("corpus", "build", "cells.h5ad", "-o", "cells.corpus"),
    "corpus info": ("corpus", "info", "cells.corpus"),
    "corpus verify": ("corpus", "verify", "cells.corpus"),
    "corpus split": ("corpus", "split", "cells.corpus", "-o", "split.json"),
    "data hash": ("data", "hash", "cells.h5ad"),
    "data convert": ("data", "convert", "cells.h5ad", "-o", "cells.zarr"),
    "models": ("models",),
    "models list": ("models", "list", "."),
    "models show": ("models", "show", "model"),
    "models verify": ("models", "verify", "model"),
    "models card": ("models", "card", "model"),
    "plugins": ("plugins",),
    "plugins list": ("plugins", "list"),
    "plugins show": ("plugins", "show", "ssl"),
    "plugins new": ("plugins", "new", "my-method", "--task", "annotation", "-o", "new"),
    "doctor": ("doctor",),
    "help": ("help", "answers"),
    "completion": ("completion", "bash"),
}  # fmt: skip
#: What a command calls itself in its answer, where that is another.
NAMED = {"plugins list": "plugins"}
#: Command -> where it is run from end to end and its answer is looked at.
ELSEWHERE = {
    "data census": "tests/data, with a Census in its place",
    "demo": "test_demo.py: it trains more than once",
    "models convert": "plugins/episome-datamix/tests/test_convert_command.py",
    "models pull": "test_models_commands.py, with a hub in its place",
    "models push": "test_models_commands.py, with a hub in its place",
    "models rm": "test_models_commands.py, with a hub in its place",
    "plugins check": "test_plugins_commands.py: it takes long",
    "predict-modality": "test_predict_modality.py",
    "serve": "test_serve.py: it runs until it is stopped",
}


def commands(group: click.Group = _app.app, before: str = "") -> list[str]:
    """Names of the commands of the host, those of groups among them."""
    context, found = click.Context(group), []
    for name in _app.COMMANDS if group is _app.app else group.list_commands(context):
        one, whole = group.get_command(context, name), f"{before}{name}"
        if isinstance(one, click.Group):
            found += commands(one, f"{whole} ")
            found += [whole] if one.invoke_without_command else []
        else:
            found.append(whole)
    return found


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The answer of every command, run one after the other in one folder."""
    folder, found = tmp_path_factory.mktemp("answers"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cells = simulate_cells(160, 30, n_types=2, n_donors=4)
        cells.obsm["X_umap"] = np.zeros((160, 2))
        cells.write_h5ad("cells.h5ad")
        Path("study.toml").write_text(STUDY)
        for name, words in RUNS.items():
            result = program(*words, "--json")
            assert result.exit_code == 0, (name, result.output[-2000:])
            found[name] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_every_command_has_a_schema_and_a_run():
    known = set(commands())

    assert known - set(RUNS) - set(ELSEWHERE) == set()
    assert set(RUNS) <= known
    assert set(answered_commands()) >= set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_the_answer_of_a_command_is_as_its_schema_says(answers, name):
    found, schema = answers[name], answer_schema(name)

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(found, schema)
    assert (found["ok"], found["command"]) == (True, NAMED.get(name, name))
    less = {k: v for k, v in found.items() if k not in schema["required"][-1:]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(less, schema)


def test_a_failure_is_as_the_schema_of_every_command_says():
    failed = json.loads(program("train", "nothing", "gone.h5ad", "-o", "x", "--json").stdout)

    jsonschema.validate(failed, answer_schema("train"))
    assert not failed["ok"]
