"""TabNet against its textbook form: training steps of several kinds, and prediction of a batch.

Run ``python tests/benchmarks/tabnet_step.py``. Both get the same cells as a loader gives them,
sparse and normalised, so that making them dense is charged to whoever needs it. Requirements (CPU,
two threads, 19,331 genes, least wall time of each): training step 7 times faster with one decision
step, 4 times with three, 4 times with donor augmentation; prediction 9 times.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from _common import (
    TextbookTabNet,
    cells,
    copy_weights,
    interleave,
    our_names,
    parser,
    report,
    write_json,
)
from scipy import sparse
from torch import nn

from episome.nn import CSRParts, TabNet, shift_expression

N_CLASSES = 164
NAMES = ("textbook", "episome")
N_VECTORS, VECTOR_DENSITY = 5000, 0.114


def vectors(n_genes: int) -> CSRParts:
    """Differences between donors as scTab's are: 11 % of the genes, 0.25 to 1.5."""
    rng = np.random.default_rng(0)
    table = sparse.random(
        N_VECTORS, n_genes, VECTOR_DENSITY, format="csr", dtype=np.float32, random_state=rng
    )
    table.sort_indices()
    table.data = (0.25 + 1.25 * table.data) * rng.choice([-1, 1], len(table.data))
    return CSRParts(
        torch.as_tensor(table.indptr).long(),
        torch.as_tensor(table.indices).int(),
        torch.as_tensor(table.data.astype(np.float32)),
    )


def train_step(
    net: nn.Module,
    parts: CSRParts,
    y: torch.Tensor,
    *,
    ours: bool,
    augment: CSRParts | None = None,
) -> Callable[[], None]:
    """Return a function that makes one training step from sparse cells, dense where needed."""
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=1e-6, weight_decay=0.05, fused=True if ours else None
    )
    rng = torch.Generator().manual_seed(2)
    n_genes = net.n_features if ours else net.input_norm.num_features

    def step() -> None:
        net.train()
        optimiser.zero_grad()
        x = parts if ours else densified(parts, n_genes)
        if augment is not None:
            index = torch.randint(augment.n_rows, (len(y),), generator=rng)
            sign = 2 * torch.randint(2, (len(y),), generator=rng) - 1
            x = shift_expression(x, augment, index, sign)
        out = net(x)
        loss = F.cross_entropy(out[0], y)
        loss = loss + 1e-5 * out.sparsity if ours else loss - 1e-5 * out[2]
        loss.backward()
        optimiser.step()

    return step


def densified(parts: CSRParts, n_genes: int) -> torch.Tensor:
    """Make sparse cells dense as torch does."""
    shape = (parts.n_rows, n_genes)
    return torch.sparse_csr_tensor(
        parts.indptr, parts.indices.long(), parts.values, shape
    ).to_dense()


def gaps(reference: TextbookTabNet, ours: TabNet, x: torch.Tensor, y: torch.Tensor) -> str:
    """Say how far gradients and running statistics lie from those of the textbook in float64.

    Norm of the difference of all gradients over that of the gradients; for statistics the largest
    difference in units of their spread. Masks jump, so single precision alone moves them: what the
    textbook form itself loses by it stands beside.
    """
    found = {}
    for dtype in (torch.float64, torch.float32):
        for name, net in (("textbook", reference), ("episome", ours)):
            net = copy.deepcopy(net).to(dtype).train()
            values = x.to(dtype)
            given = values if name == "textbook" else CSRParts.from_dense(values)
            F.cross_entropy(net(given)[0], y).backward()
            grads = {k: p.grad for k, p in net.named_parameters(remove_duplicate=False)}
            state = net.state_dict()
            if name == "textbook":
                grads = our_names(grads, net, ours.n_shared)
                state = our_names(state, net, ours.n_shared)
            keys = [k for k, _ in ours.named_parameters()]
            moved = [state[k].flatten() for k in sorted(state) if "running" in k]
            found[name, dtype] = (
                torch.cat([grads[k].flatten() for k in keys]).double(),
                torch.cat(moved).double(),
            )
    exact, stats = found["textbook", torch.float64]
    said = []
    for name, dtype in (("episome", torch.float64), *((n, torch.float32) for n in NAMES)):
        g, s = found[name, dtype]
        said.append(
            f"{name} {str(dtype).removeprefix('torch.')}: gradients "
            f"{float((g - exact).norm() / exact.norm()):.1e}, statistics "
            f"{float((s - stats).abs().max() / stats.std()):.1e}"
        )
    return "; ".join(said)


