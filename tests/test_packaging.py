"""What is released holds what it needs, and agrees on its version."""

from __future__ import annotations

import re
import tomllib
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
PLACES = [ROOT, *sorted(p.parent for p in ROOT.glob("plugins/*/pyproject.toml"))]


def project(place: Path) -> dict:
    return tomllib.loads((place / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("place", PLACES, ids=lambda p: p.name)
def test_a_wheel_holds_every_file_of_its_package(place, tmp_path):
    (wheel,) = WheelBuilder(str(place)).build(directory=str(tmp_path), versions=["standard"])

    with zipfile.ZipFile(wheel) as archive:
        held = {n for n in archive.namelist() if ".dist-info/" not in n}
    source = place / "src"
    wanted = {
        str(p.relative_to(source))
        for p in source.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert held == wanted
    assert any(n.endswith("py.typed") for n in held)


def test_the_extra_all_names_every_plugin_and_every_extra_that_needs_no_service():
    names = {re.match(r"[\w-]+", d)[0] for d in project(ROOT)["optional-dependencies"]["all"]}

    assert names == {project(p)["name"] for p in PLACES}


def test_all_distributions_have_one_version():
    assert len({project(p)["version"] for p in PLACES}) == 1


def test_the_entry_for_the_registry_of_the_scverse_has_all_that_it_wants():
    entry = yaml.safe_load((ROOT / "docs/packaging/meta.yaml").read_text())

    assert entry["name"] == project(ROOT)["name"]
    assert entry["license"] == project(ROOT)["license"]
    # what its schema requires
    wanted = {"name", "description", "project_home", "documentation_home", "install", "license"}
    assert wanted | {"tags", "version", "category", "contact"} <= set(entry)
    assert entry["category"] == "ecosystem"
    assert entry["install"] == {"pypi": "episome"}
    assert len(set(entry["tags"])) == len(entry["tags"]) > 0


# --- releases ---------------------------------------------------------------------------------


def check_release():
    spec = spec_from_file_location("check_release", ROOT / "docs/packaging/check_release.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.problems


def repository(place: Path, version: str, changelog: str) -> Path:
    for one in PLACES:
        file = place / one.relative_to(ROOT) / "pyproject.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        own = re.sub(
            r'^version = ".*"$',
            f'version = "{version}"',
            (one / file.name).read_text(),
            flags=re.M,
        )
        file.write_text(own)
    (place / "CHANGELOG.md").write_text(changelog)
    for file, pattern, line in (
        ("CITATION.cff", r"(?m)^version: .*$", f"version: {version}"),
        ("docs/packaging/meta.yaml", r"(?m)^version: .*$", f"version: v{version}"),
        ("pipelines/snakemake/environment.yaml", r"==\S+", f"=={version}"),
    ):
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_text(re.sub(pattern, line, (ROOT / file).read_text()))
    return place


def test_a_release_that_agrees_with_itself_is_let_through(tmp_path):
    place = repository(tmp_path, "0.2.0", "# Changelog\n\n## 0.2.0 - 2026-12-01\n")

    assert check_release()("v0.2.0", place) == []


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "said"),
    [
        ("v0.2.0", "0.1.0", "## 0.2.0 - 2026-12-01\n", "episome has version 0.1.0"),
        ("v0.2.0", "0.2.0", "## Unreleased\n", "CHANGELOG"),
        ("v0.2.0", "0.2.0", "## 0.3.0 - 2027-01-01\n## 0.2.0 - 2026-12-01\n", "CHANGELOG"),
        ("v0.2.0", "0.2.0", "## Unreleased\n", "is missing: no ## 0.2.0 - YYYY-MM-DD"),
        ("v0.2.0", "0.1.0", "## 0.2.0 - 2026-12-01\n", "CITATION"),
        ("v0.2.0", "0.1.0", "## 0.2.0 - 2026-12-01\n", "meta.yaml does not say version: v0.2.0"),
        ("v0.2.0", "0.1.0", "## 0.2.0 - 2026-12-01\n", "environment.yaml does not say"),
        ("latest", "0.2.0", "", "no version"),
        ("0.2.0", "0.2.0", "", "written v0.2.0"),
    ],
)
def test_a_release_that_does_not_is_refused(tmp_path, tag, version, changelog, said):
    found = check_release()(tag, repository(tmp_path, version, changelog))

    assert any(said in line for line in found)
