"""Encoders that models hand on: whole or not at all, and gene by gene."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from episome.data import FeatureSpace, InputRule
from episome.errors import GeneMatchError, ModelMismatchError, UsageError
from episome.models import EncoderPart, donor_digests, shared_donors
from episome.nn import TorchCore

GENES = tuple(f"ENSG{i:011d}" for i in range(8))
RULE = InputRule("counts", target_sum=1e4)


class Core(TorchCore):
    """A weight with genes in its first axis, one with genes in its second, and one without."""

    def __init__(self, n_features: int, *, width: int = 3, kind: str = "plain") -> None:
        super().__init__()
        self.config = {"n_features": n_features, "width": width, "kind": kind}
        self.rows = torch.nn.Parameter(torch.rand(n_features, width))
        self.columns = torch.nn.Parameter(torch.rand(width, n_features))
        self.bias = torch.nn.Parameter(torch.rand(width))
        self.head = torch.nn.Parameter(torch.rand(n_features))

    def parts(self):
        return {
            "encoder": {
                "prefix": "",
                "tensors": ["rows", "columns", "bias"],
                "gene_axes": {"rows": 0, "columns": 1},
                "settings": {k: self.config[k] for k in ("width", "kind")},
            }
        }


def part_of(core: Core, genes=GENES, rule=RULE, **changes) -> EncoderPart:
    found = core.parts()["encoder"]
    state = core.state_dict()
    tensors = {n: state[n].clone() for n in found["tensors"]}
    given = {
        "tensors": tensors,
        "gene_axes": found["gene_axes"],
        "settings": found["settings"],
        "features": FeatureSpace(tuple(genes)),
        "rule": rule,
        "source": "toy",
    }
    return EncoderPart(**(given | changes))


def core(n=8, seed=0, **options) -> Core:
    torch.manual_seed(seed)
    return Core(n, **options)


def copied(made: Core) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in made.state_dict().items()}


# --- gene by gene ------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    known=st.permutations(range(8)).flatmap(lambda p: st.integers(4, 8).map(lambda n: p[:n])),
    asked=st.permutations(range(12)),
)
def test_genes_go_to_the_genes_of_their_name_in_either_axis(known, asked):
    mine = [f"ENSG{i:011d}" for i in asked]
    theirs = [f"ENSG{i:011d}" for i in known]
    source, made = core(len(theirs), 1), core(len(mine), 2)
    fresh = copied(made)

    report = part_of(source, theirs).fill(made, FeatureSpace(tuple(mine)), min_gene_overlap=0.0)

    state = made.state_dict()
    assert torch.equal(state["bias"], source.bias)
    assert torch.equal(state["head"], fresh["head"])
    for i, gene in enumerate(mine):
        at = theirs.index(gene) if gene in theirs else None
        wanted = fresh["rows"][i] if at is None else source.rows[at]
        assert torch.equal(state["rows"][i], wanted)
        wanted = fresh["columns"][:, i] if at is None else source.columns[:, at]
        assert torch.equal(state["columns"][:, i], wanted)
    assert report == (3, 12, len(known), "toy")
    assert f"{len(known)} of 12 genes are known there" in report.text


def test_other_names_and_versions_find_genes():
    symbols = FeatureSpace(GENES, {"feature_name": tuple(f"SYM{c}" for c in "ABCDEFGH")})
    source, made = core(seed=1), core(3, 2)
    mine = FeatureSpace(("SYMB", f"{GENES[5]}.7", "SYMH"))

    report = part_of(source, features=symbols).fill(made, mine)

    assert report.n_known == 3
    assert torch.equal(made.rows, source.rows[[1, 5, 7]])


def test_what_was_filled_is_a_copy_of_its_own():
    source, made = core(seed=1), core(seed=2)
    part = part_of(source)
    part.fill(made, FeatureSpace(GENES))

    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()

    assert all(t.any() for t in part.tensors.values())


def test_too_few_known_genes_leave_the_core_as_it_was():
    made = core(seed=2)
    fresh = copied(made)
    mine = FeatureSpace((*GENES[:3], "a", "b", "c", "d", "e"))

    with pytest.raises(GeneMatchError, match=r"only 3 of 8 genes are known.*toy.*E-G03"):
        part_of(core(seed=1)).fill(made, mine)

    assert all(torch.equal(v, fresh[k]) for k, v in made.state_dict().items())
    assert part_of(core(seed=1)).fill(made, mine, min_gene_overlap=3 / 8).n_known == 3


# --- whole or not at all -----------------------------------------------------------------------


def without(part: EncoderPart, name: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in part.tensors.items() if k != name}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (lambda p: {"tensors": without(p, "bias")}, "1 of 3, first: missing bias"),
        (lambda p: {"tensors": {**p.tensors, "more": p.tensors["bias"]}}, "unknown more"),
        (lambda p: {"tensors": {**p.tensors, "bias": torch.rand(4)}}, "1 of 3, first: bias"),
        (lambda p: {"tensors": {**p.tensors, "rows": torch.rand(8, 4)}}, "1 of 3, first: rows"),
        (lambda p: {"tensors": {**p.tensors, "columns": torch.rand(4, 8)}}, "first: columns"),
        (lambda p: {"tensors": {**p.tensors, "rows": torch.rand(8)}}, "1 of 3, first: rows"),
        (lambda p: {"settings": {**p.settings, "kind": "other"}}, "kind is 'plain' here and 'oth"),
        (lambda p: {"settings": {"width": 3}}, "kind is 'plain' here and None there"),
    ],
)
def test_an_encoder_that_differs_is_refused_and_changes_nothing(changes, text):
    made, part = core(seed=2), part_of(core(seed=1))
    fresh = copied(made)
    other = part_of(core(seed=1), **changes(part))

    with pytest.raises(ModelMismatchError, match=rf"{text}.*E-M06"):
        other.fill(made, FeatureSpace(GENES))

    assert all(torch.equal(v, fresh[k]) for k, v in made.state_dict().items())


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        (InputRule("counts", target_sum=1e4), True),
        (InputRule("log1p", target_sum=1e4), True),
        (InputRule("counts", target_sum=1.01e4), True),
        (InputRule("counts", target_sum=1e3), False),
        (InputRule("counts", target_sum=1e4, obsm_key="X_pca"), False),
    ],
)
def test_values_are_of_the_same_scale_or_refused(rule, fits):
    part = part_of(core())

    if fits:
        part.require_rule(rule)
        return
    with pytest.raises(ModelMismatchError, match=r"another scale.*E-M06"):
        part.require_rule(rule)


# --- out of models and folders -----------------------------------------------------------------


@pytest.fixture
def handing(toy, monkeypatch):
    """The toy encoder, which names its encoder: a linear map with genes in the second axis."""

    def parts(self):
        return {
            "encoder": {
                "prefix": "encoder.",
                "tensors": ["weight", "bias"],
                "gene_axes": {"weight": 1},
                "settings": {"n_latent": self.config["n_latent"]},
            }
        }

    monkeypatch.setattr(toy.ToyEncoderCore, "parts", parts, raising=False)

    def build(adata, *, n_latent=4):
        toy.ToyEncoder.setup_anndata(adata, donor_key="donor_id")
        return toy.ToyEncoder(adata, n_latent=n_latent)

    return build


def test_a_live_model_and_its_folder_hand_on_the_same(toy, handing, tmp_path):
    model = handing(toy.cells())
    model.train(max_epochs=1, accelerator="cpu")
    model.save(tmp_path / "m")
    other = handing(toy.cells(seed=0)[:, ::-1].copy())

    parts = [EncoderPart.of(given) for given in (model, tmp_path / "m", str(tmp_path / "m"))]

    for part in parts:
        assert set(part.tensors) == {"weight", "bias"}
        assert part.features.ids == model.features.ids
        assert part.rule.target_sum == model.input_rule.target_sum
        assert part.facts["n_epochs"] == 1
        for name, tensor in part.tensors.items():
            assert torch.equal(tensor, model.module.state_dict()[f"encoder.{name}"])
        part.fill(other.module, other.features)
        weight = model.module.encoder.weight
        assert torch.equal(other.module.encoder.weight, weight.flip(1))
    manifest = json.loads((tmp_path / "m" / "manifest.json").read_text())
    assert manifest["parts"]["encoder"]["gene_axes"] == {"weight": 1}


def test_taking_an_encoder_out_does_not_tie_it_to_the_model(toy, handing):
    model = handing(toy.cells())
    model.train(max_epochs=1, accelerator="cpu")
    before = model.module.encoder.weight.detach().clone()

    EncoderPart.of(model).tensors["weight"].zero_()

    assert torch.equal(model.module.encoder.weight, before)


def test_untrained_models_and_those_without_an_encoder_are_refused(toy, handing, model, tmp_path):
    with pytest.raises(UsageError, match="E-M20"):
        EncoderPart.of(handing(toy.cells()))
    model.save(tmp_path / "m")
    for given_model in (model, tmp_path / "m"):
        with pytest.raises(ModelMismatchError, match=r"no encoder to hand on.*E-M06"):
            EncoderPart.of(given_model)


def test_a_folder_that_names_tensors_it_does_not_hold_is_refused(toy, handing, monkeypatch):
    model = handing(toy.cells())
    model.train(max_epochs=1, accelerator="cpu")
    real = type(model.module).parts

    def more(self):
        found = real(self)["encoder"]
        return {"encoder": {**found, "tensors": [*found["tensors"], "more"]}}

    monkeypatch.setattr(type(model.module), "parts", more)

    with pytest.raises(ModelMismatchError, match=r"first: more.*E-M06"):
        EncoderPart.of(model)


# --- donors ------------------------------------------------------------------------------------


def test_digests_say_which_donors_are_shared_and_no_names():
    digests = donor_digests(["b", "a", None, "a"])

    assert digests == sorted(digests)
    assert len(digests) == 2
    assert hashlib.sha256(b"a").hexdigest()[:16] in digests
    assert shared_donors(digests, ["c", "b", None, "a", "b"]) == ["a", "b"]
    assert shared_donors(digests, ["c"]) == []
    assert shared_donors([], ["a"]) == []
    assert shared_donors(digests, None) == []
    assert donor_digests(None) == []


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, float("nan")])
def test_a_cell_without_a_donor_has_no_digest(missing):
    """Or all cells without one would seem to be of one donor: a leak wherever there are some."""
    column = pd.Series(["a", missing], dtype=object)

    assert donor_digests(column) == donor_digests(["a"])
    assert shared_donors(donor_digests(["a", "nan", "<NA>"]), column) == ["a"]


def test_a_categorical_column_is_read_as_its_names():
    column = pd.Series(pd.Categorical(["a", "b", None]))

    assert donor_digests(column) == donor_digests(["b", "a"])


@given(
    seen=st.lists(st.text(max_size=4), max_size=6), asked=st.lists(st.text(max_size=4), max_size=6)
)
def test_shared_donors_are_the_intersection(seen, asked):
    assert shared_donors(donor_digests(seen), asked) == sorted(set(seen) & set(asked))
