"""Every defect of the published code that is known: ours does not have it."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from safetensors.numpy import load_file, save_file
from scipy import sparse

from episome.data import simulate_cells
from episome.errors import GeneMatchError, InputDataError, ModelFileError, UsageError
from episome.models import SIMS
from episome.nn import reestimate_batch_norm
from episome.testing import fingerprint
from episome_sims.core import SIMSCore

SIZES = {"n_d": 8, "n_a": 4}
QUICK = {"accelerator": "cpu", "max_epochs": 2}
N_GENES = 60


def reference(n: int = 150, **more: object) -> AnnData:
    return simulate_cells(n, N_GENES, n_types=5, seed=0, **more)


@pytest.fixture(scope="module")
def model() -> SIMS:
    made = SIMS(reference(), **SIZES)
    made.train(**QUICK)
    return made


@pytest.fixture
def query() -> AnnData:
    cells = simulate_cells(40, N_GENES, n_types=5, seed=1)
    return AnnData(cells.X, var=cells.var)


class Look(pl.Callback):
    """Keep what a training run uses."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        weights = pl_module.class_weights
        self.class_weights = None if weights is None else weights.clone().numpy()
        self.settings = pl_module.configure_optimizers()


def test_defect_01_probability_of_a_label_does_not_depend_on_how_many_are_asked_for(
    model: SIMS, query: AnnData
) -> None:
    """Softmax over the logits of the top k: with k = 1 every cell had probability 1."""
    full = model.predict_proba(query)

    best = [model.ranked(query, k=k)["probability_1"].to_numpy() for k in range(1, 6)]

    np.testing.assert_allclose(full.sum(axis=1), 1.0, atol=1e-5)
    assert all(np.array_equal(b, full.max(axis=1)) for b in best)
    assert best[0].min() < 0.9
    logits = model.predictor().collect(model.prepare(query), ["logits"])["logits"]
    np.testing.assert_allclose(full, torch.tensor(logits).softmax(1), atol=1e-6)


def test_defect_02_probabilities_are_of_the_logits_that_were_trained(model: SIMS) -> None:
    """A temperature of 1.5 divided the logits from the start, and again when it was fitted."""
    core, x = model.module, torch.rand(20, N_GENES)

    mode = core.training
    trained = core({"X": x})["logits"]

    assert not [name for name in core.state_dict() if "temperature" in name]
    assert torch.equal(trained, core.net(x).logits)
    assert mode is core.training is False


def test_defect_03_sizes_of_the_parts_are_kept_to() -> None:
    """An argument for the size of the test part was taken and ignored."""
    made = SIMS(reference(200, n_donors=1), **SIZES)

    made.train(**QUICK, train_size=0.5, validation_size=0.2)

    parts = [made.train_indices_, made.validation_indices_, made.test_indices_]
    assert [len(p) for p in parts] == pytest.approx([100, 40, 60], abs=6)
    assert sum(len(p) for p in parts) == 200
    with pytest.raises(UsageError, match=r"test_size.*E-U16"):
        made.train(test_size=0.5)


def test_defect_04_class_weights_come_from_training_cells_and_are_used() -> None:
    """Weights were counted on all cells, validation and test among them, and not used."""
    adata = reference(200)
    codes = pd.Categorical(adata.obs["cell_type"]).codes
    rng = np.random.default_rng(0)
    train = np.sort(rng.permutation(200)[:80])
    rest = np.setdiff1d(np.arange(200), train)
    made, look = SIMS(adata, **SIZES), Look()

    made.train(
        **QUICK,
        refit=False,
        callbacks=[look],
        datasplitter_kwargs={"external_indexing": [train, rest[:60], rest[60:]]},
    )

    counts = made.training_codes()[train]
    counts = np.bincount(counts, minlength=5)
    np.testing.assert_allclose(look.class_weights, 80 / (5 * counts), rtol=1e-6)
    assert not np.allclose(look.class_weights, 200 / (5 * np.bincount(codes)))
    assert not np.allclose(look.class_weights, 1)


