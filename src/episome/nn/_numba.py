"""Optional numba: compiling kernels, and running them over row ranges in threads.

Kernels are plain serial functions of a row range, ``kernel(start, stop, *arrays)``, that release
the interpreter lock; :func:`run_rows` spreads the range over a few threads. No numba threading
layer is involved, so kernels may be called from any thread and after a fork.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch

numba: Any
try:
    import numba
except ImportError:  # the plain torch paths need no compiler
    numba = None

__all__ = ["SAFE_MATH", "njit", "numba_enabled", "parallel_allowed", "run_rows"]

SAFE_MATH = frozenset({"reassoc", "contract", "nsz", "arcp"})
"""Floating-point freedoms that let sums vectorise and still keep NaN and infinity."""

_HOME_PID = os.getpid()
_WORK_PER_TASK = 50_000


def numba_enabled() -> bool:
    """Whether compiled kernels may be used; ``EPISOME_NUMBA=0`` turns them off."""
    return numba is not None and os.environ.get("EPISOME_NUMBA", "1") != "0"


def njit(*, fastmath: frozenset[str] | bool = False, **options: Any) -> Callable[..., Any]:
    """Compile a function on its first call, cached on disk where that is possible.

    Parameters
    ----------
    fastmath
        Floating-point freedoms handed to the compiler, by default none.
    **options
        Further options of :func:`numba.njit`.

    Returns
    -------
    A decorator. Without numba it returns the function unchanged; when neither the package
    folder nor the user's cache folder can be written, the kernel is compiled without a cache.
    """

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        if numba is None:
            return func
        settings = {"nogil": True, "error_model": "numpy", **options}
        settings["fastmath"] = set(fastmath) if isinstance(fastmath, frozenset) else fastmath
        compiled: Callable[..., Any]
        try:
            compiled = numba.njit(cache=True, **settings)(func)
        except (RuntimeError, OSError):  # no folder can hold the cache
            compiled = numba.njit(**settings)(func)
        return compiled

    return decorate


def parallel_allowed() -> bool:
    """Whether this process may start kernel threads.

    Only the main process does: a forked or spawned worker (a data loader's, say) runs its kernels
    serially, because its siblings already use the other cores.
    """
    return multiprocessing.parent_process() is None and os.getpid() == _HOME_PID


@lru_cache(maxsize=4)
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="episome-kernel")


def run_rows(
    kernel: Callable[..., None], n_rows: int, *args: Any, work: int, even: bool = False
) -> None:
    """Call ``kernel(start, stop, *args)`` over all rows, with torch's number of threads.

    Parameters
    ----------
    kernel
        A compiled function that writes only what belongs to its rows.
    n_rows
        Number of rows in all.
    *args
        Arrays and numbers handed to every call.
    work
        Numbers that all rows read together, roughly; small work stays in the calling thread.
    even
        One range per thread instead of several (for kernels with a cost per call).
    """
    threads = torch.get_num_threads() if parallel_allowed() else 1
    most = threads if even else 4 * threads
    tasks = min(most, n_rows, work // _WORK_PER_TASK) if threads > 1 else 1
    if tasks <= 1:
        kernel(0, n_rows, *args)
        return
    cuts = [n_rows * i // tasks for i in range(tasks + 1)]
    pool = _pool(threads - 1)
    ranges = list(zip(cuts, cuts[1:], strict=False))
    others = [pool.submit(kernel, a, b, *args) for a, b in ranges[1:]]
    kernel(*ranges[0], *args)
    for (a, b), task in zip(reversed(ranges[1:]), reversed(others), strict=True):
        if task.cancel():  # nobody has begun it: do it here instead of waiting
            kernel(a, b, *args)
    for task in others:
        if not task.cancelled():
            task.result()
