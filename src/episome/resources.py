"""Cores, memory and threads, as the container or job allows them, not as the machine has them."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from threadpoolctl import threadpool_limits

from episome.errors import UsageError
from episome.log import get_logger

__all__ = [
    "available_memory",
    "cpu_count",
    "memory_limit",
    "peak_memory",
    "set_threads",
    "used_memory",
]

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
_UNLIMITED = 1 << 60
_log = get_logger("resources")


def cpu_count() -> int:
    """Return the number of cores this process may use: affinity and cgroup quota included."""
    cores = _affinity()
    quota = _cpu_quota()
    return max(1, min(cores, math.ceil(quota)) if quota is not None else cores)


def memory_limit() -> int:
    """Return the bytes of memory this process may use: the machine's, or its cgroup's if less."""
    return min([_meminfo().get("MemTotal", _UNLIMITED), *(limit for limit, _ in _memory_groups())])


def available_memory() -> int:
    """Return the bytes that can still be allocated without swapping or being killed."""
    free = [limit - used for limit, used in _memory_groups()]
    return max(0, min([_meminfo().get("MemAvailable", _UNLIMITED), *free]))


def used_memory(pid: int | None = None) -> int:
    """Return the resident bytes of a process, default this one; 0 if the platform does not say."""
    fields = _read(PROC / str(pid or "self") / "statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def peak_memory() -> int:
    """Return the largest resident size of this process so far in bytes, 0 if not known."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def set_threads(n: int | None = None) -> int:
    """Set the threads of torch, numba and the linear algebra libraries together.

    Parameters
    ----------
    n
        Number of threads; ``None`` takes ``OMP_NUM_THREADS`` where it is set, else
        :func:`cpu_count`.

    Returns
    -------
    The number that was set.

    Notes
    -----
    torch and numba are set only where they are imported already; call again after importing them.
    Environment variables are set for those that come later.
    """
    threads = _wished() or cpu_count() if n is None else n
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError(
            "E-U06", f"the number of threads is {n!r}", fix="a whole number of one or more"
        )
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    threadpool_limits(limits=threads)
    # Numba may share torch's OpenMP, whose threads it sets to its own number when it starts its
    # pool: it comes first here, and gets the number by its variable where it is imported later.
    # Once it has read the variable, a change would be an error.
    if "numba" not in sys.modules:
        os.environ["NUMBA_NUM_THREADS"] = str(threads)
    if (numba := sys.modules.get("numba")) is not None:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
    _log.debug("%d threads", threads)
    return threads


def _wished() -> int | None:
    """Return the number of threads that the user's environment names."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else None


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.lstrip("-").isdigit() else None


def _meminfo() -> dict[str, int]:
    lines = (line.split() for line in _read(PROC / "meminfo").splitlines())
    found = {f[0].rstrip(":"): int(f[1]) * 1024 for f in lines if len(f) > 1 and f[1].isdigit()}
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["MemTotal"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return found


def _groups(controller: str) -> list[Path]:
    """Folders of the process's cgroup and its parents for a version 1 controller, or version 2."""
    folders = []
    for line in _read(PROC / "self" / "cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            root = CGROUP
        elif controller in controllers.split(","):
            root = CGROUP / controller
        else:
            continue
        # inside a container the path is often the host's: whatever of it exists, up to the root
        relative = Path(path.lstrip("/"))
        chain = [relative, *relative.parents] if path.strip("/") else [Path()]
        folders += [root / p for p in chain if (root / p).is_dir()]
    return folders or [CGROUP, CGROUP / controller]


def _cpu_quota() -> float | None:
    quotas = []
    for folder in _groups("cpu"):
        fields = _read(folder / "cpu.max").split()
        if len(fields) == 2 and fields[0].isdigit():
            quotas.append(int(fields[0]) / int(fields[1]))
        quota = _number(folder / "cpu.cfs_quota_us")
        period = _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def _memory_groups() -> list[tuple[int, int]]:
    """Limit and use of every cgroup that has a limit; file cache that can go does not count."""
    found = []
    for folder in _groups("memory"):
        for limit_name, used_name, cache_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _number(folder / limit_name)
            if limit is None or limit >= _UNLIMITED:
                continue
            used = _number(folder / used_name) or 0
            stats = dict(
                line.split(maxsplit=1)
                for line in _read(folder / "memory.stat").splitlines()
                if " " in line
            )
            found.append((limit, max(0, used - int(stats.get(cache_name, 0)))))
    return found
