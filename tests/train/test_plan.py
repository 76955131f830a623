"""The plan: loss, weights, schedules, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from episome.errors import TrainingError, UsageError
from episome.train import (
    ClassifierPlan,
    balanced_weights,
    check_plan_kwargs,
    check_trainer_kwargs,
)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60).map(lambda x: [*range(5), *x]))
def test_class_weights_equal_scikit_learns_balanced(codes):
    wanted = compute_class_weight("balanced", classes=np.arange(5), y=np.array(codes))

    got = balanced_weights(np.array(codes), 5)

    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_a_class_without_cells_has_no_weight():
    with pytest.raises(ValueError, match=r"classes \[1\] have no training cell"):
        balanced_weights(np.array([0, 2]), 3)


@pytest.fixture
def plan(toy):
    def make(**kwargs) -> ClassifierPlan:
        torch.manual_seed(0)
        plan = ClassifierPlan(toy.ToyCore(6, 3), **kwargs)
        plan.log = lambda *args, **kwargs: None
        return plan

    return make


def batch(n=9):
    generator = torch.Generator().manual_seed(1)
    return {
        "X": torch.randn(n, 6, generator=generator),
        "labels": torch.arange(n) % 3,
        "ind_x": torch.arange(100, 100 + n),
    }


def test_training_loss_is_weighted_smoothed_cross_entropy(plan):
    weights = np.array([1, 2, 3], np.float32)
    made = plan(class_weights=weights, label_smoothing=0.1).eval()
    cells = batch()

    loss = made.training_step(cells, 0)

    wanted = F.cross_entropy(
        made.core(cells)["logits"], cells["labels"], torch.tensor(weights), label_smoothing=0.1
    )
    torch.testing.assert_close(loss, wanted)


def test_penalty_of_the_core_is_added(plan):
    made, cells = plan().eval(), batch()
    bare = made.training_step(cells, 0)
    forward = made.core.forward
    made.core.forward = lambda b: {**forward(b), "penalty": torch.tensor(0.25)}

    torch.testing.assert_close(made.training_step(cells, 0), bare + 0.25)


def test_a_loss_that_is_not_finite_names_the_cells(plan, monkeypatch):
    made, cells = plan(lr=0.5), batch()
    cells["X"][0, 0] = float("nan")
    monkeypatch.setattr(
        ClassifierPlan,
        "trainer",
        type("T", (), {"precision": "32-true", "current_epoch": 0, "global_step": 3}),
    )

    with pytest.raises(TrainingError, match=r"cells 100 to 108.*lr=0.5.*E-T01"):
        made.training_step(cells, 3)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("step", [0.5, 0.25]),
        ("cosine", [0.5, 0.0]),
        (None, [1.0, 1.0]),
    ],
)
def test_schedules_step_by_epoch(plan, schedule, rates):
    configured = plan(
        lr=1.0, lr_schedule=schedule, lr_decay=0.5, n_epochs=2
    ).configure_optimizers()

    optimizer = configured["optimizer"]
    found = []
    for _ in rates:
        optimizer.step()
        if "lr_scheduler" in configured:
            assert configured["lr_scheduler"]["interval"] == "epoch"
            configured["lr_scheduler"]["scheduler"].step()
        found.append(optimizer.param_groups[0]["lr"])
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["eps"] == 1e-8
    assert found == pytest.approx(rates)


def test_plateau_watches_the_validation_loss(plan):
    made = plan(lr_schedule="plateau", lr_patience=4)
    alone = made.configure_optimizers()["lr_scheduler"]["monitor"]
    made.n_obs_validation = 10
    configured = made.configure_optimizers()

    assert alone == "train_loss"
    assert configured["lr_scheduler"]["monitor"] == "validation_loss"
    assert configured["lr_scheduler"]["scheduler"].patience == 4


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"learning_rate": 1}, r"unknown keys \['learning_rate'\] in plan_kwargs.*lr,.*E-U14"),
        ({"core": 1}, "E-U14"),
        ({"n_epochs": 3}, "E-U14"),
        ({"lr_schedule": "linear"}, r"'linear'.*\"cosine\".*E-U15"),
        ({"lr": 0}, r"a positive number.*E-U15"),
        ({"lr": float("nan")}, "E-U15"),
    ],
)
def test_unknown_or_impossible_plan_arguments_are_refused(kwargs, text):
    with pytest.raises(UsageError, match=text):
        check_plan_kwargs(kwargs)


def test_known_plan_arguments_pass():
    check_plan_kwargs({"lr": 1e-3, "class_weight": None, "lr_schedule": None, "weight_decay": 0.0})


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"gradient_clip": 1}, r"near: gradient_clip_val.*E-U16"),
        ({"plan_kwarg": {}}, r"near: plan_kwargs.*E-U16"),
        (
            {"enable_checkpointing": True},
            r"the best weights are kept and restored without it.*E-U16",
        ),
        ({"checkpointing_monitor": "x"}, "pass early_stopping_monitor"),
    ],
)
def test_unknown_trainer_arguments_are_refused(kwargs, text):
    with pytest.raises(UsageError, match=text):
        check_trainer_kwargs(kwargs)


def test_known_trainer_arguments_pass():
    check_trainer_kwargs(
        {"precision": "bf16-mixed", "callbacks": [], "early_stopping_patience": 3}
    )
