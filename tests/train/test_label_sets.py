"""Coarse labels as sets of finer classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import episome
from episome.data import simulate_cells
from episome.errors import UsageError
from episome.train import ClassifierPlan, label_sets

# T above CD4 and CD8, and all of these below lymphocyte, which B is too.
NAMES = ["lymphocyte", "T", "CD4", "CD8", "B"]
CHILDREN = np.eye(5, dtype=bool)
CHILDREN[0] = True
CHILDREN[1, [2, 3]] = True


class Core(torch.nn.Module):
    config = {"n_classes": 5, "n_features": 3}

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 5)

    def forward(self, batch):
        return {"logits": self.layer(batch["X"])}


def plan(**kwargs) -> ClassifierPlan:
    torch.manual_seed(0)
    return ClassifierPlan(Core(), target_sum=1e4, n_epochs=1, **kwargs)


def test_a_label_means_the_finest_of_what_is_below_it():
    sets = label_sets(CHILDREN)

    names = np.array(NAMES)
    meant = {n: set(names[row]) for n, row in zip(NAMES, sets, strict=True)}
    assert meant == {
        "lymphocyte": {"CD4", "CD8", "B"},
        "T": {"CD4", "CD8"},
        "CD4": {"CD4"},
        "CD8": {"CD8"},
        "B": {"B"},
    }


def test_classes_of_one_term_are_not_below_each_other():
    children = np.eye(4, dtype=bool)
    children[0, 1] = children[1, 0] = True
    children[2, 3] = True

    assert label_sets(children).astype(int).tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 0, 1],
    ]


def test_without_coarser_classes_sets_are_refused():
    for children in (None, np.eye(3, dtype=bool)):
        with pytest.raises(UsageError, match="E-U15"):
            label_sets(children)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_fine_labels_have_the_usual_loss(weighted, smoothing):
    weights = np.array([1.0, 1.0, 2.0, 0.5, 1.5], dtype=np.float32) if weighted else None
    kwargs = {"children": CHILDREN, "class_weights": weights}
    sets = plan(coarse_labels="set", **kwargs)
    x, labels = torch.randn(8, 3), torch.tensor([2, 3, 4, 2, 3, 4, 2, 2])

    logits = sets.core({"X": x})["logits"]
    found = sets._label_loss(logits, labels, sets.class_weights, smoothing)

    weight = None if weights is None else torch.as_tensor(weights)
    usual = F.cross_entropy(logits, labels, weight=weight, label_smoothing=0.0)
    if not smoothing:
        torch.testing.assert_close(found, usual)
    elif weight is None:
        smooth = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(found, smooth)


def test_a_coarse_label_costs_the_sum_of_what_it_means():
    sets = plan(coarse_labels="set", children=CHILDREN)
    logits = torch.randn(6, 5)
    shares = logits.softmax(1)

    found = sets._label_loss(logits, torch.full((6,), 1))

    torch.testing.assert_close(found, -(shares[:, 2] + shares[:, 3]).log().mean())


def test_networks_learn_fine_types_from_coarse_labels():
    """Half of the cells of two types are only said to be T cells."""
    cells = simulate_cells(900, 60, n_types=3, n_donors=6, fold_change=2.5, seed=0)
    fine = {
        "type 0": "CD4-positive, alpha-beta T cell",
        "type 1": "CD8-positive, alpha-beta T cell",
        "type 2": "B cell",
    }
    truth = cells.obs["cell_type"].astype(str).map(fine).to_numpy()
    rng = np.random.default_rng(0)
    coarse = (truth != "B cell") & (rng.random(len(truth)) < 0.5)
    cells.obs["cell_type"] = np.where(coarse, "T cell", truth)
    reference, query = cells[:600].copy(), cells[600:].copy()
    found = {}
    for kind in ("class", "set"):
        model_cls = episome.get_model("linear")
        model_cls.setup_anndata(reference, labels_key="cell_type")
        model = model_cls(reference)
        model.train(max_epochs=15, plan_kwargs={"coarse_labels": kind}, accelerator="cpu")
        found[kind] = model.predict(query)

    assert set(found["set"]) == set(fine.values())
    assert (found["set"] == truth[600:]).mean() > 0.9
    assert (found["class"] == "T cell").any()
    right = {k: (v == truth[600:]).mean() for k, v in found.items()}
    assert right["set"] > right["class"]
    # Calls are compared with labels that say which type it is.
    assert model.confidence_.facts["after"]["accuracy"] > 0.9


def test_which_labels_are_sets_is_said_and_can_be_chosen(caplog):
    cells = simulate_cells(300, 40, n_types=4, n_donors=4, seed=0)
    names = {
        "type 0": "CD14-positive monocyte",
        "type 1": "CD14-low, CD16-positive monocyte",
        "type 2": "T cell",
        "type 3": "CD4-positive, alpha-beta T cell",
    }
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).map(names)
    said = {}
    for coarse in ("set", ["T cell"]):
        model_cls = episome.get_model("linear")
        model_cls.setup_anndata(cells, labels_key="cell_type")
        model = model_cls(cells)
        caplog.clear()
        model.train(max_epochs=1, plan_kwargs={"coarse_labels": coarse}, accelerator="cpu")
        said[str(coarse)] = [m for m in caplog.messages if m.startswith("a cell labelled")]

    t_cells = "a cell labelled T cell counts as one of CD4-positive, alpha-beta T cell"
    assert said["['T cell']"] == [t_cells]
    assert t_cells in said["set"]
    assert len(said["set"]) == 2


def test_words_that_say_nothing_are_refused():
    cells = simulate_cells(100, 20, n_types=2, n_donors=2, seed=0)
    model_cls = episome.get_model("linear")
    model_cls.setup_anndata(cells, labels_key="cell_type")
    model = model_cls(cells)

    for word in ("both", "set", ["type 7"], ["type 0"]):
        with pytest.raises(UsageError, match="E-U15"):
            model.train(max_epochs=1, plan_kwargs={"coarse_labels": word}, accelerator="cpu")
