"""The conformance kit finds what is wrong with a model, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from episome.testing import (
    CHECKS,
    CheckFailure,
    check_model,
    fingerprint,
    parametrize_with_checks,
    synthetic_adata,
)

LIGHT = {"check_listing_is_light": "no plugin registers the toy"}


def failures(model) -> dict[str, str]:
    results = check_model(model, expected_failures=LIGHT, on_fail="collect")
    return {r.check: r.message for r in results if r.status == "failed"}


def test_a_good_model_passes_every_check(toy):
    seen = []

    results = check_model(toy.ToyModel, expected_failures=LIGHT, callback=seen.append)

    assert seen == results
    assert [r.check for r in results] == [c.__name__ for c in CHECKS]
    assert {r.check: r.status for r in results if r.status != "passed"} == {
        "check_listing_is_light": "expected"
    }


def by_position(cls):
    """Takes the genes of a query as they come."""

    class Broken(cls):
        def prepare(self, adata=None, **kwargs):
            if hasattr(adata, "var_names") and adata.n_vars == len(self.features):
                adata = adata.copy()
                adata.var_names = list(self.features.ids)
            return super().prepare(adata, **kwargs)

    return Broken


def wants_labels(cls):
    class Broken(cls):
        def predict_proba(self, adata=None, **kwargs):
            adata.obs["cell_type"]
            return super().predict_proba(adata, **kwargs)

    return Broken


def writes_to_query(cls):
    class Broken(cls):
        def predict(self, adata=None, **kwargs):
            found = super().predict(adata, **kwargs)
            if not adata.is_view:
                adata.obs["called"] = found
            return found

    return Broken


def depends_on_batch_mates(cls):
    class Broken(cls):
        def predictor(self):
            found = super().predictor()
            self.module.train()
            return found

    return Broken


def global_seed(cls):
    class Broken(cls):
        def train(self, **kwargs):
            super().train(**kwargs)
            self.module.head.bias.data += float(np.random.random())  # noqa: NPY002 - the defect

    return Broken


def forgets(cls):
    class Broken(cls):
        def save(self, dir_path, **kwargs):
            bias = self.module.head.bias
            bias.data += 1e-3 * bias.new_tensor([1, 2, 3])
            super().save(dir_path, **kwargs)

    return Broken


def takes_anything(cls):
    class Broken(cls):
        def prepare(self, adata=None, **kwargs):
            if hasattr(adata, "X"):
                adata = adata.copy()
                adata.X = abs(adata.X)
                adata.X.data = np.nan_to_num(adata.X.data, posinf=1)
            return super().prepare(adata, **kwargs)

    return Broken


def empty_fails(cls):
    class Broken(cls):
        def annotate(self, adata=None, **kwargs):
            if adata.n_obs == 0:
                raise ZeroDivisionError
            return super().annotate(adata, **kwargs)

    return Broken


@pytest.mark.parametrize(
    ("defect", "check", "text"),
    [
        (by_position, "check_genes_are_aligned_by_name", "permuted genes: probabilities differ"),
        (wants_labels, "check_query_needs_no_labels", "cell_type"),
        (writes_to_query, "check_caller_is_not_modified", "prediction changed the query"),
        (depends_on_batch_mates, "check_batch_size_and_order_do_not_matter", "more than 1 value"),
        (global_seed, "check_same_seed_gives_same_model", "differ"),
        (forgets, "check_save_and_load_are_exact", "differ"),
        (takes_anything, "check_unusable_values_are_refused", "is accepted"),
        (empty_fails, "check_empty_query", "ZeroDivisionError"),
    ],
)
def test_a_defect_is_found_by_its_check(toy, defect, check, text):
    found = failures(defect(toy.ToyModel))

    assert check in found
    assert text in found[check]


def test_the_first_failure_raises(toy):
    with pytest.raises(
        CheckFailure, match="Broken, check_genes_are_aligned_by_name: permuted genes"
    ):
        check_model(by_position(toy.ToyModel))


def test_checks_become_parameters_with_readable_names(toy):
    mark = parametrize_with_checks(
        ["sctab", toy.ToyModel], expected_failures={"check_empty_query": "a reason"}
    )

    names, parameters = mark.args
    assert names == ("check", "model_cls")
    assert len(parameters) == 2 * len(CHECKS)
    assert parameters[0].id == "sctab-check_genes_are_aligned_by_name"
    assert parameters[-1].id == "ToyModel-check_ensemble_averages_its_members"
    expected = [p for p in parameters if p.marks]
    assert [p.id for p in expected] == ["sctab-check_empty_query", "ToyModel-check_empty_query"]
    assert expected[0].marks[0].kwargs == {"reason": "a reason", "strict": True}


def test_synthetic_cells_are_the_same_for_a_seed():
    assert fingerprint(synthetic_adata(seed=3)) == fingerprint(synthetic_adata(seed=3))
    assert fingerprint(synthetic_adata(seed=3)) != fingerprint(synthetic_adata(seed=4))


def test_fingerprint_sees_every_change():
    adata = synthetic_adata(20)
    adata.obsm["p"] = np.zeros((20, 2))
    before = fingerprint(adata)

    def changed(change) -> bool:
        copy = adata.copy()
        change(copy)
        return fingerprint(copy) != before

    assert not changed(lambda a: a.obs.insert(0, "_scvi_labels", 1))
    assert changed(lambda a: a.obs.insert(0, "mine", 1))
    assert changed(lambda a: a.X.data.__setitem__(0, 99))
    assert changed(lambda a: a.obsm["p"].__setitem__((0, 0), 1))
    assert changed(lambda a: a.uns.update(x=1))
    assert changed(lambda a: setattr(a, "var_names", a.var_names[::-1]))
    assert changed(lambda a: setattr(a, "X", a.X.tocsc()))
