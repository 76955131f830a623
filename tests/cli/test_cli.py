"""The command line: options, answers, errors and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import click
import jsonschema
import pytest
from click.testing import CliRunner

import episome
from episome import errors
from episome.cli import _app, _codes, _ui
from episome.cli._command import Outcome, command_options, dumps, run_command, state_of

OBJECT = {
    "type": "object",
    "required": [
        *("ok", "command", "version", "inputs", "outputs", "warnings", "metrics", "timings"),
        "error",
    ],
    "properties": {
        "ok": {"type": "boolean"},
        "command": {"type": "string"},
        "version": {"type": "string"},
        "inputs": {"type": "array"},
        "outputs": {"type": "array"},
        "warnings": {"type": "array"},
        "metrics": {"type": "object"},
        "timings": {"type": "object"},
        "error": {
            "anyOf": [
                {"type": "null"},
                {
                    "type": "object",
                    "required": ["code", "class", "message", "fix", "details"],
                    "properties": {"code": {"pattern": "^E-[A-Z][0-9]+$"}},
                },
            ]
        },
    },
}


@pytest.fixture
def run(fresh_manager):
    def invoke(*arguments: str):
        return CliRunner().invoke(_app.app, list(arguments))

    return invoke


@pytest.fixture
def toy(monkeypatch):
    """Put a command ``toy`` into the table whose body the test gives."""

    def add(body, *options):
        @click.command("toy")
        @command_options
        @click.pass_context
        def command(ctx, **kwargs):
            run_command(ctx, "toy", lambda: body(ctx, **kwargs))

        for option in options:
            command = option(command)
        monkeypatch.setattr(_app, "_load", lambda target: command)
        monkeypatch.setitem(_app.COMMANDS, "toy", ("nowhere:command", "A toy."))

    return add


def the_object(result):
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    jsonschema.validate(found, OBJECT)
    return found


def test_help_lists_every_command_without_importing_it(run):
    result = run("--help")

    assert result.exit_code == 0
    assert all(f"  {name} " in result.stdout for name in _app.COMMANDS)
    assert result.stderr == ""


@pytest.mark.parametrize("command", ["plugins", "doctor", "help"])
def test_help_of_a_command_ends_with_two_examples(run, command):
    lines = run(command, "--help").stdout.splitlines()

    assert [line.strip()[:11] for line in lines[-2:]] == ["$ episome " + command[0]] * 2


def test_help_of_a_command_by_name_is_its_help(run):
    assert run("help", "doctor").stdout.strip() == run("doctor", "--help").stdout.strip()
    assert run("help").stdout.strip() == run("--help").stdout.strip()
    deep = run("help", "models", "convert").stdout
    assert deep.strip() == run("models", "convert", "--help").stdout.strip()


def test_help_of_what_is_not_there_names_what_is_near(run):
    assert "Did you mean models" in run("help", "modls").stderr
    assert "convert" in run("help", "models", "cnvert").stderr


@pytest.mark.parametrize("code", ["E-G03", "e-g03", "[E-G03]"])
def test_help_of_a_code_is_what_it_means(run, code):
    assert run("help", code).stdout == run("doctor", "--explain", "E-G03").stdout
    assert "there is no code" in run("help", "E-P99x").stderr


def test_version_with_v_lists_plugins(run):
    assert run("--version").stdout == f"episome {episome.__version__}\n"
    assert "episome-sctab" in run("-v", "--version").stdout


def test_plugins_lists_what_failed_and_why(run, install):
    install("alpha", "raise OSError('no disk')")

    result = run("plugins")

    assert "alpha  episome-alpha 1.2  API -  failed" in result.stdout
    assert "OSError: no disk [E-P02]" in result.stdout
    assert "SCTab" in result.stdout


def test_plugins_json_is_one_object(run, install):
    install("alpha", "raise OSError('no disk')")

    found = the_object(run("plugins", "--json"))

    assert found["ok"]
    assert {p["id"]: p["status"] for p in found["plugins"]}["alpha"] == "failed"
    assert "sctab" in [m["id"] for m in found["models"]]


def test_doctor_shows_versions_failures_resources_and_folder(run, install):
    install("alpha", "raise OSError('no disk')")

    text = run("doctor").stdout
    found = the_object(run("doctor", "--json"))

    assert "alpha (episome-alpha 1.2) failed: OSError: no disk" in text
    assert found["packages"]["numpy"] in text
    assert found["resources"]["cores"] >= 1
    assert found["folders"]["cache"] in text


@pytest.mark.parametrize("code", [*_codes.CODES, "E-D05", "e-m03", "[E-P02]"])
def test_doctor_explains_codes(run, code):
    result = run("doctor", "--explain", code)

    assert result.exit_code == 0
    assert result.stdout.startswith(code.strip("[]").upper())


def test_doctor_explain_of_unknown_code_is_a_usage_error(run):
    result = run("doctor", "--explain", "E-P99x")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no code" in result.stderr


def test_help_exit_codes_prints_all(run):
    text = run("help", "exit-codes").stdout

    assert all(f"{code:>3}  " in text for code in errors.EXIT_CODES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plugin"], "Did you mean plugins?"),
        (["plugins", "--jsn"], "--json"),
        (["doctor", "--explain"], "--explain"),
        (["--nonsense"], "--nonsense"),
        (["plugins", "extra"], "extra"),
    ],
)
def test_usage_error_is_2_on_stderr_and_json_where_asked(run, arguments, message):
    result = run(*arguments)
    as_json = run(*arguments[:1], "--json", *arguments[1:])

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "Usage: episome" in result.stderr
    assert as_json.exit_code == 2
    assert the_object(as_json)["error"]["class"] == "UsageError"


FAMILY = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
FAMILY = [c for c in FAMILY if issubclass(c, errors.EpisomeError)]


@pytest.mark.parametrize("error", FAMILY, ids=lambda c: c.__name__)
def test_error_of_the_family_becomes_its_text_and_code(run, toy, error):
    def body(ctx):
        state_of(ctx).inputs.append({"path": "in.h5ad"})
        raise error("E-D99", "nothing", fix="something", details={"n": 1})

    toy(body)

    result, as_json = run("toy"), run("toy", "--json")

    assert result.exit_code == as_json.exit_code == error.exit_code
    assert result.stdout == ""
    assert result.stderr == "error: nothing. To fix: something. [E-D99]\n"
    found = the_object(as_json)
    assert not found["ok"]
    assert found["command"] == "toy"
    assert found["inputs"] == [{"path": "in.h5ad"}]
    assert found["error"] == error("E-D99", "nothing", fix="something", details={"n": 1}).to_json()


def test_answer_is_alone_on_stdout(run, toy):
    def body(ctx):
        print("noise of a library")
        warnings.warn("look here", errors.EpisomeWarning, stacklevel=1)
        warnings.warn("noise", FutureWarning, stacklevel=1)
        return {"text": "the answer", "metrics": {"f1": float("nan")}, "extra": [1]}

    toy(body)

    result, as_json = run("toy"), run("toy", "--json")

    assert result.stdout == "the answer\n"
    assert "noise of a library" in result.stderr
    assert "warning: look here" in result.stderr
    assert "FutureWarning" not in result.stderr
    found = the_object(as_json)
    assert found["warnings"] == [{"code": None, "message": "look here"}]
    assert found["metrics"] == {"f1": None}
    assert found["extra"] == [1]
    assert found["timings"]["total"] >= 0


def test_gate_that_is_not_met_is_9_and_not_ok(run, toy):
    toy(lambda ctx: Outcome(text="macro F1 0.1", exit_code=9))

    assert run("toy").exit_code == 9
    assert the_object(run("toy", "--json"))["ok"] is False


def test_bug_is_1_with_a_report_and_no_traceback(run, toy, tmp_path, monkeypatch):
    monkeypatch.setenv("EPISOME_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))

    def body(ctx):
        return 1 / 0

    toy(body)
    result = run("toy")

    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    (report,) = (tmp_path / "cache" / "crashes").iterdir()
    assert str(report) in result.stderr
    text = report.read_text()
    assert "ZeroDivisionError" in text
    assert "command: episome toy" in text
    assert str(tmp_path) not in text
    assert the_object(run("toy", "--json"))["error"]["code"] == "E-X01"
    assert "Traceback" in run("toy", "--debug").stderr


def test_ctrl_c_is_130_without_traceback(run, toy):
    def body(ctx):
        raise KeyboardInterrupt

    toy(body)

    result = run("toy")
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr
    assert the_object(run("toy", "--json"))["error"]["code"] == "E-X130"


def test_option_out_of_range_is_2_and_names_it(run, toy):
    toy(lambda ctx, n: None, click.option("--n", type=click.IntRange(1)))

    result = run("toy", "--n", "-1")
    assert result.exit_code == 2
    assert "--n" in result.stderr
    assert "E-U02" in result.stderr


def test_log_file_gets_the_log_and_quiet_hides_it(run, toy, tmp_path):
    def body(ctx):
        from episome.log import get_logger

        get_logger("x").info("chosen")

    toy(body)

    assert "chosen" in run("toy").stderr
    assert run("toy", "-q", "--log-file", str(tmp_path / "log")).stderr == ""
    assert "chosen" in (tmp_path / "log").read_text()
    assert run("toy", "--log-file", str(tmp_path / "no" / "log")).exit_code == 3


COMMANDS = """
import click
from episome.plugins import hookimpl
EPISOME_API = (1, 0)

