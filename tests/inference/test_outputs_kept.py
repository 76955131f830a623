"""Outputs of a core outlive the memory of its batches."""

from __future__ import annotations

import numpy as np
import torch

from episome.data import simulate_cells
from episome.inference import Predictor
from episome.models import NearestCentroid


class Echo(torch.nn.Module):
    """Gives its input back, which a careless core may do."""

    inference_format = "dense"
    device = torch.device("cpu")

    def inference(self):
        return lambda batch: {"mean": batch["X"]}


def test_outputs_that_are_the_input_are_not_overwritten():
    cells = simulate_cells(90, 20, n_types=3, seed=0)
    NearestCentroid.setup_anndata(cells, labels_key="cell_type")
    model = NearestCentroid(cells)
    predictor = Predictor(
        Echo(), features=model.features, rule=model.input_rule, labels=model.labels
    )
    query = model.prepare(cells)

    parts = [o["mean"] for o in predictor.stream(query, batch_size=32)]

    whole = next(predictor.stream(query, batch_size=90))["mean"]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
