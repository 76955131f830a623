"""Serves the page with the program of the tests: ``python _page_server.py SETTINGS``."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

from episome.web import ServeSettings, make_server


def main() -> None:
    given = json.loads(sys.argv[1])
    listening = socket.create_server(("127.0.0.1", given.pop("listen", 0)))
    given["state"] = Path(given["state"])
    given["models"] = tuple(map(Path, given.get("models", ())))
    if not given.pop("real", False):
        given["program"] = (sys.executable, str(Path(__file__).with_name("_page_step.py")))
    settings = ServeSettings(**{"min_free": 0, "port": listening.getsockname()[1], **given})
    print(listening.getsockname()[1], flush=True)
    make_server(settings, host="127.0.0.1", port=settings.port).run(sockets=[listening])


main()
