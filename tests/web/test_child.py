"""Limits of a step, and what becomes of it when the page goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from _page import alive, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")


def run(folder: Path, code: str, *limits: str) -> subprocess.CompletedProcess[str]:
    (folder / "step_of_a_test.py").write_text(code)
    command = [sys.executable, "-m", "episome.web._child", *limits, "step_of_a_test", "a", "-b"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_step_gets_its_arguments_and_is_nice(tmp_path):
    done = run(tmp_path, "import os, sys; print(sys.argv[1:], os.nice(0) >= 10)")

    assert done.stdout.split("\n")[0] == "['a', '-b'] True"


def test_memory_beyond_the_limit_is_an_error_of_the_step(tmp_path):
    code = "try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    print('caught')"

    limits = ("--memory", str(600 << 20), "--address-space")
    assert run(tmp_path, code, *limits).stdout == "caught\n"
    assert run(tmp_path, code).stdout == ""


def test_a_step_ends_with_the_page(tmp_path):
    (tmp_path / "step_of_a_test.py").write_text(
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\n"
        "time.sleep(600)"
    )
    page = (
        "import subprocess, sys, time, pathlib\n"
        "subprocess.Popen([sys.executable, '-m', 'episome.web._child', 'step_of_a_test'],"
        " start_new_session=True)\n"
        "while not pathlib.Path('pid').is_file(): time.sleep(0.05)\n"
    )
    subprocess.run([sys.executable, "-c", page], cwd=tmp_path, check=True)

    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid))
