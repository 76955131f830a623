"""The command line under bad input, row by row of the catalogue of bad inputs.

Commands run in this process where that shows the same; what ends a process runs in a child that
is forked from this one, which has imported everything already.
"""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from _bad_cells import (
    cells,
    copied,
    labelled,
    model,
    normalised_with_raw,
    query,
    trained,
    types_of,
    with_bad,
)
from _catalogue import Catalogue, marked
from _program import (
    child,
    in_ascii,
    in_own_process,
    on_a_terminal,
    program,
    refused,
    remove_outputs,
    stop_at,
    tree,
)
from click.testing import CliRunner

from episome import resources
from episome.cli import _app
from episome.jobs import AnnotateRequest, CheckRequest, annotate, check
from episome.models import load

CATALOGUE = Catalogue("test_bad_commands")
row = CATALOGUE.row

#: Rows that wait for what is not built yet: they are no tests.
LATER: dict[str, str] = {}

COMMANDS = ("annotate", "check", "demo", "doctor", "help", "plugins", "train")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and sends signals")


# -- how it is asked -----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch, fresh_manager) -> Path:
    """The working folder of the user: cells to train on, a query, a model."""
    cells().write_h5ad(tmp_path / "cells.h5ad")
    query().write_h5ad(tmp_path / "query.h5ad")
    model().save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRAIN = ("train", "centroid", "cells.h5ad", "--labels-key", "cell_type", "-o", "new")
ANNOTATE = ("annotate", "query.h5ad", "-m", "model", "-o", "calls.csv")
#: One good call of every command that takes files.
GOOD = {"annotate": ANNOTATE, "check": ("check", "query.h5ad"), "train": TRAIN}


# -- arguments -----------------------------------------------------------------------------------


@row("C01", "a command or an option that does not exist", "refused; like names are shown")
def unknown(folder):
    typos = (("anotate", "annotate"), ("trian", "train"))  # codespell:ignore anotate,trian
    for wrong, near in (*typos, ("plugin", "plugins")):
        refused(2, "E-U01", wrong, match=f"Usage: episome.*Did you mean {near}")
    for arguments, near in ((ANNOTATE, "--batch-size"), (TRAIN, "--max-epochs")):
        refused(2, "E-U01", *arguments, near[:-1] + "x", "3", match=near)
    for name in COMMANDS:
        refused(2, "E-U01", name, "--nonsense", match=rf"Usage: episome {name}.*--nonsense")


@row("C02", "a value of the wrong type or range", "refused; the option and its range are named")
def wrong_values(folder):
    for arguments, match in (
        ((*ANNOTATE, "--batch-size", "-1"), "--batch-size.*x>=1"),
        ((*ANNOTATE, "--min-gene-overlap", "2"), "--min-gene-overlap.*0<=x<=1"),
        ((*ANNOTATE, "--input-kind", "raw"), "--input-kind.*counts.*log1p"),
        ((*TRAIN, "--max-epochs", "abc"), "--max-epochs.*abc"),
        ((*TRAIN, "--seed", "-3"), "--seed.*x>=0"),
        ((*TRAIN, "--ensemble", "0"), "--ensemble.*x>=1"),
        (("demo", "--seed", "x"), "--seed.*x"),
        ((*GOOD["check"], "--max-memory", "0"), "--max-memory.*x>0"),
    ):
        refused(2, "E-U02", *arguments, match=match)
    refused(2, "E-U26", *TRAIN, "--set", "x", match="KEY=VALUE")


@row("C03", "options that exclude each other", "refused; both are named")
def exclusive(folder):
    for name in ("annotate", "train"):
        for one, other in (
            (("--layer", "counts"), ("--use-raw",)),
            (("--layer", "counts"), ("--auto-raw",)),
            (("--use-raw",), ("--auto-raw",)),
        ):
            match = f"{one[0]} and {other[0]} are given"
            refused(2, "E-U27", *GOOD[name], *one, *other, match=match)


# -- files ---------------------------------------------------------------------------------------


