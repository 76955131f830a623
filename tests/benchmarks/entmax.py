"""1.5-entmax over the gene axis against the full sort, forward and backward.

Run ``python tests/benchmarks/entmax.py``. Requirement: 10 times faster than the full sort for
forward and backward together (least wall time of each, CPU, two threads).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

import torch
from _common import Timing, interleave, parser, report, write_json

from episome.nn import entmax15, entmax15_sort, sparsemax, sparsemax_sort

Map = Callable[[torch.Tensor], torch.Tensor]


def entmax_package() -> ModuleType | None:
    """Import the installed package of the same name as this script, or None."""
    here = Path(__file__).resolve().parent
    elsewhere = [p for p in sys.path if Path(p).resolve() != here]
    spec = PathFinder.find_spec("entmax", elsewhere)
    if spec is None or spec.loader is None:
        return None
    sys.modules["entmax"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def candidates() -> dict[str, Map]:
    """Maps to compare; the first one is the base."""
    found: dict[str, Map] = {
        "full sort": entmax15_sort,
        "episome entmax15": entmax15,
    }
    package = entmax_package()
    if package is None:
        sys.stdout.write("the entmax package is not installed: left out\n")
    else:
        found["entmax package, full sort"] = partial(package.entmax15, dim=-1)
        found["entmax package, k=100"] = partial(package.entmax15, dim=-1, k=100)
    found["softmax (floor)"] = lambda x: x.softmax(-1)
    found["sparsemax full sort"] = sparsemax_sort
    found["episome sparsemax"] = sparsemax
    return found


def both(run: Map, x: torch.Tensor, grad: torch.Tensor, parts: dict[str, Timing]) -> None:
    """Forward and backward once; the parts are timed too."""
    leaf = x.detach().requires_grad_()
    start, cpu = time.perf_counter(), time.process_time()
    y = run(leaf)
    middle, cpu_middle = time.perf_counter(), time.process_time()
    y.backward(grad)
    end, cpu_end = time.perf_counter(), time.process_time()
    parts["forward"].wall.append(middle - start)
    parts["forward"].cpu.append(cpu_middle - cpu)
    parts["backward"].wall.append(end - middle)
    parts["backward"].cpu.append(cpu_end - cpu_middle)


def main() -> None:
    """Run the comparison."""
    args = parser(__doc__, batch=[512]).parse_args()
    torch.set_num_threads(args.threads)
    results = []
    for n in args.batch:
        for scale in (1.0, 0.5):
            rng = torch.Generator().manual_seed(0)
            x = scale * torch.randn(n, args.genes, generator=rng)
            grad = torch.randn(n, args.genes, generator=rng)
            maps = candidates()
            exact = entmax15_sort(x.double())
            support = float((exact > 0).sum(1).double().mean())
            error = float((entmax15(x) - exact).abs().max())
            sys.stdout.write(f"support {support:.0f} genes, error against float64 {error:.1e}\n")
            parts = {k: {"forward": Timing(), "backward": Timing()} for k in maps}
            runs = {k: partial(both, f, x, grad, parts[k]) for k, f in maps.items()}
            times = interleave(runs, rounds=args.rounds)
            where = f"batch {n}, {args.genes} genes, scores N(0, {scale}^2)"
            for part in ("forward", "backward"):
                split = {k: v[part] for k, v in parts.items()}
                for t in split.values():
                    del t.wall[:1], t.cpu[:1]
                results.append(report(f"entmax {part}, {where}", split, base="full sort"))
            need = {"episome entmax15": 10.0}
            title = f"entmax forward + backward, {where}"
            results.append(report(title, times, base="full sort", required=need))
    write_json(args.json, results)


if __name__ == "__main__":
    main()