def test_defect_04_class_without_a_training_cell_is_an_error() -> None:
    """A class absent from training is refused; one absent from validation is not."""
    adata = reference(100)
    codes = SIMS(adata, **SIZES).training_codes()
    train, held_out = np.flatnonzero(codes != 4), np.flatnonzero(codes == 4)

    with pytest.raises((UsageError, InputDataError), match=r"E-U20"):
        SIMS(adata, **SIZES).train(
            **QUICK, datasplitter_kwargs={"external_indexing": [train, held_out, []]}
        )
    both = np.union1d(train[:40], held_out)
    other = np.setdiff1d(train, both)
    made = SIMS(adata, **SIZES)
    made.train(**QUICK, datasplitter_kwargs={"external_indexing": [both, other, []]})
    assert made.is_trained_


def test_defect_05_rare_classes_do_not_break_the_split() -> None:
    """Stratification broke for a class of fewer than three cells."""
    adata = reference(100, n_donors=1)
    labels = adata.obs["cell_type"].astype(str).to_numpy().copy()
    labels[0], labels[1:3] = "once", "twice"
    adata.obs["cell_type"] = labels
    made = SIMS(adata, **SIZES)

    made.train(**QUICK, train_size=0.7, validation_size=0.15)

    trained_on = set(labels[made.train_indices_])
    assert {"once", "twice"} <= trained_on


def test_defect_06_data_of_the_user_are_not_changed(query: AnnData) -> None:
    """A column ``numeric_<label>`` was added to the user's object."""
    adata = reference()
    SIMS.setup_anndata(adata, "cell_type")
    before, of_query = fingerprint(adata), fingerprint(query)
    columns = list(adata.obs.columns)

    made = SIMS(adata, **SIZES)
    made.pretrain(**QUICK)
    made.train(**QUICK)
    made.ranked(query)
    made.explain(query)

    assert fingerprint(adata) == before
    assert fingerprint(query) == of_query
    assert list(adata.obs.columns) == columns
    assert not [c for c in columns if c.startswith("numeric")]


def test_defect_07_matrix_is_never_made_dense(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, query: AnnData
) -> None:
    """Every cell was made dense on its own, and only objects in memory could be read."""
    adata = reference()
    query.write_h5ad(tmp_path / "query.h5ad")

    def dense(self: object, *args: object, **kwargs: object) -> None:
        pytest.fail("a sparse matrix was made dense")

    for kind in (sparse.csr_matrix, sparse.csc_matrix):
        for name in ("toarray", "todense"):
            monkeypatch.setattr(kind, name, dense)
    made = SIMS(adata, **SIZES)
    made.train(**QUICK)

    assert np.array_equal(made.predict(tmp_path / "query.h5ad"), made.predict(query))


def test_defect_08_genes_of_one_name_are_refused_or_added_up(model: SIMS, query: AnnData) -> None:
    """Genes were aligned as Python sets: of two of one name, either one was taken."""
    half = query.X.copy()
    half.data = half.data / 2
    twice = AnnData(sparse.hstack([half, half], format="csr"))
    twice.var_names = [*query.var_names, *query.var_names]

    with pytest.raises(InputDataError, match="E-G11"):
        model.predict(twice)
    summed = model.predict_proba(twice, duplicates="sum", allow_fractional=True)
    np.testing.assert_allclose(summed, model.predict_proba(query), atol=1e-5)


def test_defect_08_versions_and_case_of_names_are_seen() -> None:
    """Names with a version matched nothing, and became zeros without a word."""
    adata = reference()
    ids = [f"ENSG{i:011d}" for i in range(N_GENES)]
    adata.var_names = ids
    made = SIMS(adata, **SIZES)
    made.train(**QUICK)
    query = adata.copy()
    query.var_names = [f"{i}.12" for i in ids]
    small = adata.copy()
    small.var_names = [i.lower() for i in ids]

    assert np.array_equal(made.predict_proba(query), made.predict_proba(adata))
    with pytest.raises(GeneMatchError, match=r"E-G0\d"):
        made.predict(small)


def test_defect_08_explanation_keeps_no_graph_and_the_mode(model: SIMS, query: AnnData) -> None:
    """Explaining stacked dense batches, kept gradients, and left the network in its mode."""
    model.module.zero_grad()

    whole = model.explain(query, method="native")
    alone = sparse.vstack([model.explain(query[i : i + 1], method="native") for i in range(40)])

    assert sparse.isspmatrix_csr(whole)
    np.testing.assert_allclose(whole.toarray(), alone.toarray(), rtol=1e-5, atol=1e-6)
    assert not model.module.training
    assert all(p.grad is None for p in model.module.parameters())


