"""The plugin manager, with real metadata in a folder on the path."""

from __future__ import annotations

import json

import pytest

from episome import plugins
from episome.errors import MissingDependencyError, PluginError

GOOD = """
from episome.plugins import ModelSpec, hookimpl
EPISOME_API = (1, 0)

class Toy: pass
class ToyCore: pass

@hookimpl
def episome_register_models():
    return (ModelSpec("{name}", "{module}:{cls}", "{module}:{cls}Core"),)
"""


def good(module, name="toy", cls="Toy"):
    text = GOOD.replace("Toy", cls) if cls != "Toy" else GOOD
    return text.format(name=name, module=module, cls=cls)


def status_of(plugin):
    (found,) = [s for s in plugins.plugin_status() if s.id == plugin]
    return found


def test_plugin_that_works_is_listed_with_its_models(install):
    install("alpha", good("fake_alpha"))

    status = status_of("alpha")

    assert status.status == "loaded"
    assert status.api == (1, 0)
    assert status.distribution == "episome-alpha"
    assert status.version == "1.2"
    assert status.models == ("toy",)
    assert status.hooks == ("episome_register_models",)


@pytest.mark.parametrize("name", ["toy", "Toy", "alpha:toy", "alpha:Toy", "episome-alpha:Toy"])
def test_get_spec_by_every_name_finds_the_model(install, name):
    install("alpha", good("fake_alpha"))

    spec = plugins.get_spec(name)

    assert (spec.plugin, spec.version, spec.qualified_name) == ("alpha", "1.2", "alpha:Toy")
    assert plugins.load_core(spec).__name__ == "ToyCore"
    assert plugins.spec_of_class(plugins.load_object(spec.target)) == spec


def test_spec_of_class_that_nobody_registers_is_an_error(install):
    with pytest.raises(PluginError, match="no installed plugin registers"):
        plugins.spec_of_class(dict)


@pytest.mark.parametrize(
    ("source", "status", "code", "reason"),
    [
        ("raise OSError('no disk')", "failed", "E-P02", "OSError: no disk"),
        ("import sys; sys.exit(3)", "failed", "E-P02", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "failed", "E-P02", "KeyboardInterrupt"),
        ("import no_such_thing", "failed", "E-P02", "pip install no_such_thing"),
        ("def broken(:", "failed", "E-P02", "SyntaxError"),
        ("x = 1", "refused", "E-P05", "does not say which plugin interface"),
        ("EPISOME_API = '1.0'", "refused", "E-P05", "expected two whole numbers"),
        ("EPISOME_API = (2, 0)\nraise OSError", "refused", "E-P05", "interface 2.0.*update epi"),
        ("EPISOME_API = (1, 9)", "refused", "E-P05", "interface 1.9, this episome has 1.0"),
        ("EPISOME_API = (0, 1)", "refused", "E-P05", "update the plugin"),
        (
            "from episome.plugins import hookimpl\nEPISOME_API = tuple([1, 9])",
            "refused",
            "E-P05",
            "interface 1.9",
        ),
        (
            "from episome.plugins import hookimpl\nEPISOME_API = (1, 0)\n"
            "@hookimpl\ndef episome_register_modles(): return ()",
            "failed",
            "E-P06",
            "unknown hook 'episome_register_modles'",
        ),
        (
            "from episome.plugins import hookimpl\nEPISOME_API = (1, 0)\n"
            "@hookimpl\ndef episome_register_models(nonsense): return ()",
            "failed",
            "E-P06",
            "nonsense",
        ),
        (
            "from episome.plugins import hookimpl\nEPISOME_API = (1, 0)\n"
            "@hookimpl\ndef episome_register_models(): return ['text']",
            "failed",
            "E-P06",
            "returned str among its ModelSpecs",
        ),
        (
            "from episome.plugins import hookimpl\nEPISOME_API = (1, 0)\n"
            "@hookimpl\ndef episome_register_models(): return None",
            "failed",
            "E-P06",
            "returned NoneType",
        ),
        (
            "from episome.plugins import hookimpl, ModelSpec\nEPISOME_API = (1, 0)\n"
            "@hookimpl\ndef episome_register_models(): return (ModelSpec('toy', 'a', 'b:c'),)",
            "failed",
            "E-P02",
            "has not the form 'package.module:Name'",
        ),
    ],
)
def test_plugin_that_fails_takes_nothing_else_down(install, source, status, code, reason):
    install("alpha", source)
    install("beta", good("fake_beta"))

    found = status_of("alpha")

    assert (found.status, found.code) == (status, code)
    assert pytest.importorskip("re").search(reason, found.reason)
    assert plugins.get_spec("toy").plugin == "beta"
    assert status_of("beta").status == "loaded"


