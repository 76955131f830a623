"""The neural baselines: recorded numbers, formulas in float64, the convex optimum, presets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression as Reference

from episome.data import simulate_cells, variable_genes
from episome.errors import UsageError
from episome.nn import CSRParts
from episome_baselines import LinearClassifier, MLPClassifier
from episome_baselines.neural_cores import LinearClassifierCore, MLPClassifierCore, SparseLinear
from episome_baselines.neural_presets import preset_name

GOLDEN = "05b_sctab_baseline_classifiers"


class Recorded:
    """Tensors and tolerance of one recorded case."""

    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / f"{GOLDEN}.json").read_text())
        self.config, self.limits = meta["config"], meta["tolerance"]["default"]
        with np.load(folder / f"{GOLDEN}.npz", allow_pickle=False) as file:
            self.arrays = {key: file[key] for key in file.files}

    def tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self.arrays[key]))

    def check(self, key: str, value: torch.Tensor) -> None:
        np.testing.assert_allclose(
            value.detach().numpy(), self.arrays[key], **self.limits, err_msg=key
        )


@pytest.fixture
def recorded() -> Recorded:
    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA is not set: the recorded reference numbers are elsewhere")
    return Recorded(Path(folder) / "goldens")


def mlp_names(n_layers: int) -> dict[str, str]:
    """Names of the reference's tensors: four modules a block, the last without weights."""
    names = {"linear.weight": "head.weight", "linear.bias": "head.bias"}
    for i in range(n_layers):
        for part in ("weight", "bias"):
            names[f"encoder.{4 * i}.{part}"] = f"layers.{i}.{part}"
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            names[f"encoder.{4 * i + 1}.{part}"] = f"norms.{i}.{part}"
    return names


def turned(ours: str, value: torch.Tensor) -> torch.Tensor:
    """Our layer of genes has a row per gene, the reference's a column."""
    return value.T if ours in {"linear.weight", "layers.0.weight"} else value


def core_of(recorded: Recorded, part: str) -> tuple[torch.nn.Module, dict[str, str]]:
    c = recorded.config
    if part == "linear":
        core = LinearClassifierCore(c["gene_dim"], c["type_dim"])
        names = {"weight": "linear.weight", "bias": "linear.bias"}
    else:
        core = MLPClassifierCore(
            c["gene_dim"],
            c["type_dim"],
            n_hidden=c["hidden_size"],
            n_layers=c["n_hidden"],
            dropout_rate=c["dropout"],
        )
        names = mlp_names(c["n_hidden"])
    state = core.state_dict()
    for theirs, ours in names.items():
        state[ours] = turned(ours, recorded.tensor(f"{part}/state/{theirs}"))
    core.load_state_dict(state)
    assert set(names.values()) == set(state) - {"genes", "mean", "n_seen"}
    return core, names


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("part", ["linear", "mlp"])
def test_golden_logits_loss_and_gradients_match(recorded, part, form):
    core, names = core_of(recorded, part)
    x = recorded.tensor("x")
    x = CSRParts.from_dense(x) if form == "csr" else x

    with torch.no_grad():
        recorded.check(f"{part}/eval_logits", core.eval()({"X": x})["logits"])
    logits = core.train()({"X": x})["logits"]
    weights = recorded.tensor("class_weights")
    loss = F.cross_entropy(logits, recorded.tensor("y"), weight=weights)
    loss.backward()

    recorded.check(f"{part}/train_loss", loss)
    parameters = dict(core.named_parameters())
    for theirs, ours in names.items():
        if ours in parameters:
            recorded.check(f"{part}/grad/{theirs}", turned(ours, parameters[ours].grad))


# -- our own oracle, which always runs -----------------------------------------------------------


def some_cells(n: int = 30, n_genes: int = 40, density: float = 0.2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, n_genes, generator=generator, dtype=torch.float64)
    return x * (torch.rand(n, n_genes, generator=generator) < density)


