"""``python -m episome``: the command line."""

from __future__ import annotations

from episome.cli import main

main()
