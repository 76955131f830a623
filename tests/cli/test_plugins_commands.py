"""`episome plugins` and its commands: list, show, new."""

from __future__ import annotations

import json

import jsonschema
import pytest
from click.testing import CliRunner

from episome.cli import _app
from episome.cli import plugins as group
from episome.cli._answers import answer_schema
from episome.jobs._new_plugin import _TASKS

SCHEMA = answer_schema("")

EVERYTHING = """
from episome.plugins import *
from episome.plugins import hookimpl
EPISOME_API = (1, 0)

def _spec(kind, name):
    return (kind(name=name, target="json:loads", summary=f"a {name}"),)

@hookimpl
def episome_register_models():
    one = ModelSpec(name="one", target="json:One", core="json:Core", reference="10.1/x")
    return one, ModelSpec(name="two", target="json:Two", core="json:Core", modalities=("atac",))

@hookimpl
def episome_register_datasets(): return _spec(DatasetSpec, "some-cells")
@hookimpl
def episome_register_metrics(): return _spec(MetricSpec, "some-score")
@hookimpl
def episome_register_tasks(): return _spec(TaskSpec, "some-task")
@hookimpl
def episome_register_studies(): return _spec(StudySpec, "some-study")
@hookimpl
def episome_register_pretext_tasks(): return _spec(PretextSpec, "some-pretext")
@hookimpl
def episome_register_sources(): return _spec(SourceSpec, "some-source")
@hookimpl
def episome_register_converters(): return _spec(ConverterSpec, "some-converter")
"""


@pytest.fixture
def run(fresh_manager):
    def invoke(*arguments: str):
        return CliRunner().invoke(_app.app, ["plugins", *arguments])

    return invoke


def the_object(result):
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    jsonschema.validate(found, SCHEMA)
    return found


def without_times(found):
    times = {"timings": None, "plugins": [{**p, "seconds": None} for p in found["plugins"]]}
    return {**found, **times}


# -- the group -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_the_bare_group_lists_as_list_does(run, install, arguments):
    install("alpha", "raise OSError('no disk')")

    result = run(*arguments)

    assert result.exit_code == 0
    assert result.stdout == run().stdout
    assert "OSError: no disk [E-P02]" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", [["--json"], ["list", "--json"], ["--json", "list"]])
def test_json_of_the_listing_is_the_same_by_every_name(run, arguments):
    found = the_object(run(*arguments))

    assert found["command"] == "plugins"
    assert without_times(found) == without_times(the_object(run("--json")))


def test_help_lists_the_commands_without_importing_those_of_other_files(run, monkeypatch):
    monkeypatch.setitem(group.LATER, "check", ("nowhere:command", "Check a model."))

    text = run("--help").stdout

    assert all(f"  {name} " in text for name in ("check", "list", "new", "show"))
    assert "Check a model." in text


def test_a_command_of_another_file_is_imported_when_it_runs(run, monkeypatch):
    monkeypatch.setitem(group.LATER, "check", ("episome.cli.help:command", "Another."))

    assert "130  " in run("check", "exit-codes").stdout


@pytest.mark.parametrize("command", ["list", "show", "new"])
def test_help_of_every_command_ends_with_two_examples(run, command):
    lines = run(command, "--help").stdout.splitlines()

    assert [line.strip().startswith("$ episome plugins " + command) for line in lines[-2:]] == [
        True,
        True,
    ]


# -- show ----------------------------------------------------------------------------------------


def test_show_says_all_that_a_plugin_registers(run, install):
    install("alpha", EVERYTHING)

    text, found = run("show", "alpha").stdout, the_object(run("show", "alpha", "--json"))

    assert "alpha  episome-alpha 1.2  API 1.0  loaded" in text
    assert "10.1/x" in text
    assert "modalities    atac" in text
    for kind in ("datasets", "metrics", "tasks", "studies", "pretext_tasks", "sources"):
        (spec,) = found["registered"][kind]
        assert (spec["plugin"], spec["target"]) == ("alpha", "json:loads")
        assert f"{spec['id']}  json:loads: a {spec['id']}" in text
    assert [m["id"] for m in found["registered"]["models"]] == ["one", "two"]
    (plugin,) = found["plugins"]
    assert plugin["seconds"] > 0
    assert "episome_register_sources" in plugin["hooks"]