@hookimpl
def episome_cli(app):
    app.add_command(click.Command("extra", help="Something more.", callback=lambda: print("more")))
    app.add_command(click.Command("plugins", callback=lambda: print("stolen")))
"""


def test_plugin_adds_a_command_and_cannot_take_one(run, install, caplog):
    install("alpha", COMMANDS)

    assert "extra" in run("--help").stdout
    assert run("extra").exit_code == 0
    assert "stolen" not in run("plugins").stdout
    assert "E-P04" in caplog.text


def test_plugin_hook_is_not_consulted_for_a_host_command(run, install):
    install("alpha", COMMANDS.replace("app.add_command", "raise OSError; app.add_command"))

    assert run("help", "exit-codes").exit_code == 0
    assert "OSError" not in run("help", "exit-codes").stderr


def test_dumps_is_strict_and_takes_numbers_of_numpy(tmp_path):
    import numpy as np

    value = {"a": np.float32(1), "b": np.arange(2), "c": float("inf"), "d": {tmp_path}, 1: (True,)}

    assert json.loads(dumps(value)) == {
        "a": 1.0,
        "b": [0, 1],
        "c": None,
        "d": [str(tmp_path)],
        "1": [True],
    }


# -- progress ------------------------------------------------------------------------------------


def test_progress_off_a_terminal_writes_a_line_per_tenth(capsys):
    with _ui.progress(100, "training", unit="cells") as bar:
        for _ in range(100):
            bar.advance()

    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 10
    assert err.splitlines()[-1].startswith("training: 100/100 cells")


def test_progress_without_total_says_the_end(capsys):
    with _ui.progress(None, "reading") as bar:
        bar.update(5, "five")

    assert capsys.readouterr().err.startswith("reading: 5")


def test_progress_that_is_switched_off_is_silent(capsys):
    with _ui.progress(10, "training", enabled=False) as bar:
        bar.update(10)

    assert capsys.readouterr() == ("", "")


def test_progress_for_a_program_is_an_object_in_a_file(tmp_path, capsys, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv("EPISOME_PROGRESS_FILE", str(path))

    with _ui.progress(None, "annotating", unit="cells", enabled=False) as bar:
        begun = json.loads(path.read_text())
        bar.update(4, "half", total=8)
        bar.update(8, "all", total=8)
        found = json.loads(path.read_text())

    assert (begun["label"], begun["total"], begun["seconds_left"]) == ("annotating", None, None)
    assert (found["done"], found["total"], found["text"]) == (8, 8, "all")
    assert (found["unit"], found["seconds_left"]) == ("cells", 0)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [path]


def test_progress_on_a_terminal_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(_ui, "_is_terminal", lambda: True)

    with _ui.progress(2, "training") as bar:
        bar.update(1, "loss 0.5")
        bar.advance()

    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err


# -- in a process of its own ---------------------------------------------------------------------


def start(*arguments, code=None, **environment):
    command = [sys.executable, "-c", code or "from episome.cli import main; main()", *arguments]
    return subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_process_in_a_plain_locale_answers(tmp_path):
    process = start("plugins", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii", COLUMNS="40")

    out, err = process.communicate(timeout=120)

    assert (process.returncode, err) == (0, "")
    assert "sctab" in out


def test_process_whose_reader_goes_away_exits_with_141():
    process = start("doctor", "--json")
    process.stdout.close()

    assert process.wait(timeout=120) == 141
    assert process.stderr.read() == ""


SLEEPER = """
import signal
# A shell that starts a process in the background makes it deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys, time
import click
from episome.cli import _app, main
from episome.cli._command import command_options, run_command

@click.command("toy")
@command_options
@click.pass_context
def toy(ctx):
    def body():
        sys.stderr.write("ready\\n"); sys.stderr.flush()
        time.sleep(60)
    run_command(ctx, "toy", body)

_app._load = lambda target: toy
_app.COMMANDS["toy"] = ("", "")
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_process_that_is_stopped_says_so_in_json(sent, code):
    process = start("toy", "--json", code=SLEEPER)
    assert process.stderr.readline() == "ready\n"
    time.sleep(0.05)

    process.send_signal(sent)
    out, err = process.communicate(timeout=30)

    assert process.returncode == code
    assert json.loads(out)["error"]["code"] == f"E-X{code}"
    assert "Traceback" not in err