@pytest.mark.parametrize("density", [0.1, 0.9])
def test_sparse_layer_is_the_dense_one_forth_and_back(density):
    x, layer = some_cells(density=density), SparseLinear(40, 5).double()
    aim = torch.linspace(-1, 1, 150, dtype=torch.float64).view(30, 5)
    weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))

    out = layer(CSRParts.from_dense(x))
    (out * aim).sum().backward()

    np.testing.assert_allclose(out.detach(), x.numpy() @ weight + bias, atol=1e-12)
    np.testing.assert_allclose(layer.weight.grad, x.numpy().T @ aim.numpy(), atol=1e-12)
    np.testing.assert_allclose(layer.bias.grad, aim.sum(0), atol=1e-12)


def test_sparse_layer_starts_as_the_linear_layer_of_torch_does():
    layer = SparseLinear(400, 300)

    for values in (layer.weight.detach().flatten(), layer.bias.detach()):
        assert values.abs().max() <= 1 / 20
        assert abs(float(values.std()) - 1 / 20 / np.sqrt(3)) < 2e-3


def test_mlp_is_its_formula_in_evaluation():
    core = MLPClassifierCore(40, 6, n_hidden=8, n_layers=3).double()
    with torch.no_grad():
        for norm in core.norms:
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
    x = some_cells()

    with torch.no_grad():
        out = core.eval()({"X": CSRParts.from_dense(x)})

    h = x.numpy()
    state = {k: v.numpy() for k, v in core.state_dict().items()}
    for i in range(3):
        weight = state[f"layers.{i}.weight"]
        h = h @ (weight if i == 0 else weight.T) + state[f"layers.{i}.bias"]
        centred = h - state[f"norms.{i}.running_mean"]
        h = centred / np.sqrt(state[f"norms.{i}.running_var"] + 1e-5)
        h = h * state[f"norms.{i}.weight"] + state[f"norms.{i}.bias"]
        h = h / (1 + np.exp(-h))
    np.testing.assert_allclose(out["latent"], h, atol=1e-12)
    np.testing.assert_allclose(
        out["logits"], h @ state["head.weight"].T + state["head.bias"], atol=1e-12
    )


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_centred_model_learns_from_differences_to_the_mean_cell(form):
    core = LinearClassifierCore(40, 3, center=True).double()
    torch.nn.init.normal_(core.linear.weight)
    x = some_cells()
    parts = [CSRParts.from_dense(p) if form == "csr" else p for p in (x[:20], x[20:])]
    weight = core.linear.weight

    core.train()({"X": parts[0]})
    learned = core({"X": parts[1]})["logits"]
    (gradient,) = torch.autograd.grad(learned[:, 0].sum(), weight)
    found = core.eval()({"X": parts[0]})["logits"]

    centred = x - x.mean(0)
    np.testing.assert_allclose(core.mean, x.mean(0), atol=1e-12)
    np.testing.assert_allclose(found.detach(), (centred[:20] @ weight).detach(), atol=1e-12)
    np.testing.assert_allclose(gradient[:, 0], centred[20:].sum(0), atol=1e-12)


@pytest.mark.parametrize("core_cls", [LinearClassifierCore, MLPClassifierCore])
def test_chosen_genes_alone_enter(core_cls):
    genes = np.array([1, 4, 7, 30])
    core = core_cls(40, 3, n_top_genes=4).double().eval()
    for parameter in core.parameters():
        torch.nn.init.normal_(parameter)
    core.select_genes(genes)
    x = some_cells()
    other = x.clone()
    other[:, np.setdiff1d(np.arange(40), genes)] = 9.0

    with torch.no_grad():
        wanted = core({"X": x})["logits"]
        few = core({"X": CSRParts.from_dense(x)})["logits"]
        changed = core({"X": CSRParts.from_dense(other)})["logits"]

    np.testing.assert_allclose(few, wanted, atol=1e-12)
    np.testing.assert_allclose(changed, wanted, atol=1e-12)
    assert torch.equal(core.genes, torch.tensor(genes))