@pytest.mark.parametrize("name", ["one", "One", "alpha:One"])
def test_show_of_a_model_is_of_that_model(run, install, name):
    install("alpha", EVERYTHING)

    found = the_object(run("show", name, "--json"))

    assert [m["id"] for m in found["registered"]["models"]] == ["one"]
    assert [p["id"] for p in found["plugins"]] == ["alpha"]


def test_show_by_distribution_and_by_id_are_the_same(run):
    assert run("show", "episome-baselines").stdout == run("show", "baselines").stdout


def test_show_of_a_plugin_that_failed_says_why(run, install):
    install("alpha", "raise OSError('no disk')")

    result = run("show", "alpha")

    assert result.exit_code == 0
    assert "alpha  episome-alpha 1.2  API -  failed" in result.stdout
    assert "OSError: no disk [E-P02]" in result.stdout


def test_show_of_an_id_that_two_have_shows_both(run, install):
    install("alpha", EVERYTHING)
    install("alpha", EVERYTHING, distribution="other", module="fake_other")

    found = the_object(run("show", "alpha", "--json"))

    assert [(p["distribution"], p["status"]) for p in found["plugins"]] == [
        ("episome-alpha", "clash"),
        ("other", "clash"),
    ]
    assert not any(found["registered"].values())


def test_show_of_nothing_says_what_is_similar(run):
    result = run("show", "sctb")

    assert (result.exit_code, result.stdout) == (5, "")
    assert "did you mean `sctab`" in result.stderr


# -- new -----------------------------------------------------------------------------------------


def test_new_writes_a_package_and_says_what_is_next(run, tmp_path):
    result = run("new", "gene-net", "--task", "embedding", "-o", str(tmp_path))

    folder = tmp_path / "episome-gene-net"
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == str(folder)
    assert f"  cd {folder}" in result.stdout
    assert "class GeneNet(EmbeddingMixin, NetworkModel):" in (
        folder / "src" / "episome_gene_net" / "model.py"
    ).read_text(encoding="utf-8")


def test_new_writes_into_the_current_folder_by_default(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert run("new", "gene-net", "--task", "annotation").exit_code == 0
    assert (tmp_path / "episome-gene-net" / "pyproject.toml").is_file()


def test_json_of_new_names_every_file(run, tmp_path):
    found = the_object(run("new", "x", "--task", "translation", "-o", str(tmp_path), "--json"))

    written = {str(p) for p in tmp_path.rglob("*") if p.is_file()}
    assert {o["path"] for o in found["outputs"]} == written
    assert (found["distribution"], found["module"], found["class_name"]) == (
        "episome-x",
        "episome_x",
        "X",
    )
    assert found["folder"] == str(tmp_path / "episome-x")


def test_tasks_of_the_option_are_those_of_the_templates():
    assert set(group.TASKS) == set(_TASKS)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["new", "GeneNet", "--task", "annotation"], 2, "for example gene-net"),
        (["new", "train", "--task", "annotation"], 2, "belongs to the host"),
        (["new", "sctab", "--task", "annotation"], 2, "taken by episome-sctab"),
        (["new", "x", "--task", "explanation"], 2, "'annotation', 'embedding'"),
        (["new", "x"], 2, "--task"),
        (["new", "there", "--task", "annotation"], 3, "not empty"),
        (["new", "there", "--task", "annotation", "--overwrite"], 2, "--overwrite"),
    ],
)
def test_new_refuses_before_it_writes(run, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "episome-there").mkdir()
    (tmp_path / "episome-there" / "mine").touch()

    result = run(*arguments)

    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert [p.name for p in tmp_path.rglob("*")] == ["episome-there", "mine"]
    as_json = the_object(run(*arguments, "--json"))
    assert as_json["error"]["message"] in result.stderr