@row("C04", "an input that is missing or cannot be read", "refused before anything is imported")
def missing_inputs(folder):
    (folder / "cut.h5ad").write_bytes((folder / "query.h5ad").read_bytes()[:3000])
    (folder / "other").mkdir()
    for name, arguments in GOOD.items():
        at = 2 if name == "train" else 1
        for bad, code in (("nowhere.h5ad", "E-F07"), ("other", "E-F07"), ("cut.h5ad", "E-F01")):
            refused(3, code, *arguments[:at], bad, *arguments[at + 1 :])
        done = in_own_process(*arguments[:at], "nowhere.h5ad", *arguments[at + 1 :])
        assert done.returncode == 3
        assert "[E-F07]" in done.stderr
        assert "HEAVY []" in done.stderr
    refused(4, "E-M05", *ANNOTATE[:3], "nowhere", match="nowhere")
    refused(4, "E-M05", *GOOD["check"], "-m", "nowhere", match="nowhere")


@row("C05", "the output exists", "refused before anything is imported; `--overwrite`")
def output_exists(folder):
    (folder / "calls.csv").write_text("mine")
    (folder / "new").mkdir()
    (folder / "new" / "thesis.txt").write_text("mine")
    (folder / "episome-demo").mkdir()
    (folder / "episome-demo" / "thesis.txt").write_text("mine")
    refused(3, "E-F26", *ANNOTATE, match="exists already.*calls.csv.*--overwrite")
    refused(3, "E-F26", *TRAIN, match="new")
    refused(3, "E-F26", *TRAIN, "--overwrite", match="only a model folder is replaced")
    refused(3, "E-F26", "demo", match="no demo made it")
    for arguments in (ANNOTATE, TRAIN):
        done = in_own_process(*arguments)
        assert (done.returncode, done.stdout) == (3, "")
        assert "[E-F26]" in done.stderr
        assert "HEAVY []" in done.stderr
    assert program(*ANNOTATE, "--overwrite").exit_code == 0
    assert len(pd.read_csv("calls.csv")) == 60


@row("C06", "no right to write; no home folder", "refused before the work; another cache is used")
def no_place(folder):
    (folder / "file").write_text("")
    refused(3, "E-F27", *ANNOTATE[:-1], "file/calls.csv", match="cannot be written")
    refused(3, "E-F27", *TRAIN[:-1], "file/new", match="cannot be written")
    refused(3, "E-F27", "demo", "-o", "file/demo", match="cannot be written")
    refused(3, "E-F27", *ANNOTATE, "--log-file", "file/log", match="log file cannot be written")
    if os.geteuid():
        (folder / "locked").mkdir(mode=0o500)
        refused(3, "E-F27", *ANNOTATE[:-1], "locked/calls.csv", match="cannot be written")
    for name in ("/proc/nowhere", str(folder / "file" / "cache")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EPISOME_HOME", name)
            done = program("doctor", "--json")
            assert done.exit_code == 0, done.output
            assert json.loads(done.stdout)["folders"]["cache"] != name
            assert name in done.stderr
            assert program(*ANNOTATE, "--overwrite").exit_code == 0
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "EPISOME_HOME", "XDG_CACHE_HOME"):
            patch.delenv(name, raising=False)
        assert program("doctor").exit_code == 0


# -- output --------------------------------------------------------------------------------------


@row("C07", "a pipe, `-`, no terminal, `NO_COLOR`", "data on standard output, all else elsewhere")
def pipes(folder):
    done = program(*ANNOTATE[:-1], "-")
    assert done.exit_code == 0
    assert len(pd.read_csv(io.StringIO(done.stdout), index_col=0)) == 60
    assert not (folder / "-").exists()
    refused(3, "E-F07", "annotate", "-", *ANNOTATE[2:])
    for arguments in (*GOOD.values(), ("doctor",), ("plugins",), ("--help",), ("nonsense",)):
        done = program(*arguments, "--overwrite") if "-o" in arguments else program(*arguments)
        assert "\x1b" not in done.output, arguments
    assert "\x1b[3" in on_a_terminal(TERM="xterm-256color")
    assert not re.search(r"\x1b\[[0-9;]*3\d", on_a_terminal(TERM="xterm", NO_COLOR="1"))
    assert "\x1b" not in on_a_terminal(TERM="dumb")


