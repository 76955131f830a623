"""The page of the documentation runs as it stands."""

from __future__ import annotations

from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest
import torch

from episome.nn import CSRParts, MaskedAutoencoder, PretextBatch


@pytest.mark.slow
def test_page_on_self_supervised_encoders_as_written_runs(run_page: Callable[[str], dict]) -> None:
    names = run_page("ssl")

    truth = names["truth"].to_numpy(dtype=str)
    for calls in (names["calls"], names["probed"], names["labels"]):
        assert (calls["label"].to_numpy(dtype=str) == truth).mean() > 0.5
    assert ad.read_h5ad("embedded.h5ad").obsm["X_ssl"].shape == (200, 64)
    assert ad.read_h5ad("imputed.h5ad").shape == (200, 300)
    assert np.isfinite(names["expected"].to_numpy()).all()
    assert names["filled"].shape == (200, 300)
    # The task that the page writes trains an encoder.
    net = MaskedAutoencoder(12, hidden=(6,), n_latent=3, decodes=False)
    batch = PretextBatch(CSRParts.from_dense(torch.eye(5, 12)), torch.arange(5))
    names["Distances"]().loss(net, batch).loss.backward()
    assert float(net.first.grad.abs().sum()) > 0
