"""A user's checkpoint of the original, and what recorded runs of it gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from episome.cli import _app
from episome.errors import (
    InputFileError,
    ModelFileError,
    ModelMismatchError,
    UntrustedModelError,
    UsageError,
)
from episome.testing import synthetic_adata
from episome_scbert import SCBERT
from episome_scbert.tokens import Sequences

GENES = [f"GENE{i}" for i in range(22)]
LABELS = [f"type {i}" for i in range(5)]


def original_state(n_genes: int = 22, n_classes: int = 5) -> dict[str, torch.Tensor]:
    """Weights of a small network under the names of the original."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng) / max(shape[-1], 1) ** 0.5

    dim, inner, length = 12, 16, n_genes + 1
    state = {"token_emb.weight": draw(7, dim), "pos_emb.emb.weight": draw(length, dim).double()}
    state["pos_emb.emb.weight"][-1] = 0
    state["performer.calls_since_last_redraw"] = torch.tensor(3)
    for i in range(2):
        at = f"performer.net.layers.{i}"
        for part in "01":
            state[f"{at}.{part}.norm.weight"] = torch.ones(dim)
            state[f"{at}.{part}.norm.bias"] = torch.zeros(dim)
        state[f"{at}.0.fn.fast_attention.projection_matrix"] = torch.randn(10, 8, generator=rng)
        for m in "qkv":
            state[f"{at}.0.fn.to_{m}.weight"] = draw(inner, dim)
        for name, shape in {
            "0.fn.to_out": (dim, inner),
            "1.fn.fn.w1": (24, dim),
            "1.fn.fn.w2": (dim, 24),
        }.items():
            state[f"{at}.{name}.weight"] = draw(*shape)
            state[f"{at}.{name}.bias"] = draw(shape[0])
    state |= {"norm.weight": torch.ones(dim), "norm.bias": torch.zeros(dim)}
    if not n_classes:
        return {**state, "to_out.weight": draw(7, dim), "to_out.bias": draw(7)}
    sizes = {"fc1": (512, length), "fc2": (128, 512), "fc3": (n_classes, 128)}
    state |= {"to_out.conv1.weight": draw(1, 1, 1, dim), "to_out.conv1.bias": draw(1)}
    for name, shape in sizes.items():
        state |= {f"to_out.{name}.weight": draw(*shape), f"to_out.{name}.bias": draw(shape[0])}
    return state


def file_of(state: dict[str, torch.Tensor], path: Path, prefix: str = "") -> Path:
    named = {f"{prefix}{k}": v for k, v in state.items()}
    torch.save({"epoch": 3, "model_state_dict": named, "losses": 0.1}, path)
    return path


def read(
    state: dict[str, torch.Tensor],
    path: Path,
    genes: object = GENES,
    labels: object = LABELS,
    **more: object,
) -> SCBERT:
    found = file_of(state, path / "model.pth", prefix="module.")
    return SCBERT.from_reference_checkpoint(found, genes=genes, labels=labels, **more)


def test_recorded_logits_come_out_of_an_imported_classifier(golden, tmp_path):
    case = golden("07e_scbert_classifier_finetune")

    model = read({k: v.float() for k, v in case.state().items()}, tmp_path)

    core, tokens = model.module, case.tensor("tokens")
    for layer in core.encoder.layers:
        # The recorded run took it over the batch; imported models take that of a cell.
        assert layer.attention.stabilizer == "cell"
        layer.attention.stabilizer = "batch"
    n, length = tokens.shape
    cells = Sequences(tokens.flatten(), torch.arange(length).repeat(n), torch.full((n,), length))
    h = core.encoder(cells)
    case.check("encodings", h.view(n, length, -1))
    case.check("logits", core.head(h, cells, cells.tokens > 0))


def test_an_imported_classifier_calls_explains_and_is_saved(tmp_path):
    model = read(original_state(), tmp_path)
    query = synthetic_adata(12, 22, seed=1)

    shares = model.predict_proba(query)
    model.save(tmp_path / "folder")
    again = SCBERT.load(tmp_path / "folder")

    assert list(shares.columns) == LABELS
    assert again.predict_proba(query).equals(shares)
    np.testing.assert_allclose(np.asarray(model.explain(query).sum(1)).ravel(), 1, atol=1e-5)
    with pytest.raises(UsageError, match="never asked"):
        model.get_normalized_expression(query)
    order = np.random.default_rng(0).permutation(22)
    turned = model.predict_proba(query[:, order])
    np.testing.assert_allclose(turned, shares, atol=1e-6)


