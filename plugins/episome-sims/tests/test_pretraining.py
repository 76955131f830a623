"""Pretraining without labels, and the start from another model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch

from episome.data import simulate_cells
from episome.errors import GeneMatchError, ModelMismatchError, TrainingError, UsageError
from episome.models import SIMS
from episome.nn import hidden_value_loss, hidden_value_scale
from episome.testing import fingerprint
from episome_sims.core import SIMSCore
from episome_sims.pretext import PretextCore, encoder_names

if TYPE_CHECKING:
    from anndata import AnnData

SIZES = {"n_d": 8, "n_a": 4, "n_shared": 2, "n_independent": 1}
QUICK = {"accelerator": "cpu", "max_epochs": 2}


def reference(n: int = 120, **more: object) -> AnnData:
    return simulate_cells(n, 60, seed=0, **more)


def encoder(model: SIMS) -> dict[str, torch.Tensor]:
    state = model.module.state_dict()
    return {name: state[name].clone() for name in encoder_names(model.module)}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = SIMS(reference(), **SIZES)
    model.train(**QUICK)
    path = tmp_path_factory.mktemp("sims") / "model"
    model.save(path)
    return path


# --- the pretext ----------------------------------------------------------------------------


def pretext(**sizes: object) -> tuple[PretextCore, torch.Tensor]:
    torch.manual_seed(0)
    made = PretextCore(SIMSCore(30, 3, **SIZES, **sizes), mask_rate=0.2)
    return made, torch.rand(64, 30)


def test_a_hidden_gene_is_neither_read_nor_looked_at() -> None:
    made, x = pretext()
    hidden = (torch.rand(64, 30) < 0.3).float()
    other = torch.where(hidden.bool(), torch.rand(64, 30) * 100, x)

    made.eval()
    decisions, masks, _ = made.core.net.run_steps(x * (1 - hidden), prior=1 - hidden)

    assert torch.equal(made.reconstruct(x, hidden), made.reconstruct(other, hidden))
    assert len(decisions) == 3
    for mask in masks:
        genes = made.core.net.gene_mask(mask)
        torch.testing.assert_close(genes.sum(1), torch.ones(64))
        # Scores of hidden genes are zero: they are taken only where all others are negative.
        assert float(genes[hidden.bool()].sum()) < float(genes.sum()) * 0.1


def test_share_of_hidden_genes_is_the_mask_rate() -> None:
    made, x = pretext()

    shares = [float(made.train().hide({"X": x}).mean()) for _ in range(20)]

    assert np.mean(shares) == pytest.approx(0.2, abs=0.01)
    assert len(set(shares)) > 10


def test_validation_hides_the_same_genes_in_every_epoch() -> None:
    made, x = pretext()
    made.eval()
    batch = {"X": x, "ind_x": torch.arange(64)}

    first, again = made.hide(batch), made.hide(batch)
    other = made.hide({"X": x, "ind_x": torch.arange(64, 128)})

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_loss_is_that_of_the_hidden_values() -> None:
    made, x = pretext(input_scaling="l2")
    batch = {"X": x, "ind_x": torch.arange(64)}
    made.eval()
    hidden, target = made.hide(batch), made.core.inputs(x)

    found = made.loss(batch)

    wanted = hidden_value_loss(
        made.reconstruct(target, hidden), target, hidden, hidden_value_scale(target)
    )
    torch.testing.assert_close(found, wanted)


def test_groups_are_hidden_together() -> None:
    groups = [0] * 10 + [1] * 5 + list(range(2, 17))
    made, x = pretext(feature_groups=groups)

    hidden = made.train()({"X": x})["hidden"]

    assert (hidden[:, :10] == hidden[:, :1]).all()
    assert (hidden[:, 10:15] == hidden[:, 10:11]).all()
    assert 0.1 < hidden.mean() < 0.3


# --- a run ----------------------------------------------------------------------------------


def test_pretraining_lowers_the_loss_of_hidden_values() -> None:
    model = SIMS(reference(400, n_types=3), **SIZES, dropout=0.0)

    history = model.pretrain(40, batch_size=64, accelerator="cpu", early_stopping=False)

    losses = history["validation_loss"]["validation_loss"].to_numpy()
    assert losses.min() < 0.7 * losses[0]
    assert model.pretraining_["best_epoch"] == int(losses.argmin())
    assert model.pretraining_["validation_loss"] == pytest.approx(losses.min())


def test_pretraining_is_where_training_starts(tmp_path: Path) -> None:
    model = SIMS(reference(), **SIZES)
    fresh, head = encoder(model), model.module.net.head.weight.clone()

    model.pretrain(accelerator="cpu", max_epochs=2)

    after = encoder(model)
    assert model.pretraining_["n_tensors"] == len(after)
    assert not same(fresh, after)
    assert torch.equal(model.module.net.head.weight, head)
    assert not model.is_trained_
    with pytest.raises(UsageError, match="E-M20"):
        model.predict(reference())
    # A rate of almost nothing shows the start.
    model.train(**QUICK, plan_kwargs={"lr": 1e-12, "weight_decay": 0.0}, refit=False)
    weights = {k: v for k, v in encoder(model).items() if "running" not in k}
    for name, tensor in weights.items():
        if not name.endswith("tracked"):
            torch.testing.assert_close(tensor, after[name])
    model.save(tmp_path / "model")
    assert SIMS.load(tmp_path / "model").fit_["pretraining"]["mask_rate"] == 0.2


def test_pretraining_a_trained_model_says_that_its_training_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = SIMS(reference(), **SIZES)
    model.train(**QUICK)

    with caplog.at_level("WARNING", logger="episome"):
        model.pretrain(accelerator="cpu", max_epochs=1)

    assert "call train()" in caplog.text
    assert not model.is_trained_


def test_pretraining_takes_cells_without_a_label_and_leaves_data_alone() -> None:
    adata = reference()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).mask(np.arange(120) % 2 == 0)
    SIMS.setup_anndata(adata, "cell_type", unlabeled="keep")
    model = SIMS(adata, **SIZES)
    before = fingerprint(adata)

    model.pretrain(accelerator="cpu", max_epochs=1)

    assert model.pretraining_["n_cells"] == 120
    assert fingerprint(adata) == before


def test_pretraining_takes_other_cells_by_gene_name() -> None:
    model, other = SIMS(reference(), **SIZES), simulate_cells(200, 60, seed=3)
    del other.obs["cell_type"]
    turned = SIMS(reference(), **SIZES)

    model.pretrain(adata=other, accelerator="cpu", max_epochs=2)
    turned.pretrain(adata=other[:, ::-1].copy(), accelerator="cpu", max_epochs=2)

    assert model.pretraining_["n_cells"] == 200
    assert same(encoder(model), encoder(turned))


def test_pretraining_is_the_same_for_the_same_seed() -> None:
    models = [SIMS(reference(), **SIZES) for _ in range(2)]

    for model in models:
        model.pretrain(accelerator="cpu", max_epochs=2)

    assert same(encoder(models[0]), encoder(models[1]))


def test_pretraining_keeps_its_genes_for_training() -> None:
    model = SIMS(reference(), **SIZES, n_top_genes=20)

    model.pretrain(accelerator="cpu", max_epochs=1, train_size=0.5, validation_size=0.5)
    genes = model.module.genes.clone()
    model.train(**QUICK)

    assert torch.equal(model.module.genes, genes)
    assert not torch.equal(genes, torch.arange(20))


def test_pretraining_that_fails_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = SIMS(reference(), **SIZES)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    loss, calls = PretextCore.loss, []

    def breaks(self: PretextCore, batch: dict[str, object]) -> torch.Tensor:
        calls.extend([batch] if self.training else [])
        return loss(self, batch) * (1.0 if len(calls) < 3 else np.nan)

    monkeypatch.setattr(PretextCore, "loss", breaks)
    with pytest.raises(TrainingError, match="E-T01"):
        model.pretrain(accelerator="cpu", max_epochs=5)

    after = model.module.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert model.pretraining_ == {}


def test_pretraining_refuses_impossible_arguments() -> None:
    model = SIMS(reference(), **SIZES)

    def refused(match: str, **arguments: object) -> None:
        with pytest.raises(UsageError, match=match):
            model.pretrain(**arguments)

    refused(r"mask_rate=0.*E-U15", mask_rate=0)
    refused(r"mask_rate=1.*E-U15", mask_rate=1)
    refused(r"max_epochs=0.*E-U22", max_epochs=0)
    refused(r"batch_size=0.*E-U22", batch_size=0)
    refused(r"label_smoothing.*E-U14", plan_kwargs={"label_smoothing": 0.1})
    refused(r"mask_ratio.*E-U16", mask_ratio=0.1)


# --- the start from a folder ----------------------------------------------------------------


def test_start_from_a_folder_fills_the_whole_encoder(folder: Path) -> None:
    source = SIMS.load(folder)

    model = SIMS(reference(), **SIZES, init=folder)

    assert same(encoder(model), encoder(source))
    report = model.pretraining_["init"]
    assert report["n_tensors"] == len(encoder(source))
    assert (report["n_genes"], report["n_known"]) == (60, 60)
    assert not model.is_trained_


def test_start_from_a_folder_goes_by_the_names_of_genes(folder: Path) -> None:
    adata = reference()
    turned = adata[:, np.random.default_rng(0).permutation(60)].copy()
    source = SIMS.load(folder)

    model = SIMS(turned, **SIZES)
    model.init_from(folder)

    cells = simulate_cells(30, 60, seed=7)
    a = source.module.net(torch.tensor(cells.X.toarray())).embedding
    b = model.module.net(torch.tensor(cells[:, turned.var_names].X.toarray())).embedding
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_start_from_a_folder_leaves_unknown_genes_fresh(folder: Path) -> None:
    adata = reference()
    adata.var_names = [f"NEW{i}" if i < 10 else n for i, n in enumerate(adata.var_names)]
    fresh, source = encoder(SIMS(adata, **SIZES)), encoder(SIMS.load(folder))

    model = SIMS(adata, **SIZES)
    report = model.init_from(folder)

    first = encoder(model)["net.first.0"]
    assert (report.n_genes, report.n_known) == (60, 50)
    assert torch.equal(first[10:], source["net.first.0"][10:])
    assert torch.equal(first[:10], fresh["net.first.0"][:10])


def test_start_from_a_folder_is_not_part_of_the_model(folder: Path, tmp_path: Path) -> None:
    model = SIMS(reference(), **SIZES, init=folder)
    model.train(**QUICK)
    model.save(tmp_path / "model")

    text = (tmp_path / "model" / "manifest.json").read_text()
    assert str(folder) not in text
    assert SIMS.load(tmp_path / "model").fit_["pretraining"]["init"]["n_known"] == 60


def refused(model: SIMS, folder: Path, match: str, error: type[Exception]) -> None:
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    with pytest.raises(error, match=match):
        model.init_from(folder)
    after = model.module.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_start_from_a_folder_that_fits_in_part_is_refused(folder: Path) -> None:
    adata, wrong = reference(), ModelMismatchError
    wider = SIMS(adata, **{**SIZES, "n_d": 16})
    deeper = SIMS(adata, **{**SIZES, "n_independent": 2})
    shallower = SIMS(adata, **SIZES, n_steps=2)
    scaled = SIMS(adata, **SIZES, input_scaling="l2")
    chosen = SIMS(adata, **SIZES, n_top_genes=20)
    grouped = SIMS(adata, **SIZES, feature_groups={"a": list(adata.var_names[:5])})

    refused(wider, folder, r"encoder of the folder is another.*n_d=8.*E-M06", wrong)
    refused(deeper, folder, r"missing net.transformers.*E-M06", wrong)
    refused(shallower, folder, r"unknown net.attentions.2.*n_steps=3.*E-M06", wrong)
    refused(scaled, folder, r"input_scaling is 'l2' here and 'none' there.*E-M06", wrong)
    refused(chosen, folder, r"n_top_genes chooses genes only at training.*E-M06", wrong)
    refused(grouped, folder, r"groups of genes differ.*E-M06", wrong)


def test_start_from_a_folder_of_other_genes_is_refused(folder: Path) -> None:
    adata = reference()
    adata.var_names = [f"NEW{i}" if i < 40 else n for i, n in enumerate(adata.var_names)]

    refused(SIMS(adata, **SIZES), folder, r"only 20 of 60 genes.*E-G03", GeneMatchError)


def test_start_from_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    import episome.models

    adata = reference()
    episome.models.NearestCentroid.setup_anndata(adata, "cell_type")
    other = episome.models.NearestCentroid(adata)
    other.train()
    other.save(tmp_path / "other")

    refused(
        SIMS(reference(), **SIZES), tmp_path / "other", r"no encoder.*E-M06", ModelMismatchError
    )


def test_start_from_a_folder_with_chosen_genes_goes_by_name(tmp_path: Path) -> None:
    source = SIMS(reference(), **SIZES, n_top_genes=40)
    source.train(**QUICK)
    source.save(tmp_path / "model")

    model = SIMS(reference(), **SIZES)
    report = model.init_from(tmp_path / "model")

    genes = source.module.genes
    assert report.n_known == 40
    theirs, ours = source.module.net.first_weight(0), model.module.net.first_weight(0)
    assert torch.equal(ours[genes], theirs)


def test_start_reads_other_names_of_genes(folder: Path) -> None:
    adata = reference()
    symbols = list(adata.var_names)
    adata.var = pd.DataFrame({"gene_symbols": symbols}, index=[f"ENSG{i:011d}" for i in range(60)])

    report = SIMS(adata, **SIZES).init_from(folder)

    assert report.n_known == 60