#: Where a command is when Ctrl-C comes: what it calls there.
MOMENTS = {
    "annotate": (
        "episome.jobs._asked:read_cells",
        "episome.jobs._annotate:_calls",
        "episome.io._results:write_file",
        "os:replace",
    ),
    "check": ("episome.data:check_readable", "episome.jobs:check"),
    "train": (
        "episome.jobs._train:read_cells",
        "episome_baselines.centroid:best_scale",
        "episome.io._folder:read_manifest",
        "os:replace",
        "os:rename",
    ),
    "demo": ("episome.jobs._demo:load_demo_cells",),
    "doctor": ("episome.cli.doctor:_versions",),
    "plugins": ("episome.cli.plugins:_text",),
    "help": ("episome.cli.help:_codes",),
}


@row("C08", "Ctrl-C in every command", "exit code 130; no traceback, nothing half-written")
def interrupted(folder):
    whole = {
        **GOOD,
        "doctor": ("doctor",),
        "plugins": ("plugins",),
        "help": ("help", "exit-codes"),
    }
    before, stopped = tree(), set()
    for name, arguments in whole.items():
        for target in MOMENTS[name]:
            code = child(functools.partial(stop_at, target, arguments, folder))
            said = (folder / "err").read_text()
            after = {k: v for k, v in tree().items() if k not in {"out", "err"}}
            assert code in {130, 98}, (target, code, said)
            if code == 98:  # this command never comes there
                continue
            stopped.add(name)
            assert "stopped by Ctrl-C" in said, target
            assert "Traceback" not in said
            assert (folder / "out").read_text() == ""
            assert {k: after.pop(k) for k in before} == before, target
            # stopped after the end, when only the run was to be remembered: the output is whole,
            # and so is the record where the signal came to another thread, a moment later
            left = {Path(k).parts[0] for k in after}
            assert left <= {"calls.csv", "calls.csv.run.json", "new", "new.run.json"}, target
            if "calls.csv" in left:
                assert len(pd.read_csv("calls.csv")) == 60
            if "new" in left:
                load(folder / "new")
            for record in (k for k in left if k.endswith(".run.json")):
                assert record.removesuffix(".run.json") in left
                assert json.loads(after[record])["command"] == name
            remove_outputs(folder)
    assert stopped == set(whole)


# -- failures ------------------------------------------------------------------------------------


@row("C09", "any failure, with `--json`", "one object on standard output")
def failures_in_json(folder):
    with_bad(query(), np.nan).write_h5ad(folder / "nan.h5ad")
    (folder / "other").mkdir()
    for code, kind, arguments in (
        (2, "E-U01", ("nonsense",)),
        (2, "E-U02", (*ANNOTATE, "--batch-size", "x")),
        (3, "E-D01", ("annotate", "nan.h5ad", *ANNOTATE[2:])),
        (3, "E-F07", ("annotate", "no.h5ad", *ANNOTATE[2:])),
        (4, "E-M05", (*ANNOTATE[:3], "other", *ANNOTATE[4:])),
        (5, "E-P01", ("train", "sctap", *TRAIN[2:])),
        (2, "E-U03", ("doctor", "--explain", "E-Q0x")),
        (2, "E-U25", (*TRAIN, "--device", "tpu")),
    ):
        found = refused(code, kind, *arguments)
        assert set(found["error"]) == {"code", "class", "message", "fix", "details"}
        assert found["error"]["fix"]
        assert found["outputs"] == []