def test_as_many_genes_as_there_are_is_all_of_them():
    assert LinearClassifierCore(40, 3, n_top_genes=40).config["n_top_genes"] is None
    assert LinearClassifierCore(40, 3, n_top_genes=0).config["n_top_genes"] is None


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_hidden_genes_are_hidden_in_training_only(form):
    core = LinearClassifierCore(400, 3, input_dropout=0.75)
    x = torch.ones(50, 400)
    cells = CSRParts.from_dense(x) if form == "csr" else x

    torch.manual_seed(0)
    seen = core.train().inputs(cells)
    kept = core.eval().inputs(cells)

    values, whole = (v.values if form == "csr" else v.flatten() for v in (seen, kept))
    assert abs(float((values > 0).float().mean()) - 0.25) < 0.02
    assert set(values.tolist()) == {0.0, 4.0}
    assert (whole == 1).all()


# -- models --------------------------------------------------------------------------------------


def cells(n_types: int = 3, fold_change: float = 2.5, n: int = 260):
    everything = simulate_cells(n, 50, n_types=n_types, n_donors=6, fold_change=fold_change)
    return everything[:200].copy(), everything[200:].copy()


def fitted(cls, adata, train=None, **kwargs):
    adata = adata.copy()
    cls.setup_anndata(adata, labels_key="cell_type", donor_key="donor_id")
    model = cls(adata, **kwargs)
    model.train(**(train or {"max_epochs": 20, "batch_size": 50}))
    return model


def logged(adata) -> np.ndarray:
    counts = adata.X.toarray().astype(np.float64)
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)


