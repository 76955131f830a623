"""The reference of hooks is written from the specifications, and its examples work.

``EPISOME_WRITE_PAGES=1`` writes ``docs/developer/hooks.md`` anew.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from pathlib import Path

import click
import pytest

from episome import plugins
from episome.plugins import API_VERSION, _discovery, _hookspecs, _manager

PAGE = Path(__file__).parents[1] / "docs" / "developer" / "hooks.md"
HOOKS = {n: f for n, f in vars(_hookspecs).items() if n.startswith("episome_")}
REGISTER = {n: HOOKS[n] for n in _manager._REGISTER}
NOTICES = [n for n in HOOKS if n not in REGISTER and n != "episome_cli"]

HEAD = f"from episome.plugins import {{names}}\n\nEPISOME_API = {API_VERSION}\n\n\n"
EXAMPLES = {
    "episome_register_models": """\
@hookimpl
def episome_register_models():
    return (
        ModelSpec(
            name="gene-net",
            target="episome_gene_net.model:GeneNet",
            core="episome_gene_net.core:GeneNetCore",
            summary="one line for listings",
            capabilities=("annotation", "embedding", "explanation"),
        ),
    )
""",
    "episome_register_datasets": """\
@hookimpl
def episome_register_datasets():
    return (
        DatasetSpec(
            name="gene-net-cells",
            target="episome_gene_net.data:load_cells",
            summary="simulated cells of four types",
            columns={"labels": "cell_type", "donor": "donor_id"},
        ),
    )
""",
    "episome_register_metrics": """\
@hookimpl
def episome_register_metrics():
    return (
        MetricSpec(
            name="gene-net-worst-recall",
            target="episome_gene_net.metrics:worst_recall",
            task="annotation",
            summary="recall of the class that is missed most",
        ),
    )
""",
    "episome_register_tasks": """\
@hookimpl
def episome_register_tasks():
    return (
        TaskSpec(
            name="rare-types",
            target="episome_gene_net.tasks:RareTypes",
            summary="annotation of types with few cells",
            capability="annotation",
            metrics=("gene-net-worst-recall",),
        ),
    )
""",
    "episome_register_studies": """\
@hookimpl
def episome_register_studies():
    return (
        StudySpec(
            name="gene-net-paper",
            target="episome_gene_net.studies:PAPER",
            summary="the tables of the paper",
            tasks=("rare-types",),
            datasets=("gene-net-cells",),
            models=("gene-net",),
        ),
    )
""",
    "episome_register_pretext_tasks": """\
@hookimpl
def episome_register_pretext_tasks():
    return (
        PretextSpec(
            name="shuffled-genes",
            target="episome_gene_net.pretext:ShuffledGenes",
            summary="find the genes whose values were exchanged",
        ),
    )
""",
    "episome_register_sources": """\
@hookimpl
def episome_register_sources():
    return (
        SourceSpec(
            name="lab-store",
            target="episome_gene_net.sources:LabStore",
            summary="cells of the laboratory's store",
            schemes=("lab:",),
        ),
    )
""",
    "episome_register_converters": """\
@hookimpl
def episome_register_converters():
    return (
        ConverterSpec(
            name="gene-net-checkpoint",
            target="episome_gene_net.model:GeneNet.from_checkpoint",
            summary="a checkpoint of the published code",
        ),
    )
""",
    "episome_cli": """\
@hookimpl
def episome_cli(app):
    import click

    app.add_command(click.Command("gene-net", callback=lambda: click.echo("it works")))
""",
    "episome_before_train": """\
@hookimpl
def episome_before_train(model, run):
    print(type(model).__name__, run["seed"])
""",
    "episome_after_train": """\
@hookimpl
def episome_after_train(model):
    print(model.history)
""",
    "episome_after_evaluate": """\
@hookimpl
def episome_after_evaluate(result):
    print(result)
""",
}


def example(hook: str) -> str:
    """A plugin module with one hook."""
    kind = _manager._REGISTER.get(hook)
    return HEAD.format(names=f"{kind.__name__}, hookimpl" if kind else "hookimpl") + EXAMPLES[hook]


# -- the page ------------------------------------------------------------------------------------

TOP = f"""\
# Hooks

