"""Corpora out of SOMA experiments, whose layout the Census has: the cells that files give."""

from __future__ import annotations

import numpy as np
import pytest

from episome_datamix import Corpus, Mix, Plan, simulated
from episome_datamix.mixing import rows_of_mix

io = pytest.importorskip("tiledbsoma.io", reason="tiledbsoma is not installed")

KEYS = {"labels_key": "cell_type", "donor_key": "donor_id", "where": ("tissue=blood",)}


def plan_of(ending: str) -> Plan:
    corpora = {n: Corpus(f"{n}.{ending}", dataset=n, **KEYS) for n in ("near", "far")}
    return Plan(
        corpora,
        {"target": Corpus(f"target.{ending}", dataset="target", **KEYS)},
        mixes=[Mix("both", {"near": 0.7, "far": 0.3}, 150)],
    )


def test_a_mix_of_experiments_is_that_of_their_files(tmp_path):
    for name in ("near", "far", "target"):
        cells = getattr(simulated, name)()
        cells.obs["is_primary_data"] = True
        cells.obs["tissue"] = ["blood" if i % 5 else "lung" for i in range(cells.n_obs)]
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
        uri = str(tmp_path / f"{name}.soma")
        io.from_anndata(uri, cells, measurement_name="RNA", X_layer_name="raw")

    names, values = [], []
    for ending in ("h5ad", "soma"):
        plan = plan_of(ending)
        drawn = rows_of_mix(plan, plan.mixes[0], None, 0, tmp_path)
        assert [pool.lost["where"] for pool, _ in drawn] == [100, 100]
        names.append([pool.names(rows).tolist() for pool, rows in drawn])
        values.append([pool.source.read(rows).toarray() for pool, rows in drawn])

    assert [len(part) for part in names[0]] == [105, 45]
    assert names[0] == names[1]
    for file, experiment in zip(*values, strict=True):
        np.testing.assert_array_equal(file, experiment)
