"""Run the checks in a process of their own: ``python -m episome.testing MODEL ...``.

One JSON object a line on standard output: what begins, what came of it, and what the model costs.
What the plugin itself prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from dataclasses import asdict
from typing import IO, Any


def main(names: list[str]) -> int:
    """Check models by name; return 0 when all of them pass."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as lines:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return max([_check(name, lines) for name in names], default=0)


def _check(name: str, lines: IO[str]) -> int:
    def say(event: str, **facts: Any) -> None:
        lines.write(json.dumps({"event": event, "model": name, **facts}) + "\n")
        lines.flush()

    from episome import plugins
    from episome.errors import PluginError

    say("importing")
    started = time.monotonic()
    try:
        cls = plugins.load_class(plugins.get_spec(name))
    except PluginError as error:
        say("failed", message=str(error))
        return 1
    say("imported", seconds=round(time.monotonic() - started, 2))
    from episome.testing import CHECKS, CheckResult, check_model, measure_model

    waiting = [c.name for c in CHECKS]

    def show(result: CheckResult) -> None:
        waiting.remove(result.check)
        say("result", **{k: v for k, v in asdict(result).items() if k != "model"})
        say("begins", check=waiting[0] if waiting else "what it costs")

    warnings.simplefilter("ignore")
    say("checks", names=list(waiting))
    say("begins", check=waiting[0])
    results = check_model(cls, on_fail="collect", callback=show)
    if any("cannot be trained" in r.message for r in results):
        say("ends")
        return 1
    say("costs", **asdict(measure_model(cls)))
    return int(any(r.status in {"failed", "unexpected pass"} for r in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
