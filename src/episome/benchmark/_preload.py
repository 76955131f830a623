"""What every run imports: done once, by the process that runs are forked from."""

from __future__ import annotations

import contextlib
import importlib
import os

# Before numpy: every run has one thread.
for _name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
    os.environ[f"{_name}_NUM_THREADS"] = "1"

from episome.benchmark._local import MODULES  # noqa: E402 - after the threads are set

for _module in (
    "episome.benchmark._perform",
    "episome.benchmark._tasks",
    "episome.models",
    "scvi",
    *filter(None, os.environ.get(MODULES, "").split(",")),
):
    # Whatever cannot be imported here fails in the run that needs it, with its reason.
    with contextlib.suppress(Exception, SystemExit):
        importlib.import_module(_module)
