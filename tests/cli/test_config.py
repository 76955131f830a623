"""Where options come from: flags, the environment, a file, defaults; and no connection."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import click
import pytest
from _program import program, refused

from episome import settings
from episome.cli import _app, _config
from episome.cli._command import command_options, run_command
from episome.data import simulate_cells
from episome.errors import RemoteError
from episome.log import get_logger


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    simulate_cells(90, 30, n_types=3, n_donors=3).write_h5ad(folder / "cells.h5ad")
    train = ("train", "centroid", folder / "cells.h5ad", "--labels-key", "cell_type")
    assert program(*train, "-o", folder / "model").exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ask(files, *more):
    return ("annotate", files / "cells.h5ad", "-m", files / "model", *more)


def config_of(*words) -> dict:
    result = program(*words, "--print-config", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["config"]


def test_flags_go_before_the_environment_before_a_file_before_defaults(files, monkeypatch):
    Path("all.toml").write_text(
        'batch-size = 1\nmin-confidence = 0.1\nmin_gene_overlap = 0.2\nprefix = "top_"\n'
        "[annotate]\nlayer = 'counts'\nprefix = 'own_'\n[train]\nmethod = 'other'\n"
    )
    monkeypatch.setenv("EPISOME_ANNOTATE_BATCH_SIZE", "2")
    monkeypatch.setenv("EPISOME_ANNOTATE_MIN_CONFIDENCE", "0.2")

    found = config_of(*ask(files, "--config", "all.toml", "--batch-size", 3))

    shown = {k: (v["value"], v["origin"]) for k, v in found.items()}
    assert shown["batch-size"] == (3, "flag")
    assert shown["min-confidence"] == (0.2, "environment")
    assert shown["min-gene-overlap"] == (0.2, "file")
    assert shown["prefix"] == ("own_", "file")
    assert shown["layer"] == ("counts", "file")
    assert shown["device"] == ("auto", "default")
    assert list(Path.cwd().iterdir()) == [Path("all.toml").resolve()]


def test_the_file_of_the_environment_is_read(files, monkeypatch):
    Path("mine.toml").write_text("batch-size = 5\n")
    monkeypatch.setenv("EPISOME_CONFIG", "mine.toml")

    assert config_of(*ask(files))["batch-size"] == {"value": 5, "origin": "file"}


@pytest.mark.parametrize(
    "words",
    [
        ("--where", "a=b", "--where", "c=d", "--max-memory", "2", "--use-raw", "--score", "S=A,B"),
        ("--gene-case", "upper", "--restrict-to", 'a "quoted" \\ name', "--nan", "zero"),
    ],
)
def test_what_is_printed_can_be_read_again(files, words):
    printed = program(*ask(files, *words, "--print-config"))
    assert printed.exit_code == 0, printed.output
    Path("again.toml").write_text(printed.stdout)

    first = config_of(*ask(files, *words))
    again = config_of("annotate", "--config", "again.toml")

    assert {k: v["value"] for k, v in again.items()} == {k: v["value"] for k, v in first.items()}
    assert tomllib.loads(printed.stdout)["input"] == str(files / "cells.h5ad")


def test_a_file_may_hold_everything_that_a_command_needs(files):
    Path("run.toml").write_text(
        f"[annotate]\ninput = '{files}/cells.h5ad'\nmodel = '{files}/model'\noutput = 'c.csv'\n"
    )

    result = program("annotate", "--config", "run.toml")

    assert result.exit_code == 0, result.output
    assert Path("c.csv").is_file()


def test_commands_of_groups_have_tables_of_their_own(files):
    Path("run.toml").write_text(
        f"[corpus]\n[corpus.build]\ninputs = ['{files}/cells.h5ad']\noutput = 'o'\n"
        "shuffle-seed = 7\n[corpus.info]\ncorpus = 'x'\n"
    )

    found = config_of("corpus", "build", "--config", "run.toml")

    assert found["shuffle-seed"] == {"value": 7, "origin": "file"}
    assert found["inputs"]["value"] == [str(files / "cells.h5ad")]


WRONG = {
    "unknown option": ("nan = 'zero'\nbatch-siz = 3", "line 2.*batch-size.*E-U121"),
    "unknown option in a table": ("[annotate]\n\nmode = 3", "line 3.*model.*E-U121"),
    "unknown command": ("[anno]\nx = 1", r"\[anno\].*line 1.*E-U121"),
    "range": ("\n\nbatch-size = 0", "line 3.*x>=1.*E-U121"),
    "type": ("batch-size = 'many'", "line 1.*E-U121"),
    "choice": ("nan = 'keep'", "line 1.*error.*zero.*E-U121"),
    "list for one": ("layer = ['a', 'b']", "one value, no list.*E-U121"),
    "one for a list": ("where = 'a=b'", "a list.*E-U121"),
    "text for a flag": ("overwrite = 'yes'", "true or false.*E-U121"),
    "flag for text": ("layer = true", "one value.*E-U121"),
    "key twice": ("layer = 'a'\nlayer = 'b'\n\n", "line 2.*E-U120"),
    "no TOML": ("layer: a", "line 1.*E-U120"),
    "deep": ("[annotate.a.b.c]\nd = 1", "too deep.*E-U120"),
    "huge": ("#" * (_config.MAX_BYTES + 1), "too large.*E-U120"),
    "no text": ("\udcff", "E-U120"),
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_a_mistake_in_a_file_is_refused_with_its_line(files, what):
    text, match = WRONG[what]
    Path("wrong.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    text, _, code = match.rpartition(".*")

    refused(2, code, *ask(files, "--config", "wrong.toml"), match=text)


def test_a_file_that_there_is_not_is_refused(files):
    refused(2, "E-U120", *ask(files, "--config", "nowhere.toml"))


def test_a_wrong_value_of_the_environment_is_refused(files, monkeypatch):
    monkeypatch.setenv("EPISOME_ANNOTATE_BATCH_SIZE", "-1")

    refused(2, "E-U02", *ask(files), match="--batch-size")


# -- flags of other annotators -------------------------------------------------------------------


def test_flags_that_users_of_celltypist_know_are_taken(files):
    words = ("annotate", "-i", files / "cells.h5ad", "-m", files / "model", "-o", "c.csv")
    result = program(*words, "-p", "mine_")

    assert result.exit_code == 0, result.output
    assert Path("c.csv").read_text().startswith("cell,mine_label,")
    assert config_of("embed", "-m", "x", "-i", "y.h5ad")["input"]["value"] == "y.h5ad"
    refused(2, "E-U01", *words, "another.h5ad")
    refused(2, "E-U01", "annotate", "-m", "x", "-i")


# -- offline -------------------------------------------------------------------------------------


def test_offline_refuses_connections_while_a_command_runs(monkeypatch):
    @click.command("toy")
    @command_options
    @click.pass_context
    def toy(ctx):
        run_command(ctx, "toy", lambda: settings.require_online("the test", "ask again"))

    monkeypatch.setattr(_app, "_load", lambda target: toy)
    monkeypatch.setitem(_app.COMMANDS, "toy", ("nowhere:command", "A toy."))

    assert program("toy").exit_code == 0
    refused(7, "E-N04", "toy", "--offline", match="the test needs a connection")
    assert not settings.offline
    monkeypatch.setenv("EPISOME_OFFLINE", "1")
    assert program("toy").exit_code == 7


def test_the_census_is_not_asked_offline(monkeypatch):
    from episome.data import CensusSource

    monkeypatch.setattr(settings, "offline", True)

    with pytest.raises(RemoteError, match=r"Census.*E-N04"):
        CensusSource()


# -- log -----------------------------------------------------------------------------------------


def test_a_log_that_ends_in_jsonl_has_an_object_in_every_line(files):
    assert program(*ask(files, "-o", "c.csv", "--log-file", "run.jsonl")).exit_code == 0
    get_logger("x").warning("a line\nof %s", "two")

    lines = [json.loads(line) for line in Path("run.jsonl").read_text().splitlines()]
    assert {"time", "level", "logger", "message"} == set(lines[0])
    assert any("of the model's 30 genes" in line["message"] for line in lines)
    assert lines[-1]["message"] == "a line\nof two"
    assert lines[-1]["level"] == "warning"
