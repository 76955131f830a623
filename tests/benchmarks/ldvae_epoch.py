"""An epoch of LDVAE against scvi-tools' own, on the same cells, batches and sizes of the network.

Run ``python tests/benchmarks/ldvae_epoch.py``: whole calls of ``train()`` take turns in one
process, set-up and loaders included; one epoch less than two, so that what is done once does not
count. Both evidence lower bounds of the same weights, cells and draws are compared. ``--smoke``
runs it at sizes that say nothing.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import anndata
import numpy as np
import torch
from _common import Timing, interleave, report
from scipy import sparse
from scvi.model import LinearSCVI

from episome import settings
from episome.nn import CSRParts
from episome_datamix import LDVAE


def cells_of(n_cells: int, n_genes: int) -> anndata.AnnData:
    """Counts of which a tenth is not zero."""
    rng = np.random.default_rng(0)
    mean = rng.lognormal(-3.9, 1.6, n_genes)
    factors = rng.gamma(2.0, 0.5, (n_cells, 4)) @ rng.gamma(1.0, 0.5, (4, n_genes))
    counts = sparse.csr_matrix(rng.poisson(mean * factors).astype(np.float32))
    found = anndata.AnnData(counts)
    found.obs_names = [f"cell{i}" for i in range(n_cells)]
    found.var_names = [f"GENE{i}" for i in range(n_genes)]
    return found


def trained(cls: type, cells: anndata.AnnData, n_epochs: int, batch_size: int) -> object:
    """Train a model as its users do, all cells for training."""
    model = cls(cells, n_layers=2)
    options: dict[str, object] = {"accelerator": "cpu", "batch_size": batch_size}
    if cls is LinearSCVI:
        options |= {"enable_progress_bar": False, "logger": False}
        options |= {"plan_kwargs": {"lr": 5e-3}}
    model.train(max_epochs=n_epochs, train_size=1.0, **options)
    return model


def agreement(cells: anndata.AnnData) -> dict[str, float]:
    """Relative difference of both bounds, and largest of gradients by the largest gradient."""
    settings.seed = 0
    LDVAE.setup_anndata(cells)
    ours = LDVAE(cells, n_layers=2, dropout_rate=0.0)
    ours.is_trained_ = True
    LinearSCVI.setup_anndata(cells)
    theirs = ours.to_scvi()
    x = torch.from_numpy(cells.X[:128].toarray())
    codes = torch.zeros(128, dtype=torch.int64)
    noise = torch.randn(128, 11, generator=torch.Generator().manual_seed(0))
    for module in (ours.module, theirs.module):
        module.train()
        module.zero_grad()
    terms = ours.module.elbo_terms(CSRParts.from_dense(x), codes, noise)
    own = (terms["reconstruction"] + terms["kl_z"] + terms["kl_l"]).mean()
    own.backward()
    module = theirs.module
    found = module._regular_inference(x, codes[:, None])
    found["z"] = found["qz"].loc + found["qz"].scale * noise[:, :-1]
    found["library"] = found["ql"].loc + found["ql"].scale * noise[:, -1:]
    given = {"X": x, "batch": codes[:, None], "labels": codes[:, None]}
    said = module.generative(found["z"], found["library"], codes[:, None])
    loss = module.loss(given, found, said).loss
    loss.backward()
    values = {n: w.grad for n, w in ours.module.named_parameters() if w.grad is not None}
    grads = {n: w.grad for n, w in module.named_parameters() if n in values}
    # By the largest of all: what a batch norm takes away again has a gradient of rounding alone.
    largest = max(float(g.abs().max()) for g in grads.values())
    worst = max(float((g - values[n]).abs().max()) for n, g in grads.items()) / largest
    return {"elbo": float((own - loss).abs() / loss.abs()), "gradients": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=4096)
    parser.add_argument("--genes", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    if given.smoke:
        given.cells, given.genes, given.rounds = 300, 60, 1
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("episome", "scvi", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    cells = cells_of(given.cells, given.genes)
    stored = cells.X.nnz / np.prod(cells.shape)
    print(f"{given.cells:,} cells, {given.genes:,} genes, {stored:.0%} stored")
    found = agreement(cells.copy())
    print(f"bound: {found['elbo']:.1e} relative; gradients: {found['gradients']:.1e} at most")
    mine, theirs = cells.copy(), cells.copy()
    LDVAE.setup_anndata(mine)
    LinearSCVI.setup_anndata(theirs)
    sets = {"scvi-tools": (LinearSCVI, theirs), "LDVAE": (LDVAE, mine)}
    candidates = {
        f"{name}, {n}": (lambda s=s, n=n: trained(*s, n, given.batch_size))
        for n in (1, 3)
        for name, s in sets.items()
    }
    times = interleave(candidates, rounds=given.rounds)
    epochs = {}
    for name in sets:
        long, short = times[f"{name}, 3"], times[f"{name}, 1"]
        epochs[name] = Timing(
            [(a - b) / 2 for a, b in zip(long.wall, short.wall, strict=True)],
            [(a - b) / 2 for a, b in zip(long.cpu, short.cpu, strict=True)],
        )
    report("an epoch", epochs, base="scvi-tools", required={"LDVAE": 2.0})
    whole = {name: times[f"{name}, 3"] for name in sets}
    report("train() of three epochs", whole, base="scvi-tools")


if __name__ == "__main__":
    main()