What a plugin may tell the host, and what it is told. This page is written from the
specifications in `episome.plugins`; every example on it is run. [](first_plugin.md) shows them at
work.

A plugin is a module that is named in the entry-point group `episome`. It states the version of the
interface that it was written for, `EPISOME_API`, and implements any of the hooks below, with
`@hookimpl` and their exact names. All plugins are asked, and none wins over another.

## The promise

The interface has a version of its own, `episome.plugins.API_VERSION`, now
`{API_VERSION}`: major and minor. It does not move with the version of the host.

| what changes in the host | `API_VERSION` | what a plugin has to do |
|---|---|---|
| messages, speed, mistakes that are put right | stays | nothing |
| a new hook; a new field with a default, at the end of a spec; a new argument at the end of a \
hook; a new base, check or tag | minor + 1 | nothing |
| a hook, a field or an argument goes or means something else | major + 1 | follow the changelog |

- **What goes is announced.** A name that is to go stays for at least one minor release of the
  host, does what it did, and says with a `DeprecationWarning` what takes its place. The next major
  version of the interface takes it away.
- **A plugin asks for the arguments that it uses.** An implementation may leave out any argument of
  its hook, so a new one breaks nothing.
- **A plugin states the smallest version that it needs.** The host takes it when the major number
  is its own and the minor number is not above its own. So a plugin for `(1, 0)` works with every
  host of `(1, x)`; one for `(1, 2)` asks for a host that has what came with `(1, 2)`.
- **Another version is refused, not tried.** A plugin that was written for a newer minor or another
  major version, or that states none, is listed as refused with what to update [E-P05], before it
  is imported where its statement is a plain literal. Everything else goes on.
- **A hook that the host does not know is a mistake** [E-P06], so that a misspelt name is not
  silently never called.
- Only what is in `__all__` of a public package is promised. Names with an underscore in front may
  change at any time.
- Names of checks of the conformance kit and codes of messages are kept in the same way: they may
  come, and go only when announced.

## Rules for every hook

- A registration hook returns specs, and does nothing else: no files, no network, no heavy import.
- `target` and `core` are text, `"package.module:Name"`, and imported when they are used.
- Names are unique among all plugins, for every kind of spec. On a clash nobody gets the name, and
  `id:name` works for both.
- What a hook prints goes to the log.
- A plugin whose registration raises or returns something else is listed as failed, with the
  reason. What the other hooks raise is logged. Neither stops the host or another plugin; only with
  `EPISOME_STRICT_PLUGINS=1`, meant for tests, is it an error.
