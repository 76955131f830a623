"""Other models in LDVAE's place, and annotation as the target."""

from __future__ import annotations

import pytest

from episome.benchmark import LocalExecutor
from episome_datamix import Plan, matrix, results, run

KEYS = {"labels_key": "cell_type", "donor_key": "donor_id"}


def plan(**more) -> Plan:
    given = {
        "name": "simulated",
        "corpora": {n: {"source": f"{n}.h5ad", **KEYS} for n in ("near", "mixed")},
        "evaluation": {"target": {"source": "target.h5ad", **KEYS}},
        "seeds": [0],
        "n_cells": 150,
        "n_top_genes": 50,
    }
    return Plan.from_dict({**given, **more})


@pytest.mark.slow
def test_any_model_that_reconstructs_takes_part(pools, own_cache, tmp_path):
    quick = {"max_epochs": 2, "accelerator": "cpu"}
    models = [
        {"model": "ldvae", "init": {"n_hidden": 16, "n_latent": 4}, "train": quick},
        {"model": "scvi", "init": {"n_hidden": 16, "n_latent": 4}, "train": quick},
        {"model": "ssl-reconstructor", "init": {"hidden": [16], "n_latent": 4}, "train": quick},
    ]

    found = run(
        plan(mixes=["near"], models=models), tmp_path, base=pools, executor=LocalExecutor(1)
    )

    assert found.counts == {"ok": 3}, found.store.current()["reason"].unique()
    table = matrix(results(found.store), "near")
    assert set(table["model"]) == {"ldvae", "scvi", "ssl-reconstructor", "mean of training"}
    assert table["value"].between(0, 1).all()


@pytest.mark.slow
def test_annotation_may_be_the_target(pools, own_cache, tmp_path):
    """Types that a mix lacks cannot be called right, and are counted."""
    asked = plan(target="annotation", models=["centroid"])

    found = run(asked, tmp_path, base=pools, executor=LocalExecutor(1))

    assert found.counts == {"ok": 2}, found.store.current()["reason"].unique()
    table = results(found.store)
    value = table[table["part"] == ""].set_index(["mix", "metric"])["value"]
    assert value["near", "f1_macro"] > 0.9
    # A mix of the types a and c calls no cell b, which is half of the target.
    assert value["mixed", "f1_macro"] < 0.6
    assert value["mixed", "f1_macro_known"] > value["mixed", "f1_macro"]
    assert value["mixed", "coverage_types"] == pytest.approx(0.5, abs=0.1)
    assert value["near", "coverage_types"] == 1
