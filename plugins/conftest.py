"""What the tests of all plugins share."""

from __future__ import annotations

import os

# Threads that wait for each other on a busy machine make a network of ten cells 30 times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
