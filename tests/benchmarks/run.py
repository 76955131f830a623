"""Speed in one table: kernels, training steps, likelihoods and loaders beside their peers.

Run ``python tests/benchmarks/run.py`` on a machine that does nothing else. Every script measures
its candidates in turns in one process; a figure is how many times faster than the base of its
table, by the least wall time and by CPU time of all rounds. ``--json`` keeps everything with the
machine and the versions; ``--page`` writes the page of the documentation from that file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from _common import load_average

HERE = Path(__file__).parent
#: Script, and what makes it small.
SCRIPTS: dict[str, list[str]] = {
    "tabnet_step.py": ["--genes", "500", "--batch", "64", "--rounds", "1"],
    "entmax.py": ["--genes", "500", "--batch", "64", "--rounds", "1"],
    "counts.py": ["--genes", "500", "--batch", "64", "--rounds", "1"],
    "masked.py": ["--genes", "500", "--batch", "64", "--rounds", "1"],
}
PACKAGES = ("torch", "scvi-tools", "numba", "numpy", "scipy", "anndata")
PAGE_HEAD = """# Speed

<!-- Written by tests/benchmarks/run.py; changes by hand are lost. -->

What is zero is never formed: cells stay sparse up to the first layer, the norms of TabNet are
folded into the linear maps beside them, masks are kept as the few genes that they choose, and
likelihoods call gamma functions at stored counts only, and masked autoencoders decode block by
block of genes. The textbook form of each is kept as the
oracle of the tests. How many times faster than the base of each table, both run in turns in one
process:

```console
$ python tests/benchmarks/run.py --json speed.json --page docs/developer/speed.md
```
"""


def machine_limits() -> dict[str, float]:
    """Return what this machine reaches at most: float32 products, and copies of memory."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    flops = 2 * 2048**3 / _least(lambda: a @ b)
    big, to = torch.rand(32 << 20), torch.empty(32 << 20)
    copied = 2 * 4 * (32 << 20) / _least(lambda: to.copy_(big))
    return {"gflops": flops / 1e9, "copy_gb_per_s": copied / 1e9}


def _least(run: Any, rounds: int = 7) -> float:
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return min(found)


def measured(scripts: list[str], *, small: bool, rounds: int, threads: int) -> dict[str, Any]:
    """Run scripts one after the other, and return what they found."""
    torch.set_num_threads(threads)
    found: dict[str, Any] = {
        "machine": {
            "python": platform.python_version(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": threads,
            "seed": 0,
            "load_before": load_average(),
            "versions": {p: version(p) for p in PACKAGES},
            "limits": machine_limits(),
        },
        "results": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for script in scripts:
            path = Path(folder) / f"{script}.json"
            options = SCRIPTS[script] if small else ["--rounds", str(rounds)]
            command = [sys.executable, str(HERE / script), "--threads", str(threads)]
            subprocess.run([*command, *options, "--json", str(path)], check=True)
            found["results"] += json.loads(path.read_text())["results"]
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def rows(found: dict[str, Any]) -> list[tuple[str, str, float, float, float, float | None]]:
    """Table, candidate, milliseconds, times faster by the clock and by CPU, what is required."""
    out = []
    for result in found["results"]:
        for name, ratio in result["ratios"].items():
            least = min(ratio["seconds"]["wall"]) * 1e3
            figures = (least, ratio["wall_min"], ratio["cpu_min"], ratio["required"])
            out.append((result["title"], name, *figures))
    return out


def table(found: dict[str, Any]) -> str:
    """One table in Markdown for every result."""
    lines, last = [], ""
    same = {r["title"]: r["same"] for r in found["results"] if "same" in r}
    works = {(r["title"], n): w for r in found["results"] for n, w in r.get("gflop", {}).items()}
    fastest = found["machine"]["limits"]["gflops"]
    for title, name, least, wall, cpu, need in rows(found):
        if title != last:
            lines += ["", f"## {title[0].upper()}{title[1:]}", ""]
            if title in same:
                lines += [_wrapped(f"Distance from the textbook in float64: {same[title]}."), ""]
            lines += ["| | ms | times faster, clock | times faster, CPU | wanted |"]
            lines += ["|---|---|---|---|---|"]
            last = title
        wanted = "" if need is None else f"{need:g}{'' if wall >= need else ' (missed)'}"
        if (title, name) in works:
            share = works[title, name] / fastest / (least / 1e3)
            name = f"{name} ({share:.0%} of the limit of products)"
        lines.append(f"| {name} | {least:,.1f} | {wall:.2f} | {cpu:.2f} | {wanted} |")
    return "\n".join(lines)


def page(found: dict[str, Any]) -> str:
    """Return the page of the documentation."""
    machine = found["machine"]
    limits = machine["limits"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    loads = ", ".join(f"{r['load']:.1f}" for r in found["results"])
    facts = (
        f"Measured on {machine['cores']} cores of {machine['processor']}, {machine['threads']} "
        f"threads, Python {machine['python']}, {versions}; seed {machine['seed']}. The machine "
        f"reaches {limits['gflops']:.0f} GFLOP/s in float32 products and copies "
        f"{limits['copy_gb_per_s']:.0f} GB/s. Load average {machine['load_before']:.1f} before, "
        f"and after each table {loads}."
    )
    return f"{PAGE_HEAD}\n{_wrapped(facts)}\n{table(found)}\n"


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, 128))


def main() -> None:
    """Measure, print, and write what is asked for."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("scripts", nargs="*", default=list(SCRIPTS), help="default: all")
    options.add_argument("--small", action="store_true", help="tiny sizes: does everything run?")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--json", type=Path, default=None)
    options.add_argument("--page", type=Path, default=None)
    options.add_argument("--of", type=Path, default=None, help="write the page of this JSON")
    args = options.parse_args()
    if args.of is not None:
        found = json.loads(args.of.read_text())
    else:
        found = measured(args.scripts, small=args.small, rounds=args.rounds, threads=args.threads)
    sys.stdout.write(table(found) + "\n")
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))
    if args.page is not None:
        args.page.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