def test_defect_09_folder_holds_no_cells_and_no_code(model: SIMS, tmp_path: Path) -> None:
    """Checkpoints held the label encoder and all barcodes as a pickle."""
    model.save(tmp_path / "model")

    files = [p for p in (tmp_path / "model").rglob("*") if p.is_file()]
    content = b"".join(p.read_bytes() for p in files)
    names = [str(n).encode() for n in model.adata.obs_names]
    assert {p.suffix for p in files} <= {".json", ".tsv", ".csv", ".md", ".safetensors", ".sha256"}
    assert not [n for n in names if n in content]


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_defect_09_weights_that_do_not_fit_are_refused(
    model: SIMS, tmp_path: Path, change: str
) -> None:
    """Files were read with ``strict=False``: another model's weights were noise without a word."""
    state, _ = model.module.state()
    if change == "missing":
        del state["net.head.weight"]
    elif change == "unknown":
        state["net.more"] = np.zeros(3, dtype=np.float32)
    else:
        state["net.head.weight"] = state["net.head.weight"][:, :-1]
    save_file(state, tmp_path / "state.safetensors")

    core = SIMSCore.from_config(model.module.config)

    with pytest.raises(ModelFileError, match="E-M06"):
        core.load_state(load_file(tmp_path / "state.safetensors"))


def test_defect_10_rate_follows_the_validation_loss_with_the_papers_patience() -> None:
    """The schedule watched the training loss, with a patience of 10 instead of 20 epochs."""
    made, look = SIMS(reference(), preset="tall"), Look()

    made.train(**QUICK, callbacks=[look])

    schedule = look.settings["lr_scheduler"]
    assert schedule["monitor"] == "validation_loss"
    assert (schedule["scheduler"].factor, schedule["scheduler"].patience) == (0.75, 20)


def test_defect_11_norms_follow_the_weights_after_few_updates() -> None:
    """Running averages of stacked norms lag far behind the weights of a small reference."""
    adata = reference(300, n_donors=1)
    made = SIMS(adata, preset="tall")
    made.train(max_epochs=3, batch_size=128, train_size=1.0, accelerator="cpu")  # no validation
    core = made.module
    counts = torch.from_numpy(adata.X.toarray())
    x = torch.log1p(1e4 * counts / counts.sum(1, keepdim=True))

    state = {k: v.clone() for k, v in core.state_dict().items()}
    reestimate_batch_norm(core, [{"X": x[i : i + 128]} for i in (0, 128)])
    fresh = core.state_dict()

    norms = [k for k in state if k.endswith("running_mean") and "input_norm" not in k]
    apart = [float((state[k] - fresh[k]).abs().mean()) for k in norms]
    size = [float(fresh[k].abs().mean()) for k in norms]
    assert sum(apart) < 0.3 * sum(size)


def test_defect_12_scaling_of_a_query_is_that_of_training(query: AnnData) -> None:
    """The query was z-scored by its own mean and deviation."""
    made = SIMS(reference(), **SIZES, input_scaling="zscore_train")
    made.train(**QUICK)

    whole = made.predict_proba(query)
    alone = pd.concat([made.predict_proba(query[i]) for i in range(10)])

    np.testing.assert_allclose(whole.iloc[:10], alone, atol=1e-6)


def test_defect_13_cells_are_not_scaled_unless_asked() -> None:
    """The loader divided every cell by its length, which no document said."""
    x = torch.rand(5, N_GENES)
    plain, scaled = (SIMSCore(N_GENES, 3, **SIZES, input_scaling=s) for s in ("none", "l2"))

    assert torch.equal(plain.inputs(x), x)
    torch.testing.assert_close(scaled.inputs(x).norm(dim=1), torch.ones(5))
    assert SIMS(reference(), **SIZES).module.config["input_scaling"] == "none"
    assert "l2" in SIMS.__doc__


def test_defect_14_model_holds_its_own_state(model: SIMS, tmp_path: Path) -> None:
    """The facade copied whatever its data module had onto itself."""
    model.save(tmp_path / "model")

    loaded = SIMS.load(tmp_path / "model")

    assert loaded.adata is None
    assert loaded.labels == model.labels
    assert loaded.features == model.features
    assert loaded.setup_args == model.setup_args
    held = [v for v in vars(model).values() if isinstance(v, pl.LightningDataModule)]
    assert held == []
