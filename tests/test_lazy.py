"""Importing the host is cheap: looked at in an interpreter of its own."""

from __future__ import annotations

import json

import pytest

import episome

HEAVY = ("torch", "scvi", "lightning", "scanpy", "anndata", "numba", "sklearn", "matplotlib")
REPORT = "import json, sys; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"


def imported(run_python, code):
    result = run_python(f"{code}\n{REPORT}")
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import episome; episome.__version__; dir(episome)",
        "import episome; episome.settings.stream_seed('split')",
        "import episome; episome.list_models()",
        "from episome import plugins; plugins.plugin_status()",
        "import episome.cli._app",
    ],
)
def test_import_of_light_rooms_imports_nothing_heavy(code, run_python):
    assert not imported(run_python, code) & {*HEAVY, "numpy", "pandas"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plugins"], ["plugins", "--json"], ["--version"]]
)
def test_light_commands_import_nothing_heavy(arguments, run_python):
    code = (
        "from episome.cli import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as e: assert not e.code, e.code"
    )

    assert not imported(run_python, code) & set(HEAVY)


def test_getattr_of_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        episome.nonsense  # noqa: B018 - the access is the test


def test_list_models_of_this_repository_has_its_plugins():
    assert {"sctab", "majority", "centroid", "logreg", "knn"} <= set(episome.list_models())
