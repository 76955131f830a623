"""The published network, as recorded, is the one with the encoder that is told batches."""

from __future__ import annotations

import torch

from episome.nn import CSRParts
from episome_crossmodal.core import CrossModalCore


def core_of(case) -> CrossModalCore:
    """Our core with the recorded weights: without the inputs that were always zero."""
    at, state = case.config, case.state()
    genes, proteins = at["n_genes"], at["n_proteins"]
    width = at["n_hidden"]
    core = CrossModalCore(
        genes,
        n_targets={"protein": proteins},
        hidden=(width, width),
        n_latent=at["n_latent"],
        decoder=(width, width),
        dropout=0.0,
        n_batch=at["n_batches"],
    )
    first = state["encoder.0.weight"]
    ours = {
        "net.first": first[:, :genes].T,
        "net.first_bias": state["encoder.0.bias"],
        "net.first_batch": first[:, genes + proteins :].T,
        "net.out.weight": state["encoder.8.weight"],
        "net.out.bias": state["encoder.8.bias"],
        "net.layers.linear.0.weight": state["encoder.4.weight"],
        "net.layers.linear.0.bias": state["encoder.4.bias"],
        # The published output also gives genes and batches back.
        "out.weight": state["decoder.8.weight"][genes : genes + proteins],
        "out.bias": state["decoder.8.bias"][genes : genes + proteins],
        "mean": torch.zeros(proteins),
        "spread": torch.ones(proteins),
    }
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        ours[f"net.begin.0.{name}"] = state[f"encoder.1.{name}"]
        ours[f"net.layers.rest.0.0.{name}"] = state[f"encoder.5.{name}"]
        for i, number in enumerate((1, 5)):
            ours[f"decoder.rest.{i}.0.{name}"] = state[f"decoder.{number}.{name}"]
    for i, number in enumerate((0, 4)):
        for name in ("weight", "bias"):
            ours[f"decoder.linear.{i}.{name}"] = state[f"decoder.{number}.{name}"]
    core.load_state_dict(ours)
    return core.eval()


def batch_of(case) -> dict[str, object]:
    proteins = case.tensor("proteins")
    return {
        "X": CSRParts.from_dense(case.tensor("genes")),
        "batch": case.tensor("batch_onehot").argmax(1),
        "protein": CSRParts.from_dense(proteins),
        "ind_x": torch.arange(len(proteins)),
    }


def test_embedding_prediction_and_loss_are_those_recorded(golden):
    case = golden("06g_ssl_cross_modality_cite")
    core, batch = core_of(case), batch_of(case)
    genes, proteins = case.config["n_genes"], case.config["n_proteins"]

    with torch.no_grad():
        out, loss = core(batch), core.loss(batch)["loss"]

    case.check("latent", out["latent"])
    whole = case.arrays["reconstruction"].copy()
    whole[:, genes : genes + proteins] = out["target"].numpy()
    case.check("reconstruction", whole)
    case.check("finetune_loss", loss)
