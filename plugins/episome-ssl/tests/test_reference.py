"""Weights of the published code, and what recorded runs of it gave."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from episome.cli import _app
from episome.errors import InputFileError, ModelFileError, ModelMismatchError, UntrustedModelError
from episome.testing import synthetic_adata
from episome_ssl import SSLClassifier, SSLEncoder

if TYPE_CHECKING:
    from anndata import AnnData

GENES = [f"ENSG{i:011d}" for i in range(48)]


def file_of(state: dict[str, torch.Tensor], path: Path, prefix: str = "") -> Path:
    named = {f"{prefix}{k}": v for k, v in state.items()}
    torch.save({"state_dict": named, "epoch": 3, "global_step": 7}, path)
    return path


@pytest.fixture
def mirrored() -> dict[str, torch.Tensor]:
    """Weights of a masked autoencoder of 48 genes, under the names of the published code."""
    rng = torch.Generator().manual_seed(1)
    sizes = {"encoder": [48, 24, 12, 8], "decoder.0": [8, 12, 24, 48]}
    state = {}
    for stack, widths in sizes.items():
        for i, (n, m) in enumerate(zip(widths, widths[1:], strict=False)):
            state[f"{stack}.{3 * i}.weight"] = torch.randn(m, n, generator=rng) / n**0.5
            state[f"{stack}.{3 * i}.bias"] = torch.randn(m, generator=rng)
    return state


@pytest.fixture
def counts() -> AnnData:
    """Return 120 cells of the 48 genes, of two types."""
    adata = synthetic_adata(120, 48, seed=0)
    adata.var_names = GENES
    return adata


@pytest.mark.parametrize("output", ["sigmoid", "relu", "identity"])
def test_recorded_outputs_of_the_autoencoder_come_out(golden, tmp_path, output):
    case = golden("06a_ssl_masked_autoencoder")
    path = file_of(case.part("state/"), tmp_path / "published.ckpt")
    option = "identity" if output == "relu" else output

    model = SSLEncoder.from_reference_checkpoint(path, genes=GENES, output_activation=option)

    found = model.module({"X": case.tensor("x")})
    # The recorded third activation is none of ours: it is the identity without what is negative.
    mean = found["mean"].relu() if output == "relu" else found["mean"]
    case.check("sigmoid/latent", found["latent"])
    case.check(f"{output}/reconstruction", mean)


def test_recorded_means_of_counts_come_out(golden, tmp_path):
    case = golden("06f_ssl_likelihoods_and_metrics")
    path = file_of(case.part("nb/state/"), tmp_path / "published.ckpt")

    model = SSLEncoder.from_reference_checkpoint(path, genes=GENES, output_activation="softplus")

    case.check("nb/mu", model.module({"X": case.tensor("x")})["mean"])


@pytest.mark.parametrize("name", ["06c_ssl_byol", "06d_ssl_barlow_twins"])
def test_encoders_of_contrastive_tasks_are_found_beside_their_targets(golden, tmp_path, name):
    case = golden(name)
    state = case.part("state/")
    stack = "online.net" if "byol" in name else "backbone"
    path = file_of(state, tmp_path / "published.ckpt", prefix="inner_model.")

    model = SSLEncoder.from_reference_checkpoint(path, genes=GENES)

    x = case.tensor("view1")
    expected = x
    for i in (0, 3, 6):
        expected = expected @ state[f"{stack}.{i}.weight"].T + state[f"{stack}.{i}.bias"]
        expected = torch.nn.functional.selu(expected) if i < 6 else expected
    found = model.module({"X": x})
    torch.testing.assert_close(found["latent"], expected, rtol=1e-5, atol=1e-5)
    assert "mean" not in found


def test_the_network_that_the_published_code_embeds_with_is_an_option(mirrored, tmp_path):
    path = file_of(mirrored, tmp_path / "published.ckpt")
    x = torch.rand(5, 48, generator=torch.Generator().manual_seed(0))

    model = SSLEncoder.from_reference_checkpoint(
        path, genes=GENES, activation="relu", embedding_activation="relu"
    )

    expected = x
    for i in (0, 3, 6):
        weight, bias = mirrored[f"encoder.{i}.weight"], mirrored[f"encoder.{i}.bias"]
        expected = (expected @ weight.T + bias).relu()
    torch.testing.assert_close(model.module({"X": x})["latent"], expected)


def test_an_imported_encoder_is_saved_and_starts_a_classifier(mirrored, tmp_path, counts):
    path = file_of(mirrored, tmp_path / "published.ckpt")
    SSLEncoder.from_reference_checkpoint(path, genes=GENES).save(tmp_path / "model")

    again = SSLEncoder.load(tmp_path / "model")
    model = SSLClassifier.from_ssl(tmp_path / "model", counts, "cell_type")

    assert torch.equal(again.module.net.first, mirrored["encoder.0.weight"].T)
    assert torch.equal(model.module.net.first, mirrored["encoder.0.weight"].T)
    assert np.isfinite(again.get_latent_representation(counts)).all()


class _Harmless:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code was run",))


def test_a_file_that_names_code_is_refused_and_nothing_of_it_is_run(mirrored, tmp_path, capsys):
    path = tmp_path / "published.ckpt"
    torch.save({"state_dict": mirrored, "hyper_parameters": {"x": _Harmless()}}, path)

    with pytest.raises(UntrustedModelError, match="E-M30"):
        SSLEncoder.from_reference_checkpoint(path, genes=GENES)

    assert "code was run" not in capsys.readouterr().out


def test_files_that_are_no_published_encoder_are_refused(mirrored, tmp_path):
    def read(state: dict[str, torch.Tensor], genes: list[str] = GENES) -> SSLEncoder:
        path = file_of(state, tmp_path / "published.ckpt")
        return SSLEncoder.from_reference_checkpoint(path, genes=genes)

    with pytest.raises(InputFileError, match="E-F07"):
        SSLEncoder.from_reference_checkpoint(tmp_path / "none.ckpt", genes=GENES)
    (tmp_path / "noise.ckpt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises((ModelFileError, UntrustedModelError)):
        SSLEncoder.from_reference_checkpoint(tmp_path / "noise.ckpt", genes=GENES)
    with pytest.raises(ModelMismatchError, match="E-M34"):
        read({"head.0.weight": torch.ones(3, 3), "head.0.bias": torch.ones(3)})
    with pytest.raises(ModelMismatchError, match="do not follow"):
        read({**mirrored, "encoder.3.weight": torch.ones(12, 23)})
    with pytest.raises(ModelMismatchError, match="mirrored they are"):
        read({**mirrored, "decoder.0.0.weight": torch.ones(12, 9)})
    with pytest.raises(ModelMismatchError, match="E-M32"):
        read(mirrored, GENES[:-1])
    with pytest.raises(ModelFileError, match="E-M07"):
        read({**mirrored, "encoder.0.bias": torch.full((24,), torch.nan)})


def test_the_command_line_imports(mirrored, tmp_path):
    path = file_of(mirrored, tmp_path / "published.ckpt")
    (tmp_path / "genes.txt").write_text("\n".join(GENES))
    arguments = ["ssl-import", str(path), "--genes", str(tmp_path / "genes.txt")]

    done = CliRunner().invoke(_app.app, [*arguments, "-o", str(tmp_path / "model")])

    assert done.exit_code == 0, done.output
    assert "48 genes, 8 dimensions" in done.output
    assert SSLEncoder.load(tmp_path / "model").is_trained_
