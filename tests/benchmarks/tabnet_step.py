"""TabNet against its textbook form: one training step, and prediction of a batch.

Run ``python tests/benchmarks/tabnet_step.py``. Requirements: training step 1.7 times, prediction
3 times faster than the textbook form (least wall time of each, CPU, two threads).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

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
from torch import nn

from episome.nn import CSRParts, TabNet

N_CLASSES = 164


def train_step(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, *, ours: bool
) -> Callable[[], None]:
    """Return a function that makes one training step, and leaves gradients in place."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-6, weight_decay=0.05)

    def step() -> None:
        net.train()
        optimiser.zero_grad()
        out = net(x)
        loss = F.cross_entropy(out[0], y)
        loss = loss + 1e-5 * out.sparsity if ours else loss - 1e-5 * out[2]
        loss.backward()
        optimiser.step()

    return step


def gradient_gap(
    reference: TextbookTabNet, ours: TabNet, x: torch.Tensor, y: torch.Tensor
) -> float:
    """Largest norm of the difference of a tensor's gradients, relative to the gradient's norm."""
    reference.train()
    ours.train()
    for net in (reference, ours):
        net.zero_grad()
        F.cross_entropy(net(x)[0], y).backward()
    grads = {k: p.grad for k, p in reference.named_parameters(remove_duplicate=False)}
    expected = our_names(grads, reference, ours.n_shared)
    pairs = [(expected[k], p.grad) for k, p in ours.named_parameters()]
    return max(float((a - b).norm() / a.norm()) for a, b in pairs)


def build(n_genes: int) -> tuple[TextbookTabNet, TabNet]:
    """Both networks with the same weights."""
    torch.manual_seed(0)
    ours = TabNet(n_genes, N_CLASSES)
    reference = TextbookTabNet(n_genes, N_CLASSES)
    for linear in (m for m in reference.modules() if isinstance(m, nn.Linear)):
        gain = 2.0 if linear.out_features == 2 * 192 else 1.0
        nn.init.normal_(linear.weight, std=(gain**0.5) / linear.in_features**0.25)
    copy_weights(reference, ours)
    return reference, ours


def main() -> None:
    """Run the comparison."""
    args = parser(__doc__, batch=[512, 2048]).parse_args()
    torch.set_num_threads(args.threads)
    results = []
    for n in args.batch:
        reference, ours = build(args.genes)
        x = cells(n, args.genes)
        y = torch.randint(N_CLASSES, (n,), generator=torch.Generator().manual_seed(1))
        gap = gradient_gap(reference, ours, x, y)
        sys.stdout.write(f"batch {n}: gradients differ by {gap:.1e} of their norm\n")
        runs = {
            "textbook step": train_step(reference, x, y, ours=False),
            "episome step": train_step(ours, x, y, ours=True),
        }
        times = interleave(runs, rounds=args.rounds)
        title = f"training step, batch {n}, {args.genes} genes"
        results.append(report(title, times, base="textbook step", required={"episome step": 1.7}))
        results.append(predict(reference, ours, x[:1024], args.rounds))
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
    need = {"episome folded": 3.0, "episome folded, CSR input": 3.0}
    title = f"prediction, batch {len(x)}, {x.shape[1]} genes, {N_CLASSES} classes"
    return report(title, times, base="textbook forward", required=need)


if __name__ == "__main__":
    main()