def test_name_of_a_failed_plugin_says_why(install):
    install("alpha", "raise OSError('no disk')")

    for name in ("alpha", "alpha:Toy", "episome-alpha"):
        with pytest.raises(PluginError, match=r"'alpha' cannot be used.*OSError: no disk.*E-P02"):
            plugins.get_spec(name)
    with pytest.raises(PluginError, match=r"alpha \(OSError: no disk\)"):
        plugins.get_spec("nonsense-model")


@pytest.mark.parametrize(
    ("name", "suggestion"), [("tooy", "toy"), ("TOYS", "toy"), ("sctabb", "sctab")]
)
def test_unknown_name_suggests_a_near_one(install, name, suggestion):
    install("alpha", good("fake_alpha"))

    with pytest.raises(PluginError, match=f"`{suggestion}`"):
        plugins.get_spec(name)


def test_names_that_clash_have_no_winner_and_work_qualified(install):
    install("alpha", good("fake_alpha"))
    install("beta", good("fake_beta"))

    with pytest.raises(PluginError, match=r"`alpha:Toy` or `beta:Toy`\. \[E-P03\]"):
        plugins.get_spec("toy")
    with pytest.raises(PluginError, match="E-P03"):
        plugins.get_spec("Toy")
    assert plugins.get_spec("alpha:toy").plugin == "alpha"
    assert plugins.get_spec("beta:Toy").plugin == "beta"
    assert {"alpha:toy", "beta:toy"} <= set(plugins.models())
    assert "toy" not in plugins.models()
    assert "claimed 2 times" in status_of("alpha").notes[0]


def test_class_names_that_clash_leave_spec_names_alone(install):
    install("alpha", good("fake_alpha", name="one"))
    install("beta", good("fake_beta", name="two"))

    assert plugins.get_spec("one").plugin == "alpha"
    with pytest.raises(PluginError, match="E-P03"):
        plugins.get_spec("Toy")


def test_one_id_in_two_distributions_is_a_clash(install):
    install("alpha", good("fake_alpha"))
    install("alpha", good("fake_other"), distribution="other-alpha", module="fake_other")

    found = [s for s in plugins.plugin_status() if s.id == "alpha"]

    assert [s.status for s in found] == ["clash", "clash"]
    assert "other-alpha" in found[0].reason
    assert "toy" not in plugins.models()


@pytest.mark.parametrize("name", ["auto", "embedding", "train", "plugins"])
def test_reserved_model_name_works_only_qualified(install, name):
    install("alpha", good("fake_alpha", name=name))

    assert plugins.get_spec(f"alpha:{name}").plugin == "alpha"
    assert plugins.get_spec("Toy").plugin == "alpha"
    assert "belongs to the host" in status_of("alpha").notes[0]
    with pytest.raises(PluginError):
        plugins.get_spec(name)


def test_reserved_id_is_refused(install):
    install("embedding", good("fake_embedding"))

    assert status_of("embedding").status == "refused"
    assert status_of("embedding").code == "E-P03"


def test_environment_blocks_by_id_or_distribution(install, monkeypatch):
    install("alpha", good("fake_alpha"))
    monkeypatch.setenv("EPISOME_BLOCK_PLUGINS", "alpha, episome-sctab")

    assert status_of("alpha").status == "blocked"
    assert status_of("sctab").status == "blocked"
    with pytest.raises(PluginError, match="switched off.*EPISOME_BLOCK_PLUGINS"):
        plugins.get_spec("alpha")


def test_environment_only_blocks_all_others(install, monkeypatch):
    install("alpha", good("fake_alpha"))
    monkeypatch.setenv("EPISOME_ONLY_PLUGINS", "alpha")

    assert set(plugins.models()) == {"toy"}
    assert {s.status for s in plugins.plugin_status() if s.id != "alpha"} == {"blocked"}


def test_no_plugin_at_all_says_what_to_install(install, monkeypatch):
    monkeypatch.setattr(plugins._manager, "find", lambda: ([], []))

    with pytest.raises(PluginError, match=r"no model is installed.*pip install.*E-P14"):
        plugins.get_spec("toy")


def test_environment_strict_raises(install, monkeypatch):
    install("alpha", "raise OSError('no disk')")
    monkeypatch.setenv("EPISOME_STRICT_PLUGINS", "1")

    with pytest.raises(PluginError, match="no disk"):
        plugins.get_manager()


def test_environment_trace_shows_hook_calls(install, monkeypatch, capsys):
    install("alpha", good("fake_alpha"))
    monkeypatch.setenv("EPISOME_TRACE_PLUGINS", "1")

    plugins.get_manager()

    assert "episome: alpha: episome_register_models" in capsys.readouterr().err