def toy(n: int = 600, n_genes: int = 12) -> anndata.AnnData:
    """Log values whose labels are drawn from a softmax: the optimum without penalty is finite."""
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(n, n_genes)) * (rng.random((n, n_genes)) < 0.6)
    scores = x @ rng.normal(size=(n_genes, 3))
    drawn = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    obs = pd.DataFrame(
        {"cell_type": [f"type {i}" for i in drawn]}, index=[f"c{i}" for i in range(n)]
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    return anndata.AnnData(sparse.csr_matrix(x.astype(np.float32)), obs=obs, var=var)


def test_linear_model_reaches_the_multinomial_optimum():
    train = toy()
    x, y = train.X.toarray().astype(np.float64), train.obs["cell_type"].to_numpy()
    reference = Reference(C=1e8, max_iter=5000, tol=1e-10).fit(x, y)
    rows, codes = np.arange(len(y)), np.searchsorted(reference.classes_, y)
    wanted = -log_softmax(reference.decision_function(x), axis=1)[rows, codes].mean()
    LinearClassifier.setup_anndata(train, labels_key="cell_type", input_kind="log1p")
    model = LinearClassifier(train)
    plan = {"lr": 0.05, "weight_decay": 0.0, "class_weight": None, "lr_schedule": "cosine"}

    model.train(
        max_epochs=300, batch_size=600, train_size=1.0, accelerator="cpu", plan_kwargs=plan
    )

    proba = model.predict_proba(train, calibrated=False)[list(reference.classes_)].to_numpy()
    loss = -np.log(proba[rows, codes]).mean()
    assert 0.2 < wanted < 1.0
    assert abs(loss - wanted) < 1e-3


def test_linear_model_is_trained_without_a_dense_batch(monkeypatch):
    train, query = cells(fold_change=4.0)
    train.X.data[train.X.data < np.quantile(train.X.data, 0.9)] = 0
    train.X.eliminate_zeros()

    def refuse(*args: object) -> None:
        msg = "a batch was made dense"
        raise AssertionError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(CSRParts, "to_dense", refuse)
        patch.setattr("episome.nn._csr_kernels.scatter_rows", refuse)
        model = fitted(LinearClassifier, train)

    assert model.predict_proba(query).shape == (60, 3)


@pytest.mark.parametrize("cls", [LinearClassifier, MLPClassifier])
def test_neural_baselines_learn(cls):
    train, query = cells()

    model = fitted(cls, train, train={})

    assert (model.predict(query) == query.obs["cell_type"].to_numpy()).mean() > 0.95


@pytest.mark.parametrize("cls", [LinearClassifier, MLPClassifier])
def test_genes_that_enter_are_the_variable_ones_of_the_training_cells(cls):
    train, _ = cells()
    rows = np.arange(0, 200, 2)
    split = {"external_indexing": [rows, np.arange(1, 200, 2)]}

    model = fitted(
        cls,
        train,
        train={"max_epochs": 1, "refit": False, "datasplitter_kwargs": split},
        n_top_genes=12,
    )

    values = sparse.csr_matrix(logged(train)[rows].astype(np.float32))
    assert model.module.genes.tolist() == variable_genes(values, 12).tolist()


def test_linear_model_explains_by_coefficients_times_values():
    train, query = cells()
    model = fitted(LinearClassifier, train, n_top_genes=30)
    weight = np.zeros((50, 3))
    weight[model.module.genes.numpy()] = model.module.linear.weight.detach().numpy()
    called = model.predict_proba(query, calibrated=False).to_numpy().argmax(axis=1)

    found = model.explain(query)

    wanted = logged(query) * (weight[:, called].T - weight.mean(axis=1))
    np.testing.assert_allclose(found.toarray(), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        model.explain(query, method="gradient").toarray(), wanted, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("cls", [LinearClassifier, MLPClassifier])
def test_further_training_keeps_the_old_classes(cls):
    train, query = cells(4)
    known = train[train.obs["cell_type"] != "type 3"].copy()
    known.obs["cell_type"] = known.obs["cell_type"].cat.remove_unused_categories()
    model = fitted(cls, known)

    new = model.fine_tune(train, max_epochs=20, batch_size=50)

    assert list(new.labels.names) == [*model.labels.names, "type 3"]
    assert (new.predict(query) == query.obs["cell_type"].to_numpy()).mean() > 0.9


# -- presets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_cells", "preset", "wanted"),
    [
        (99_999, "auto", "small"),
        (100_000, "auto", "paper"),
        (10, "paper", "paper"),
        (10**7, "small", "small"),
    ],
)
def test_preset_follows_the_number_of_cells(n_cells, preset, wanted):
    assert preset_name(preset, n_cells) == wanted


@pytest.mark.parametrize("cls", [LinearClassifier, MLPClassifier])
def test_unknown_preset_is_refused(cls):
    train, _ = cells()
    cls.setup_anndata(train, labels_key="cell_type")

    with pytest.raises(UsageError, match=r"preset='large'.*E-U23") as caught:
        cls(train, preset="large")

    assert "paper" in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "lr", "weight_decay", "sizes"),
    [
        (LinearClassifier, 5e-4, 0.01, {"center": False}),
        (MLPClassifier, 2e-3, 0.05, {"n_hidden": 128, "n_layers": 8, "dropout_rate": 0.1}),
    ],
)
def test_paper_preset_is_that_of_the_published_scripts(cls, lr, weight_decay, sizes):
    train, _ = cells()

    model = fitted(cls, train, preset="paper", train={"max_epochs": 1, "batch_size": 64})

    plan, defaults = model.fit_["plan"], model._training_defaults()
    assert plan == {
        "lr": lr,
        "weight_decay": weight_decay,
        "lr_schedule": "step",
        "lr_decay": 0.9,
    }
    assert defaults["batch_size"] == 2048
    # the host cuts gradients at 1 unless it is told not to
    assert defaults.get("gradient_clip_val", 1.0) == (None if cls is LinearClassifier else 1.0)
    config = model.module.config
    assert {k: config[k] for k in sizes} == sizes
    assert config["n_top_genes"] is None
    assert config["input_dropout"] == 0.0


def test_network_is_trained_with_augmentation_by_donors():
    train, query = cells()

    model = fitted(
        MLPClassifier, train, train={"max_epochs": 10, "batch_size": 50, "augment": "donor"}
    )

    assert model.fit_["augment"] is not None
    assert model.predict_proba(query).shape == (60, 3)


def test_a_network_without_layers_is_refused():
    train, _ = cells()
    MLPClassifier.setup_anndata(train, labels_key="cell_type")

    with pytest.raises(UsageError, match=r"n_layers is 0.*E-U31"):
        MLPClassifier(train, n_layers=0)
