"""A folder knows the cells and donors of its training again, and holds no names of them."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

from episome.data import simulate_cells
from episome.errors import EpisomeWarning
from episome.jobs import EvaluateRequest, evaluate
from episome.models import LinearClassifier, NearestCentroid, known_share
from episome.models._seen import cell_sketch


@pytest.mark.parametrize("n", [40, 300, 20_000])
def test_the_same_cells_are_known_and_others_are_not(n):
    mine = pd.Index([f"AAAC{i}-1" for i in range(n)])
    sketch = cell_sketch(mine)

    assert len(sketch) == min(n, 256)
    assert known_share(sketch, mine) == 1.0
    assert known_share(sketch, mine[::-1]) == 1.0
    assert known_share(sketch, pd.Index([f"other {i}" for i in range(n)])) == 0.0
    half = mine[: n // 2].append(pd.Index([f"other {i}" for i in range(n - n // 2)]))
    assert known_share(sketch, half) == pytest.approx(0.5, abs=0.15)


def test_of_few_cells_nothing_is_said():
    assert np.isnan(known_share(cell_sketch(pd.Index(["a", "b"])), pd.Index(["a", "b"])))
    assert np.isnan(known_share([], pd.Index(list("abcdefghijkl"))))


@pytest.mark.parametrize("model", [NearestCentroid, LinearClassifier])
@pytest.mark.parametrize("donor_key", [None, "donor_id"])
def test_scores_of_training_cells_are_warned_of(tmp_path, model, donor_key):
    cells = simulate_cells(240, 40, n_types=3, n_donors=10)
    train = cells[cells.obs["donor_id"].isin([f"donor {i}" for i in range(5)]).to_numpy()].copy()
    others = cells[~cells.obs_names.isin(train.obs_names)].copy()
    train.write_h5ad(tmp_path / "train.h5ad")
    others.write_h5ad(tmp_path / "others.h5ad")
    model.setup_anndata(train, "cell_type", donor_key="donor_id")
    made = model(train)
    made.train(**({"max_epochs": 2} if model is LinearClassifier else {}))
    made.save(tmp_path / "model")
    kept = json.loads((tmp_path / "model" / "manifest.json").read_text())["fit"]
    assert len(kept["donor_digests"]) == 5
    assert not any("donor" in d for d in kept["donor_digests"])

    def scored(name: str):
        return evaluate(
            EvaluateRequest(
                input=tmp_path / name,
                model=tmp_path / "model",
                output=None,
                labels_key="cell_type",
                donor_key=donor_key,
            )
        )

    what = "donors that are scored" if donor_key else "names of training cells"
    with pytest.warns(EpisomeWarning, match=f"{what}.*E-L48"):
        found = scored("train.h5ad")
    assert found.shared_donors == ([f"donor {i}" for i in range(5)] if donor_key else None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EpisomeWarning)
        other = scored("others.h5ad")
    assert other.shared_donors == ([] if donor_key else None)
