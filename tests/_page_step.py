"""Does what stands in the file of a job: the place of episome in tests of the queue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

INSPECTION = {
    "name": "cells", "n_obs": 3, "n_vars": 2, "slot": "X", "values": {}, "labels": [],
    "donors": [], "findings": [], "repairs": [], "arguments": {}, "species": "",
    "species_said": [], "genes": {"kind": "symbols"}, "weight": None,
}  # fmt: skip
ANSWER = {
    "ok": True, "command": "check", "version": "0", "inputs": [], "outputs": [], "warnings": [],
    "metrics": {}, "timings": {}, "error": None, "inspection": INSPECTION,
}  # fmt: skip


def main() -> None:
    paths = [Path(w) for w in sys.argv[1:] if w.endswith(".h5ad")]
    asked = paths[0].read_text().split() if paths else ["ok"]
    folder = Path.cwd().parent
    (folder / "pid").write_text(str(os.getpid()))
    if asked[0] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if asked[0] == "stay":  # with a process below it, and deaf to a polite request
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (folder / "below").write_text(str(below.pid))
        progress = {"label": "x", "unit": "cells", "done": 3, "total": 12, "seconds_left": 9.0}
        Path(os.environ["EPISOME_PROGRESS_FILE"]).write_text(json.dumps(progress))
        time.sleep(600)
    if asked[0] == "once":  # stays the first time, and is quick the second
        mark = paths[0].with_name("mark")
        if not mark.exists():
            mark.touch()
            (folder / "stays").touch()
            time.sleep(600)
    if asked[0] == "secret":
        error = {"code": "E-F01", "class": "InputFileError", "fix": None, "details": {}}
        error["message"] = f"the file is cut in {paths[0]}, see {folder}/tmp. [E-F01]"
        cut = {k: v for k, v in ANSWER.items() if k != "inspection"}
        print(json.dumps({**cut, "ok": False, "error": error}))
        raise SystemExit(3)
    if asked[0] == "mute":
        raise SystemExit(1)
    print(json.dumps(ANSWER))


main()