def build(n_genes: int, n_steps: int = 1) -> tuple[TextbookTabNet, TabNet]:
    """Both networks with the same weights."""
    torch.manual_seed(0)
    ours = TabNet(n_genes, N_CLASSES, n_steps=n_steps)
    reference = TextbookTabNet(n_genes, N_CLASSES, n_steps=n_steps)
    for linear in (m for m in reference.modules() if isinstance(m, nn.Linear)):
        gain = 2.0 if linear.out_features == 2 * 192 else 1.0
        nn.init.normal_(linear.weight, std=(gain**0.5) / linear.in_features**0.25)
    copy_weights(reference, ours)
    return reference, ours


def gflop(net: TabNet, stored: int, n_cells: int) -> float:
    """Count the products that no form of the step can do without, in 10**9 operations.

    Of stored inputs and the first layer, twice; of attention vectors and all genes, once; of the
    gated layers, three times (forward, and both gradients).
    """
    hidden = net.n_d + net.n_a
    layers = net.n_shared + net.n_independent - 1
    gated = 3 * n_cells * (net.n_steps + 1) * layers * 2 * hidden * 2 * hidden
    return (
        2 * stored * 2 * hidden * 2 + net.n_steps * 2 * n_cells * net.n_a * net.n_features + gated
    ) / 1e9


def main() -> None:
    """Run the comparison."""
    args = parser(__doc__, batch=[2048]).parse_args()
    torch.set_num_threads(args.threads)
    results = []
    table = vectors(args.genes)
    for n in args.batch:
        x = cells(n, args.genes)
        parts = CSRParts.from_dense(x)
        y = torch.randint(N_CLASSES, (n,), generator=torch.Generator().manual_seed(1))
        for n_steps, augment, need in ((1, None, 7.0), (3, None, 4.0), (1, table, 4.0)):
            reference, ours = build(args.genes, n_steps)
            few = slice(0, min(n, 512))
            text = gaps(reference, ours, x[few], y[few])
            sys.stdout.write(f"{n_steps} steps, distance from the textbook in float64: {text}\n")
            runs = {
                "textbook step": train_step(reference, parts, y, ours=False, augment=augment),
                "episome step": train_step(ours, parts, y, ours=True, augment=augment),
            }
            times = interleave(runs, rounds=args.rounds)
            title = f"training step, batch {n}, {args.genes} genes, {n_steps} decision step"
            title += "s" if n_steps > 1 else ""
            title += ", donor augmentation" if augment is not None else ""
            required = {"episome step": need}
            found = report(title, times, base="textbook step", required=required)
            work = gflop(ours, len(parts.values), n)
            results.append({**found, "same": text, "gflop": {"episome step": work}})
        results.append(predict(*build(args.genes), x[:1024], args.rounds))
    write_json(args.json, results)


def predict(
    reference: TextbookTabNet, ours: TabNet, x: torch.Tensor, rounds: int
) -> dict[str, object]:
    """Compare prediction of one batch."""
    copy_weights(reference, ours)
    reference.eval()
    folded = ours.eval().folded()
    parts = CSRParts.from_dense(x)
    with torch.inference_mode():
        expected, got = reference(x)[0], folded(x).logits
        gap = float((expected - got).abs().max() / expected.abs().max())
        sys.stdout.write(f"logits differ by {gap:.1e} of the largest\n")
        runs = {
            "textbook forward": lambda: reference(x),
            "episome, evaluation mode": lambda: ours(x),
            "episome folded": lambda: folded(x),
            "episome folded, CSR input": lambda: folded(parts),
        }
        times = interleave(runs, rounds=rounds)
    need = {"episome folded, CSR input": 9.0}
    title = f"prediction, batch {len(x)}, {x.shape[1]} genes, {N_CLASSES} classes"
    return report(title, times, base="textbook forward", required=need)


if __name__ == "__main__":
    main()