def test_output_of_a_plugin_goes_to_the_log(install, capsys, caplog):
    caplog.set_level("DEBUG", logger="episome")
    install("alpha", "print('hello')\n" + good("fake_alpha"))

    plugins.get_manager()

    assert capsys.readouterr().out == ""
    assert "alpha printed: hello" in caplog.text


def test_slow_import_is_said(install, monkeypatch, caplog):
    monkeypatch.setattr(plugins._discovery, "SLOW_IMPORT", -1.0)
    caplog.set_level("INFO", logger="episome")
    install("alpha", good("fake_alpha"))

    plugins.get_manager()

    assert "plugin alpha took" in caplog.text
    assert status_of("alpha").seconds > 0


def test_damaged_metadata_is_skipped_and_kept(install):
    install("alpha", good("fake_alpha"), entry_points="[episome]\nthis is = = no\nalpha\n")
    install("beta", good("fake_beta"))

    assert plugins.get_spec("toy").plugin == "beta"
    assert [s for s in plugins.plugin_status() if s.id == "beta"]


def test_metadata_that_cannot_be_read_is_skipped_with_a_line(install):
    site = install("alpha", good("fake_alpha"))
    (site / "episome_alpha-1.2.dist-info" / "entry_points.txt").write_bytes(b"[episome]\n\xff\xfe")
    install("beta", good("fake_beta"))

    assert plugins.get_spec("toy").plugin == "beta"
    assert any("episome_alpha" in line for line in plugins.get_manager().damaged)


def test_target_that_is_missing_is_a_broken_plugin(install):
    install("alpha", good("fake_alpha").replace('"fake_alpha:Toy"', '"fake_alpha.model:Toy"'))

    with pytest.raises(PluginError, match=r"fake_alpha.model:Toy cannot be imported.*E-P02"):
        plugins.load_class(plugins.get_spec("toy"))


def test_target_that_needs_a_missing_package_names_it(install):
    site = install("alpha", good("fake_alpha").replace('"fake_alpha:Toy"', '"fake_model:Toy"'))
    (site / "fake_model.py").write_text("import no_such_thing.deeper\n")

    with pytest.raises(MissingDependencyError, match="`pip install no_such_thing`"):
        plugins.load_class(plugins.get_spec("toy"))


NOTICES = """
from episome.plugins import hookimpl
EPISOME_API = (1, 0)
SEEN = []

@hookimpl
def episome_before_train(run):
    SEEN.append(run)
    {action}
"""


def test_notice_reaches_every_plugin_and_stops_nothing(install, caplog):
    install("alpha", NOTICES.format(action="raise OSError('no server')"))
    install("beta", NOTICES.format(action="print('seen')"))

    plugins.before_train(object(), "run-1")
    plugins.after_train(object(), "run-1")
    plugins.after_evaluate("result")

    import fake_alpha
    import fake_beta

    assert fake_alpha.SEEN == fake_beta.SEEN == ["run-1"]
    assert "plugin alpha: episome_before_train failed: OSError: no server" in caplog.text


OTHERS = """
from episome.plugins import *
EPISOME_API = (1, 0)

@hookimpl
def episome_register_datasets(): return (DatasetSpec("d", "m:f"),)
@hookimpl
def episome_register_metrics(): return (MetricSpec("m", "m:f"),)
@hookimpl
def episome_register_tasks(): return (TaskSpec("t", "m:f"),)
@hookimpl
def episome_register_studies(): return (StudySpec("s", "m:f"),)
@hookimpl
def episome_register_pretext_tasks(): return (PretextSpec("p", "m:f"),)
@hookimpl
def episome_register_sources(): return (SourceSpec("c", "m:f"),)
@hookimpl
def episome_register_converters(): return (ConverterSpec("v", "m:f"),)
"""


def test_every_kind_of_spec_is_collected(install):
    install("alpha", OTHERS)

    tables = [
        plugins.datasets(),
        plugins.metrics(),
        plugins.tasks(),
        plugins.studies(),
        plugins.pretext_tasks(),
        plugins.sources(),
        plugins.converters(),
    ]

    assert ["".join(k for k, s in t.items() if s.plugin == "alpha") for t in tables] == list(
        "dmtspcv"
    )


@pytest.mark.parametrize("name", ["", "Upper", "two words", "a:b", "-a", "ü", None])
def test_spec_with_a_name_of_the_wrong_form_is_refused(name):
    with pytest.raises(ValueError, match="the name"):
        plugins.ModelSpec(name, "a:B", "a:C")


def test_specs_of_this_repository_import_nothing_heavy(run_python):
    result = run_python(
        "import json, sys\n"
        "from episome import plugins\n"
        "assert plugins.plugin_status()\n"
        "print(json.dumps([m for m in ('torch', 'scvi', 'numpy', 'sklearn') if m in sys.modules]))"
    )

    assert json.loads(result.stdout) == [], result.stderr