@row("C10", "a bug of ours", "one line and the path of a report; `--debug` shows the traceback")
def bug(folder):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("by zero")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("EPISOME_HOME", str(folder / "home"))
        patch.setattr("episome.jobs._annotate.Predictor.prepare", broken)
        done = program(*ANNOTATE, "-q")
        assert (done.exit_code, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1
        report = Path(re.search(r"the report is in (\S+\.txt)", done.stderr)[1])
        text = report.read_text()
        assert "ZeroDivisionError: by zero" in text
        assert "command: episome annotate query.h5ad" in text
        assert str(folder) not in text  # the home folder
        assert "numpy: " in text
        assert "Traceback" in program(*ANNOTATE, "--debug").stderr
        found = json.loads(program(*ANNOTATE, "--json").stdout)
        assert found["error"]["code"] == "E-X01"
        assert not (folder / "calls.csv").exists()


@row(
    "C11",
    "no network",
    "every command works but those that fetch or send, which say that the cache does",
)
def no_network(folder):
    def closed(*args, **kwargs):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", closed)
        patch.setattr(socket, "getaddrinfo", closed)
        patch.setattr(socket, "create_connection", closed)
        refused(7, "E-N01", "models", "pull", "lab/model", match="cannot be reached.*models list")
        light = (("models", "list"), ("completion", "zsh"), ("data", "hash", "query.h5ad"))
        for arguments in (
            *GOOD.values(),
            *light,
            ("doctor",),
            ("plugins",),
            ("help",),
            ("demo", "-q"),
        ):
            if arguments[0] == "demo":
                patch.setattr("episome.plugins.models", only_quick_models())
            done = program(*arguments)
            assert done.exit_code == 0, (arguments, done.output)


def only_quick_models():
    """The table of models, where the demo takes one that is fitted at once."""
    import dataclasses

    from episome import plugins

    table = plugins.models()
    quick = dataclasses.replace(table["centroid"], tags=("demo",))
    return lambda: {"centroid": quick}


@row("C12", "a terminal of 40 columns that knows only ASCII", "no error; tables wrap")
def narrow_ascii(folder):
    names = dict(zip(sorted(set(types_of(cells()))), ["αβ T細胞 🧬", "é", "x" * 60], strict=True))
    asked = labelled([names[t] for t in types_of(cells())])
    asked.write_h5ad(folder / "odd.h5ad")
    trained(asked).save(folder / "odd")
    odd = ("train", "centroid", "odd.h5ad", *TRAIN[3:], "--overwrite")
    annotate_odd = ("annotate", "odd.h5ad", "-m", "odd", "-o", "c.csv", "--overwrite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "40")
        patch.setenv("LC_ALL", "C")
        for arguments in (
            odd, annotate_odd, (*annotate_odd, "--json"), ("check", "odd.h5ad"), ("--help",),
            ("train", "--help"), ("plugins",), ("annotate", "Zürich.h5ad", "-m", "é"),
        ):  # fmt: skip
            code = child(functools.partial(in_ascii, arguments, folder))
            said = (folder / "err").read_text("utf-8") + (folder / "out").read_text("utf-8")
            assert code == (3 if "Zürich.h5ad" in arguments else 0), said
            assert "a bug in episome" not in said
            if arguments == ("--help",):
                assert max(map(len, said.splitlines())) <= 40
    assert set(pd.read_csv("c.csv")["label"]) <= set(names.values())


@row(
    "C13",
    "a file of settings with an unknown key, a wrong value, a key twice, or of great size",
    "refused, with the line",
)
def settings_files(folder):
    for text, kind, match in (
        ("layer = 'x'\nbatch-siz = 3", "E-U121", "line 2.*batch-size"),
        ("\nbatch-size = 'many'", "E-U121", "line 2.*not a valid integer"),
        ("layer = 'x'\nlayer = 'y'\n\n", "E-U120", "line 2"),
        ("[annotate.a.b.c]\nd = 1", "E-U120", "too deep"),
        ("#" * (1 << 21), "E-U120", "too large"),
    ):
        Path("settings.toml").write_text(text)
        refused(2, kind, *ANNOTATE, "--config", "settings.toml", match=match)


@row("C14", "the same command twice", "nothing is done the second time")
def twice(folder):
    for arguments, output in ((ANNOTATE, "calls.csv"), (TRAIN, "new")):
        first = program(*arguments, "--json")
        assert first.exit_code == 0, first.output
        before = tree()
        again, as_text = program(*arguments, "--json"), program(*arguments)
        assert (again.exit_code, as_text.exit_code) == (0, 0)
        assert "nothing is done" in again.stderr
        assert tree() == before
        found, wanted = json.loads(again.stdout), json.loads(first.stdout)
        assert found["repeated"] is True
        assert found["outputs"] == wanted["outputs"] == [{"path": output}]
        for key in set(wanted) - {"timings", "inputs"}:
            assert found[key] == wanted[key], key
        # another argument, another input, another output: an output of something else
        more = ("--seed", "1") if output == "new" else ("--min-gene-overlap", "0.4")
        refused(3, "E-F26", *arguments, *more)
    os.utime("query.h5ad", ns=(1, 1))
    refused(3, "E-F26", *ANNOTATE)
    (folder / "model" / "README.md").write_text("another card")
    refused(3, "E-F26", *ANNOTATE)
    assert program(*ANNOTATE, "--overwrite").exit_code == 0
    assert "nothing is done" in program(*ANNOTATE).stderr
    with (folder / "calls.csv").open("a") as file:
        file.write("mine\n")
    refused(3, "E-F26", *ANNOTATE)
    assert program(*ANNOTATE, "--overwrite").exit_code == 0
    assert len(pd.read_csv("calls.csv")) == 60


@row("C15", "`--threads 0`; a container of one core and 1 GB", "refused; its limits are kept")
def limits(folder):
    for arguments in (TRAIN, ANNOTATE, ("demo",)):
        refused(2, "E-U02", *arguments, "--threads", "0", match="--threads.*x>=1")
    group = folder / "cgroup"
    group.mkdir()
    (group / "cpu.max").write_text("100000 100000\n")
    (group / "memory.max").write_text(f"{1 << 30}\n")
    (group / "memory.current").write_text(f"{1 << 29}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "CGROUP", group)
        patch.delenv("OMP_NUM_THREADS", raising=False)
        found = json.loads(program("doctor", "--json").stdout)["resources"]
        assert (found["cores"], found["memory_limit"]) == (1, 1 << 30)
        assert found["memory_available"] <= 1 << 29
        assert program(*ANNOTATE).exit_code == 0
        assert os.environ["OMP_NUM_THREADS"] == "1"
        (group / "memory.max").write_text("1000\n")
        (group / "memory.current").write_text("0\n")
        refused(3, "E-F09", *GOOD["check"], match="would take")


# -- the rows ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", marked(CATALOGUE, {}))
def test_bad_commands(name, folder):
    CATALOGUE[name].shows(folder)


# -- what Python says, the commands say ----------------------------------------------------------


def test_the_same_is_said_by_the_command(tmp_path):
    with_bad(cells(), np.nan).write_h5ad(tmp_path / "cells.h5ad")

    found = check(CheckRequest(tmp_path / "cells.h5ad")).inspection

    assert "E-D01" in {f.problem.code for f in found.findings}


@pytest.mark.parametrize("options", [{"nan": "zero"}, {"use_raw": "auto"}])
def test_files_are_put_right_as_objects_are(options, tmp_path):
    asked = with_bad(query(), np.nan) if "nan" in options else normalised_with_raw(query())
    asked.write_h5ad(tmp_path / "q.h5ad")

    found = annotate(AnnotateRequest(tmp_path / "q.h5ad", copied(tmp_path), None, **options))

    assert (found.calls["label"] == model().predict(asked, **options)).all()
    assert any("NaN are read as zero" in n or "those of raw" in n for n in found.notes)


def test_the_command_takes_what_python_takes(tmp_path):
    adata = normalised_with_raw(cells())
    adata.write_h5ad(tmp_path / "cells.h5ad")
    run = CliRunner().invoke
    output = str(tmp_path / "model")

    words = ["--labels-key", "cell_type", "--auto-raw", "--nan", "zero", "-o", output]
    done = run(_app.app, ["train", "centroid", str(tmp_path / "cells.h5ad"), *words])

    assert done.exit_code == 0, done.output
    assert load(output).setup_args["use_raw"] is True
    assert load(output).setup_args["nan"] == "zero"
