"""``episome serve``: what is refused before a page is served."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from _program import in_own_process, program, refused

pytest.importorskip("fastapi", reason="episome[serve] is not installed")

from episome.web._server import taken


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        refused(2, "E-W16", "serve", "--port", port, match=f"port {port}.*To fix: .*--port")


def test_an_address_of_another_machine_is_said():
    refused(2, "E-W16", "serve", "--host", "192.0.2.1", "--token", "x", "--port", 0)


def test_a_folder_of_state_belongs_to_one_page(tmp_path):
    held = taken(tmp_path / "state")

    refused(2, "E-W17", "serve", "--port", 0, "--state", tmp_path / "state")
    held.close()
    taken(tmp_path / "state").close()


def test_models_that_are_not_there_are_a_wrong_option():
    refused(2, "E-U02", "serve", "--models", "nowhere", match="--models.*nowhere")


def test_the_missing_extra_is_named():
    code = "import sys; sys.modules['uvicorn'] = None; from episome.cli import main; main()"

    done = in_own_process("serve", "--json", code=code)

    assert done.returncode == 5
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["fix"]) == ("E-P02", 'pip install "episome[serve]"')


def test_the_page_is_served_until_ctrl_c(tmp_path):
    import httpx

    command = [sys.executable, "-m", "episome", "serve", "--port", "0", "--min-free", "0"]
    command += ["--state", str(tmp_path / "state")]
    served = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        address = served.stdout.readline().strip()
        with httpx.Client() as client:
            client.get(address)
            found = client.get(address.partition("?")[0] + "health").json()
    finally:
        served.send_signal(signal.SIGINT)
        said = served.communicate(timeout=60)[1]

    assert found["ok"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=\S+", address)
    assert served.returncode == 130
    assert "Traceback" not in said
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_help_names_the_examples():
    text = program("serve", "--help").stdout

    assert "episome serve --models my-models" in text
    assert json.dumps(text).count("$ episome serve") == 3
