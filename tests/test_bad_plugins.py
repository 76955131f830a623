"""Bad plugins, row by row of the catalogue of bad inputs: nothing else is harmed.

Every row installs a distribution of its own into a folder on the path, beside the good ones.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from _bad_cells import cells, model, query, set_up
from _catalogue import Catalogue
from click.testing import CliRunner

from episome import plugins
from episome.benchmark import DataEntry, ModelEntry, Study, run_study
from episome.cli._app import app
from episome.data import simulate_cells
from episome.errors import MissingDependencyError, PluginError
from episome.inference import Predictor
from episome.jobs import PluginCheckRequest, check_plugin

CATALOGUE = Catalogue("test_bad_plugins")
row = CATALOGUE.row

#: Rows that wait for what is not built yet: they are no tests.
LATER = {
    "P15": "a dependency that moved on: a nightly run with the newest and the oldest",
}

HEAD = "from episome.plugins import ModelSpec, hookimpl\nEPISOME_API = (1, 0)\n"
REGISTERS = (
    HEAD
    + '@hookimpl\ndef episome_register_models():\n    return (ModelSpec("{name}", "{target}", '
    '"{target}"),)\n'
)
GOOD = REGISTERS.format(name="fine", target="fake_fine_model:Fine")


@dataclass(frozen=True)
class Lab:
    """A folder on the path, and what is installed into it."""

    folder: Path
    install: Callable[..., Path]
    caplog: pytest.LogCaptureFixture

    def add(self, plugin: str, source: str, **modules: str) -> None:
        """Install a plugin, and further modules beside it."""
        site = self.install(plugin, source)
        for name, text in modules.items():
            (site / f"{name}.py").write_text(text, encoding="utf-8")
        plugins.reset_manager()


@pytest.fixture
def lab(tmp_path, install, caplog, monkeypatch):
    site = str(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([site, os.environ.get("PYTHONPATH", "")]))
    install("fine", GOOD)
    return Lab(tmp_path, install, caplog)


def status(plugin):
    (found,) = [s for s in plugins.plugin_status() if s.id == plugin]
    return found


def others_work():
    """The good plugin and those of this repository are listed, and answer."""
    assert status("fine").status == "loaded"
    assert "fine" in plugins.models()
    assert {"sctab", "logreg"} <= set(plugins.models())


def program(*arguments):
    return CliRunner().invoke(app, list(arguments))


def explained(plugin: str, *words: str):
    """Both commands that speak of plugins say what is wrong."""
    for command in ("plugins", "doctor"):
        done = program(command)
        assert done.exit_code == 0, done.output
        assert plugin in done.output
        for word in words:
            assert word in done.output, command


# -- the import ----------------------------------------------------------------------------------


@row("P01", "the module raises, exits or is interrupted", "listed with its last line; E-P02")
def raises_at_import(lab):
    causes = {
        "boom": ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        "leaves": ("import sys\nsys.exit(3)", "SystemExit: 3"),
        "stops": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        "wrong": ("def f(:\n", "SyntaxError"),
    }
    for name, (source, _) in causes.items():
        lab.add(name, HEAD + source)

    others_work()
    for name, (_, text) in causes.items():
        found = status(name)
        assert (found.status, found.code) == ("failed", "E-P02")
        assert text in found.reason
        explained(name, text)
        with pytest.raises(PluginError, match=f"(?s){name}.*{text}.*E-P02"):
            plugins.get_spec(name)


@row("P01b", "the model crashes the interpreter", "found by `plugins check`, which goes on")
def crashes(lab):
    lab.add(
        "crash",
        REGISTERS.format(name="crash", target="fake_crash_model:Crash"),
        fake_crash_model="import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
    )

    others_work()
    found = check_plugin(PluginCheckRequest("crash"))
    done = program("plugins", "check", "crash", "--json")

    (failure,) = found.failures
    assert "killed by SIGSEGV" in failure.message
    assert done.exit_code == 5
    assert json.loads(done.stdout)["error"]["code"] == "E-P09"


@row("P02", "a package that the plugin needs is not installed", "as P01, with the line to install")
def misses_a_package(lab):
    lab.add("needy", HEAD + "import no_such_package_here")
    lab.add(
        "lazy",
        REGISTERS.format(name="lazy", target="fake_lazy_model:Lazy"),
        fake_lazy_model="import no_such_package_here\n",
    )

    others_work()
    assert "pip install no_such_package_here" in status("needy").reason
    explained("needy", "pip install no_such_package_here")
    with pytest.raises(MissingDependencyError, match=r"pip install no_such_package_here.*E-P02"):
        plugins.load_class(plugins.get_spec("lazy"))


@row("P01c", "a notice exits", "logged; the training goes on")
def notice_exits(lab):
    lab.add(
        "exits", HEAD + "@hookimpl\ndef episome_before_train(model, run): raise SystemExit(0)\n"
    )
    adata = cells()
    set_up(adata)

    trained = type(model())(adata)
    trained.train()

    assert trained.is_trained_
    assert any("episome_before_train failed" in r.getMessage() for r in lab.caplog.records)


# -- names ---------------------------------------------------------------------------------------


@row("P03", "two plugins register one name", "neither wins; both work as `id:Name`")
def names_clash(lab):
    for plugin in ("one", "two"):
        lab.add(plugin, REGISTERS.format(name="shared", target=f"fake_{plugin}_model:Shared"))

    others_work()
    with pytest.raises(PluginError, match=r"one:Shared.*two:Shared.*E-P03"):
        plugins.get_spec("shared")
    assert plugins.get_spec("one:Shared").plugin == "one"
    assert plugins.get_spec("two:shared").plugin == "two"
    explained("one", "claimed 2 times")


@row("P04", "a plugin's command has the name of the host's", "the host's stays, with a warning")
def takes_a_command(lab):
    lab.add(
        "greedy",
        HEAD
        + "import click\n@hookimpl\ndef episome_cli(app):\n"
        + '    app.add_command(click.Command("train", callback=lambda: print("mine")))\n'
        + '    app.add_command(click.Command("greet", callback=lambda: print("hello")))\n',
    )

    helped = program("--help")

    assert "Train a model on labelled cells" in helped.output
    assert any(
        "'train'" in r.getMessage() and "E-P04" in r.getMessage() for r in lab.caplog.records
    )
    assert "mine" not in program("train", "--help").output


@row("P05", "written for another version of the interface", "refused without being imported")
def another_interface(lab):
    for name, version in (("older", "(0, 9)"), ("newer", "(2, 0)")):
        source = f"EPISOME_API = {version}\nraise RuntimeError('imported')\n"
        lab.add(name, source)
        found = status(name)
        assert (found.status, found.code) == ("refused", "E-P05")
        assert version[1] in found.reason
        assert "this episome has 1.0" in found.reason
        explained(name, "interface")
    others_work()


@row("P06", "hooks or classes that are none", "refused; the hook, or what it must be, is named")
def breaks_the_rules(lab):
    hooks = {
        "misspelt": ("def episome_register_modles(): return ()", "unknown hook"),
        "argued": ("def episome_register_models(what): return ()", "what"),
        "nothing": ("def episome_register_models(): return None", "returned NoneType"),
        "text": ("def episome_register_models(): return ['sctab']", "returned str"),
        "raising": ("def episome_register_models(): return 1 / 0", "ZeroDivisionError"),
    }
    for name, (source, text) in hooks.items():
        lab.add(name, HEAD + "@hookimpl\n" + source)
        assert status(name).status == "failed"
        assert text in status(name).reason
        explained(name, text)
    lab.add(
        "classless",
        REGISTERS.format(name="classless", target="fake_classless_model:Plain"),
        fake_classless_model="class Plain: pass\n",
    )

    others_work()
    with pytest.raises(PluginError, match=r"is no model class.*BaseModelClass.*E-P06"):
        plugins.load_class(plugins.get_spec("classless"))


# -- time and output -----------------------------------------------------------------------------


@row("P07", "the import takes long, or hangs", "said with its time; `plugins check` ends it")
def imports_slowly(lab):
    lab.add("slow", HEAD + "import time\ntime.sleep(1.2)\n")
    lab.add(
        "hangs",
        REGISTERS.format(name="hangs", target="fake_hangs_model:Hangs"),
        fake_hangs_model="import time\ntime.sleep(600)\n",
    )

    with lab.caplog.at_level("INFO"):
        assert status("slow").seconds > 1
    assert any("slow took 1." in r.getMessage() for r in lab.caplog.records)
    assert "its import took 1." in program("doctor").output
    others_work()
    found = check_plugin(PluginCheckRequest("hangs", import_limit=3.0))
    (failure,) = found.failures
    assert "took more than 3 s" in failure.message


@row("P07b", "a plugin prints to standard output", "its words go to the log")
def prints_at_import(lab):
    lab.add("loud", HEAD + "print('LOOK AT ME')\n")

    done = program("plugins", "--json")

    assert "LOOK AT ME" not in done.stdout
    assert "loud" in {p["id"] for p in json.loads(done.stdout)["plugins"]}
    others_work()


# -- what models do ------------------------------------------------------------------------------


@row("P08", "a model changes the process", "the kit fails it, and names what changed")
def changes_the_process(lab):
    from episome.testing import CHECKS, check_model

    class Seeds(type(model())):
        """Seeds everybody."""

        def train(self, *args, **kwargs):
            super().train(*args, **kwargs)
            np.random.seed(3)  # noqa: NPY002 - the defect

    name = "check_the_state_of_the_process_is_left_alone"
    checks = [c for c in CHECKS if c.name == name]
    (found,) = check_model(Seeds, checks=checks, on_fail="collect")
    assert found.status == "failed"
    assert "numpy's random state" in found.message


@row("P09", "a model writes files, to the data, or to the network", "the kit fails it")
def reaches_out(lab, monkeypatch):
    from episome.testing import CHECKS, check_model

    class Reaches(type(model())):
        """Writes where it should not."""

        def train(self, *args, **kwargs):
            super().train(*args, **kwargs)
            Path("log.txt").write_text("x")
            self.adata.obs["mine"] = 1

    monkeypatch.chdir(lab.folder)
    names = {"check_no_files_are_left", "check_training_data_are_not_modified"}
    checks = [c for c in CHECKS if c.name in names]
    found = check_model(Reaches, checks=checks, on_fail="collect")
    assert {r.check for r in found if r.status == "failed"} == names


@row(
    "P10", "a model gives rows, classes or numbers that cannot be", "refused; the package is named"
)
def answers_nonsense(lab):
    trained, cells = model(), query()
    core = trained.module

    class Wrong(type(core)):
        def __init__(self, change):
            self.__dict__ = {**core.__dict__, "change": change}

        def forward(self, batch):
            out = dict(super().forward(batch))
            key = "probabilities" if "probabilities" in out else "logits"
            return {"probabilities": self.change(softmax(out[key]))}

        def inference(self):
            return self.forward

    def softmax(values):
        shares = np.exp(values - values.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    changes = {
        r"shape \(59, 3\).* for 60 cells": lambda p: p[1:],
        r"for 3 classes": lambda p: p[:, :2],
        r"sum to one": lambda p: p * 2,
        r"no numbers": lambda p: p * np.nan,
    }
    for text, change in changes.items():
        predictor = Predictor(
            Wrong(change),
            features=trained.features,
            rule=trained.input_rule,
            labels=trained.labels,
        )
        with pytest.raises(PluginError, match=rf"(?s)Wrong .*{text}.*E-P06"):
            predictor.annotate(predictor.prepare(cells))


@row("P12", "a model that is not safe in threads", "the kit fails it")
def shares_state(lab):
    from episome.testing import CHECKS, check_model

    cls = type(model())

    class Keeps(cls._core_cls):
        def forward(self, batch):
            self.held = batch
            time.sleep(0.05)
            return super().forward(self.held)

    class Shares(cls):
        """Keeps the batch on the core while it is at work."""

        _core_cls = Keeps

    checks = [c for c in CHECKS if c.name == "check_threads_may_predict_at_once"]
    (bad,) = check_model(Shares, checks=checks, on_fail="collect")
    (good,) = check_model(cls, checks=checks, on_fail="collect")
    assert (bad.status, good.status) == ("failed", "passed")


@row("P13", "an exception in prediction", "the next call is right")
def raises_in_prediction(lab, monkeypatch):
    trained, cells = model(), query()
    wanted = trained.predict_proba(cells)
    core = type(trained.module)
    with monkeypatch.context() as patch:
        patch.setattr(core, "forward", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trained.predict_proba(cells)
    assert trained.predict_proba(cells).equals(wanted)


@row("P14", "no plugin, or metadata that is damaged", "said, with the line to install")
def no_plugins(lab, monkeypatch):
    lab.install("broken", HEAD, entry_points="[episome]\nbroken\n")
    plugins.reset_manager()
    others_work()
    assert any("broken" in line for line in plugins.get_manager().damaged)
    explained("episome_broken", "E-P14")

    monkeypatch.setattr(importlib.metadata, "distributions", lambda: iter(()))
    plugins.reset_manager()
    with pytest.raises(PluginError, match=r"no model is installed.*pip install episome-sctab"):
        plugins.get_spec("sctab")
    assert "pip install" in program("plugins").output


@row("P11", "a model that raises in one cell of a benchmark", "a row with its reason; goes on")
def raises_in_a_benchmark(lab):
    place = lab.folder
    simulate_cells(120, 30, n_types=3, n_donors=4, seed=0).write_h5ad(place / "cells.h5ad")
    broken = ModelEntry("centroid", "broken", train={"max_epochs": 1})
    asked = Study(
        "small",
        "annotation",
        data=(DataEntry("cells", "cells.h5ad", labels_key="cell_type"),),
        models=(broken, ModelEntry("centroid")),
        seeds=(0,),
        floor=False,
    )
    found = run_study(asked, place / "results", base=place)
    assert found.counts == {"failed": 1, "ok": 1}
    failed = found.store.table().query("status == 'failed'").iloc[0]
    assert "max_epochs" in failed["reason"]
    assert "E-U16" in failed["reason"]


# -- the rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_bad_plugins(name, lab, monkeypatch):
    import inspect

    shows = CATALOGUE[name].shows
    wants = inspect.signature(shows).parameters
    shows(lab, **({"monkeypatch": monkeypatch} if "monkeypatch" in wants else {}))