"""


def page() -> str:
    """The reference, as a page of the documentation."""
    lines = [TOP]
    lines += ["## What a plugin registers", ""]
    lines += ["Asked once, when the plugins are loaded: at the first use of any of them.", ""]
    for name in REGISTER:
        lines += section(name)
    lines += ["## Commands", "", *section("episome_cli")]
    lines += ["## Notices", ""]
    lines += ["Called as things happen; what they return is not used.", ""]
    for name in NOTICES:
        lines += section(name)
    return "\n".join(lines).rstrip() + "\n"


def section(name: str) -> list[str]:
    """Signature, text, fields and an example of a hook."""
    hook, kind = HOOKS[name], _manager._REGISTER.get(name)
    text = inspect.cleandoc(hook.__doc__).replace("``", "`")
    arguments = ", ".join(inspect.signature(hook).parameters)
    returns = f"a tuple of `{kind.__name__}`" if kind else "nothing"
    lines = [f"### `{name}({arguments})`", "", text, "", f"Returns {returns}.", ""]
    if kind:
        lines += [*fields(kind), ""]
    return [*lines, "```python", example(name).rstrip(), "```", ""]


def fields(kind: type) -> list[str]:
    """The fields of a spec: those that its text names together in one row."""
    known = {f.name: f for f in dataclasses.fields(kind)}
    lines = [inspect.cleandoc(kind.__doc__).split("\n")[0].replace("``", "`"), ""]
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    for names, text in parameters(kind):
        cells = [
            [f"`{n}`" for n in names],
            [f"`{known[n].type}`" for n in names],
            [default(known[n]) for n in names],
        ]
        same = [list(dict.fromkeys(c)) if len(set(c)) == 1 else c for c in cells]
        lines.append(f"| {' | '.join(', '.join(c) for c in same)} | {text.replace('``', '`')} |")
    return lines


def parameters(kind: type) -> list[tuple[list[str], str]]:
    """The names and the text of every entry under "Parameters"."""
    _, _, text = inspect.cleandoc(kind.__doc__).partition("Parameters\n----------\n")
    found = re.findall(r"^(\S.*)\n((?:    .*\n?)+)", text, re.M)
    return [(names.split(", "), " ".join(said.split())) for names, said in found]


def default(field: dataclasses.Field) -> str:
    """What a field is when it is not given."""
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    return "required" if field.default is dataclasses.MISSING else f"`{field.default!r}`"


def test_the_page_is_up_to_date():
    if os.environ.get("EPISOME_WRITE_PAGES"):
        PAGE.write_text(page(), encoding="utf-8")

    assert PAGE.read_text(encoding="utf-8") == page(), "run it again with EPISOME_WRITE_PAGES=1"


def test_every_hook_has_an_example_and_every_field_a_text():
    assert set(EXAMPLES) == set(HOOKS)
    for kind in _manager._REGISTER.values():
        named = [n for names, _ in parameters(kind) for n in names]
        assert sorted(named) == sorted(f.name for f in dataclasses.fields(kind))


# -- the examples --------------------------------------------------------------------------------


def loaded(install, source):
    install("alpha", source)
    plugins.reset_manager()
    (status,) = (s for s in plugins.plugin_status() if s.id == "alpha")
    return status


@pytest.mark.parametrize("hook", sorted(REGISTER))
def test_examples_of_registration_register(install, hook):
    status = loaded(install, example(hook))

    assert (status.status, status.hooks, status.notes) == ("loaded", (hook,), ())
    kind = _manager._REGISTER[hook]
    (spec,) = (s for s in plugins.get_manager().specs(kind).values() if s.plugin == "alpha")
    assert spec.name in EXAMPLES[hook]


def test_the_example_of_a_command_adds_it(install):
    assert loaded(install, example("episome_cli")).status == "loaded"
    app = click.Group("app")

    plugins.add_commands(app)

    assert "gene-net" in app.commands


@pytest.mark.parametrize("hook", NOTICES)
def test_examples_of_notices_are_called(install, hook, caplog):
    caplog.set_level("DEBUG", logger="episome")
    assert loaded(install, example(hook)).status == "loaded"

    class Model:
        history = "its history"

    told = {"model": Model(), "run": {"seed": 7}, "result": "a result"}
    wanted = inspect.signature(HOOKS[hook]).parameters
    getattr(plugins, hook.removeprefix("episome_"))(**{n: told[n] for n in wanted})

    said = {"before_train": "Model 7", "after_train": "its history", "after_evaluate": "a result"}
    assert f"alpha printed: {said[hook.removeprefix('episome_')]}" in caplog.text


# -- the promise ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "host", "status"),
    [
        ((1, 0), (1, 0), "loaded"),
        ((1, 0), (1, 3), "loaded"),
        ((1, 2), (1, 3), "loaded"),
        ((1, 4), (1, 3), "refused"),
        ((2, 0), (1, 3), "refused"),
        ((1, 0), (2, 0), "refused"),
        (None, (1, 0), "refused"),
    ],
)
def test_versions_are_taken_and_refused_as_promised(install, monkeypatch, plugin, host, status):
    monkeypatch.setattr(_discovery, "API_VERSION", host)
    source = example("episome_after_train")
    line = f"EPISOME_API = {API_VERSION}\n"
    changed = source.replace(line, "" if plugin is None else f"EPISOME_API = {plugin}\n")

    found = loaded(install, changed)

    assert found.status == status
    assert found.code == ("" if status == "loaded" else "E-P05")


def test_a_newer_plugin_is_refused_before_it_is_imported(install):
    newer = (API_VERSION[0], API_VERSION[1] + 1)

    found = loaded(install, f"EPISOME_API = {newer}\nraise OSError('imported')\n")

    assert (found.status, found.code) == ("refused", "E-P05")


def test_a_hook_of_another_name_is_a_mistake(install):
    found = loaded(install, example("episome_after_train").replace("after_train", "afer_train"))

    assert (found.status, found.code) == ("failed", "E-P06")
    assert "episome_after_train" in found.reason
