"""The core against recorded numbers of scvi-tools and of the study's code."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from episome.nn import CSRParts
from episome_datamix import cell_correlations
from episome_datamix.core import LDVAECore
from episome_datamix.layers import kl_normal
from episome_datamix.module import LDVAEModule
from episome_datamix.tasks import _variable


def recorded(golden, kind=LDVAECore):
    case = golden("08a_ldvae_elbo")
    core = kind.from_config(
        {"n_features": 64, "n_batch": 1, "n_latent": 10, "n_layers": 2, "target_sum": 1e4}
    )
    core.load_state_dict(case.state())
    return case, core.eval()


def test_encoders_and_decoder_are_those_of_scvi_tools(golden):
    for kind in (LDVAECore, LDVAEModule):
        case, core = recorded(golden, kind)
        counts = CSRParts.from_dense(case.tensor("counts"))

        with torch.no_grad():
            mean, variance, l_mean, l_variance = core.encoded(counts)
            shares = core.logits(case.tensor("z")).softmax(-1)

        case.check("qz_mean", mean)
        case.check("qz_scale", variance.sqrt())
        case.check("ql_mean", l_mean)
        case.check("ql_scale", l_variance.sqrt())
        case.check("px_scale", shares)
        case.check("theta", core.px_r.exp().expand(24, -1))


def test_the_bound_is_that_of_scvi_tools(golden):
    case, core = recorded(golden)
    scale = torch.cat([case.tensor("qz_scale"), case.tensor("ql_scale")], dim=1)
    mean = torch.cat([case.tensor("qz_mean"), case.tensor("ql_mean")], dim=1)
    drawn = torch.cat([case.tensor("z"), case.tensor("library")], dim=1)
    codes = case.tensor("batch_index")[:, 0].long()

    with torch.no_grad():
        terms = core.elbo_terms(
            CSRParts.from_dense(case.tensor("counts")), codes, (drawn - mean) / scale
        )

    case.check("reconstruction_loss", terms["reconstruction"])
    case.check("kl_z", terms["kl_z"])
    case.check("kl_l", terms["kl_l"])
    for weight in (1.0, 0.3):
        total = (terms["reconstruction"] + weight * terms["kl_z"] + terms["kl_l"]).mean()
        case.check(f"loss_klw{weight}", total)


def test_reconstruction_r2_is_that_of_the_study(golden):
    case = golden("08b_datamix_reconstruction_r2")
    genes, measured = case.meta["model_genes"], case.arrays["query_counts"]
    cells = anndata.AnnData(
        sparse.csr_matrix(measured), var=pd.DataFrame(index=case.meta["query_genes"])
    )
    full = anndata.AnnData(
        sparse.csr_matrix(case.arrays["aligned_counts"].astype(np.float32)),
        var=pd.DataFrame(index=genes),
    )
    logs = np.log1p(1e4 * full.X.toarray() / full.X.sum(axis=1).A)
    aligned = cells[:, [g for g in genes if g in set(cells.var_names)]]

    at = np.isin(genes, _variable(full, 20))
    r_all = cell_correlations(np.log1p(case.arrays["expected_rate_1e4"]), logs)["r"]
    few = np.log1p(case.arrays["expected_rate_1e4_hvg_call"])[:, case.arrays["hvg_mask"]]
    r_few = cell_correlations(few, logs[:, case.arrays["hvg_mask"]])["r"]

    assert aligned.n_vars == 61
    assert at.sum() == 20
    np.testing.assert_array_equal(at, case.arrays["hvg_mask"])
    case.check("correlation_all", r_all.to_numpy())
    case.check("r2_all", r_all.to_numpy() ** 2)
    case.check("correlation_hvg20", r_few.to_numpy())
    case.check("r2_hvg20", r_few.to_numpy() ** 2)


def test_divergence_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(4, 5, generator=generator) + 0.1
    mean, variance, at, spread = values[0], values[1], values[2], values[3]

    ours = kl_normal(mean, variance, at, spread)

    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(
        normal(mean, variance.sqrt()), normal(at, spread.sqrt())
    )
    torch.testing.assert_close(ours, theirs)