def test_weights_of_pretraining_become_a_model_without_labels_that_starts_others(tmp_path):
    model = read(original_state(n_classes=0), tmp_path, labels=None)
    query = synthetic_adata(12, 22, seed=1)

    assert model.labels is None
    assert np.isfinite(model.get_normalized_expression(query, return_numpy=True)).all()
    adata = synthetic_adata(60, 22)
    SCBERT.setup_anndata(adata, labels_key="cell_type")
    started = SCBERT(adata, preset="paper", init=model)
    assert torch.equal(
        started.module.encoder.layers[1].ff_in.weight, model.module.encoder.layers[1].ff_in.weight
    )


def test_genes_may_come_from_a_table_where_the_file_has_none(tmp_path):
    state = original_state()
    vectors = state.pop("pos_emb.emb.weight").numpy()
    table = dict(zip(GENES, vectors.tolist(), strict=False))

    model = read(state, tmp_path, gene_table=table)

    got = model.module.encoder.genes.weight[:22].numpy()
    np.testing.assert_allclose(got, vectors[:22], rtol=1e-6)
    with pytest.raises(ModelMismatchError, match=r"missing encoder.genes.weight.*E-M34"):
        read(state, tmp_path)


class _Harmless:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code was run",))


def test_a_file_that_names_code_is_refused_and_nothing_of_it_is_run(tmp_path, capsys):
    path = tmp_path / "model.pth"
    torch.save({"model_state_dict": original_state(), "x": _Harmless()}, path)

    with pytest.raises(UntrustedModelError, match="E-M30"):
        SCBERT.from_reference_checkpoint(path, genes=GENES, labels=LABELS)

    assert "code was run" not in capsys.readouterr().out


def test_files_that_are_no_checkpoint_of_it_are_refused(tmp_path):
    state = original_state()
    with pytest.raises(InputFileError, match="E-F07"):
        SCBERT.from_reference_checkpoint(tmp_path / "none.pth", genes=GENES)
    with pytest.raises(UsageError, match="E-U53"):
        read(state, tmp_path, genes=None)
    with pytest.raises(UsageError, match="E-U54"):
        read(state, tmp_path, labels=None)
    with pytest.raises(ModelMismatchError, match="E-M32"):
        read(state, tmp_path, genes=GENES[:-1])
    with pytest.raises(ModelMismatchError, match="E-M33"):
        read(state, tmp_path, labels=LABELS[:-1])
    with pytest.raises(ModelMismatchError, match=r"are not its, first decoder.weight.*E-M34"):
        read({**state, "decoder.weight": torch.ones(2)}, tmp_path)
    less = {k: v for k, v in state.items() if k != "performer.net.layers.1.1.fn.fn.w2.bias"}
    with pytest.raises(ModelMismatchError, match=r"missing encoder.layers.1.ff_out.bias.*E-M34"):
        read(less, tmp_path)
    less = {k: v for k, v in state.items() if "projection" not in k}
    with pytest.raises(ModelMismatchError, match=r"it has no .*projection.*E-M34"):
        read(less, tmp_path)
    with pytest.raises(ModelMismatchError, match=r"norm.bias has shape.*E-M34"):
        read({**state, "norm.bias": torch.zeros(3)}, tmp_path)
    with pytest.raises(ModelFileError, match="E-M07"):
        read({**state, "norm.bias": torch.full((12,), torch.nan)}, tmp_path)
    rest = {k: v for k, v in original_state(n_classes=0).items() if "pos_emb" not in k}
    with pytest.raises(ModelMismatchError, match=r"how many genes.*E-M34"):
        read(rest, tmp_path)


def test_the_command_line_imports(tmp_path):
    path = file_of(original_state(), tmp_path / "model.pth")
    (tmp_path / "genes.txt").write_text("\n".join(GENES))
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    arguments = ["scbert-import", str(path), "--genes", str(tmp_path / "genes.txt")]
    arguments += ["--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "folder")]

    done = CliRunner().invoke(_app.app, arguments)

    assert done.exit_code == 0, done.output
    assert "22 genes, 5 classes" in done.output
    assert SCBERT.load(tmp_path / "folder").is_trained_
