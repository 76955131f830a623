"""Checkpoints of the published code become trained models."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.preprocessing import StandardScaler

from episome.errors import (
    InputFileError,
    ModelFileError,
    ModelMismatchError,
    UntrustedModelError,
    UsageError,
)
from episome.models import SIMS
from episome.nn import CSRParts, TabNet
from episome_sims import checkpoint

GENES = [f"ENSG{i:011d}" for i in range(47)]
LABELS = [f"type {i}" for i in range(6)]
LISTS = {"genes": GENES, "labels": LABELS}


@pytest.fixture
def file(network: Callable, export: Callable, settings_of: Callable, lightning_file: Callable):
    """Write a checkpoint of a small network."""

    def write(**more: object) -> Path:
        net = network()
        return lightning_file(export(net), settings_of(net), **more)

    return write


@pytest.fixture
def bare(network: Callable, export: Callable, tmp_path: Path) -> Path:
    torch.save(export(network()), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def cells(n: int = 24) -> AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (n, 47)).astype(np.float32)
    return AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=GENES))


def unit_rows(adata: AnnData) -> torch.Tensor:
    counts = torch.from_numpy(adata.X.toarray())
    x = torch.log1p(1e4 * counts / counts.sum(1, keepdim=True))
    return x / x.norm(dim=1, keepdim=True)


# --- the same numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["entmax", "sparsemax"])
def test_import_golden_weights_give_golden_numbers(
    golden: Callable, tmp_path: Path, mask: str
) -> None:
    case = golden(f"03_sims_tabnet_steps3_{mask}")
    torch.save(case.state(), tmp_path / "weights.pt")
    c = case.config
    genes, labels = (
        [f"G{i}" for i in range(c["input_dim"])],
        [f"t{i}" for i in range(c["output_dim"])],
    )

    model = SIMS.from_reference_checkpoint(
        tmp_path / "weights.pt",
        genes=genes,
        labels=labels,
        mask={"entmax": "entmax15"}.get(mask, mask),
        gamma=c["gamma"],
        virtual_batch_size=c["virtual_batch_size"],
    )

    x_log1p = case.tensor("eval/x_log1p")
    batch = {"X": CSRParts.from_dense(x_log1p)}
    with torch.no_grad():
        plain = model.module({"X": x_log1p})
    found = model.module.inference()(batch)
    explained = model.module.explaining()(batch).to_dense(len(genes))
    case.check("eval/x", model.module.inputs(x_log1p))
    for out in (plain, found):
        case.check("eval/logits_raw", out["logits"])
        case.check("eval/embedding", out["latent"])
    case.check("eval/M_explain", explained)
    case.check("explain/matrix", explained)
    case.check("explain/normalised", explained / explained.sum(1, keepdim=True))
    case.check("explain/importances", explained.sum(0) / explained.sum())
    # The reference divides by its starting temperature of 1.5 before the softmax.
    full = (found["logits"] / c["temperature_initial"]).softmax(1)
    best = full.topk(3)
    case.check("predict/probs_full_softmax", best.values)
    assert np.array_equal(best.indices, case.arrays["predict/classes"])


def test_import_golden_query_without_two_genes_gives_golden_classes(
    golden: Callable, tmp_path: Path
) -> None:
    case = golden("03_sims_tabnet_steps3_sparsemax")
    torch.save(case.state(), tmp_path / "weights.pt")
    genes, labels = [f"G{i}" for i in range(53)], [f"t{i}" for i in range(7)]
    model = SIMS.from_reference_checkpoint(tmp_path / "weights.pt", genes=genes, labels=labels)
    columns = case.arrays["predict/missing_genes_perm"]
    values = case.arrays["eval/x_log1p"][:, columns]
    query = np.zeros((len(values), 53), dtype=np.float32)
    query[:, columns] = values

    logits = model.module.inference()({"X": CSRParts.from_dense(torch.tensor(query))})["logits"]

    top = (logits / 1.5).topk(3)
    assert np.array_equal(top.indices, case.arrays["predict/missing_genes_classes"])
    # What the reference calls probabilities is the softmax over these three alone.
    case.check("predict/missing_genes_probs", top.values.softmax(1))


@pytest.mark.parametrize("trust", [True, False])
@pytest.mark.parametrize("n_shared", [1, 2])
def test_import_gives_the_same_numbers_as_the_network(
    network: Callable, export: Callable, settings_of: Callable, lightning_file: Callable,
    tmp_path: Path, n_shared: int, trust: bool,
) -> None:  # fmt: skip
    net = network(n_shared=n_shared, gamma=1.5)
    if trust:
        path, given = lightning_file(export(net), settings_of(net)), {"trust": True}
    else:
        path, given = tmp_path / "weights.pt", {**LISTS, "gamma": 1.5, "virtual_batch_size": 16}
        torch.save(export(net), path)
    query = cells()

    model = SIMS.from_reference_checkpoint(path, **given)

    with torch.no_grad():
        wanted = net.double()(unit_rows(query).double()).logits.softmax(1).numpy()
    found = model.predict_proba(query)
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)
    assert list(found.columns) == LABELS
    assert np.array_equal(model.predict_proba(query[:, ::-1]), found)
    assert model.module.config["input_scaling"] == "l2"
    assert model.module.config["gamma"] == 1.5


def test_import_safetensors_need_no_trust(
    network: Callable, export: Callable, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    net = network()
    state = {k: v.clone() for k, v in export(net).items() if "shared_layers" not in k}
    save_file(state, tmp_path / "weights.safetensors")

    model = SIMS.from_reference_checkpoint(
        tmp_path / "weights.safetensors", **LISTS, input_scaling="none"
    )

    x = unit_rows(cells())
    with torch.no_grad():
        assert torch.equal(model.module({"X": x})["logits"], net(x).logits)


# --- trust ----------------------------------------------------------------------------------


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.folder),))


def test_import_published_file_is_refused_without_trust(file: Callable) -> None:
    with pytest.raises(UntrustedModelError, match=r"LabelEncoder|numpy.*trust=True.*E-M30"):
        SIMS.from_reference_checkpoint(file())


def test_import_trusted_file_brings_genes_and_labels(file: Callable, tmp_path: Path) -> None:
    model = SIMS.from_reference_checkpoint(file(), trust=True)

    assert model.features.ids == tuple(GENES)
    assert model.labels.names == tuple(LABELS)
    assert model.fit_["epoch"] == 41
    assert model.fit_["temperature_of_the_file"] == 1.5
    model.save(tmp_path / "model")
    written = b"".join(p.read_bytes() for p in (tmp_path / "model").iterdir() if p.is_file())
    assert b"BARCODE" not in written
    again = SIMS.load(tmp_path / "model")
    assert np.array_equal(again.predict_proba(cells()), model.predict_proba(cells()))


@pytest.mark.parametrize("labels", [np.array(LABELS), LABELS])
def test_import_labels_of_any_form_are_read(file: Callable, labels: object) -> None:
    path = file(genes=np.array(GENES), labels=labels)

    model = SIMS.from_reference_checkpoint(path, trust=True)

    assert model.labels.names == tuple(LABELS)
    assert model.features.ids == tuple(GENES)


@pytest.mark.parametrize("trust", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_import_file_with_code_is_refused_and_not_run(
    file: Callable, tmp_path: Path, trust: bool, zipped: bool
) -> None:
    path, made = file(), tmp_path / "harm"
    content = torch.load(path, weights_only=False)
    content["hyper_parameters"]["x"] = Harm(made)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)

    with pytest.raises(UntrustedModelError, match=r"E-M30") as caught:
        SIMS.from_reference_checkpoint(path, trust=trust)

    assert not made.exists()
    assert "weights_only" not in str(caught.value)


def test_import_other_class_is_refused_by_name_even_with_trust(file: Callable) -> None:
    path = file(scaler=StandardScaler())

    with pytest.raises(UntrustedModelError, match=r"StandardScaler.*save.*weights.pt.*E-M30"):
        SIMS.from_reference_checkpoint(path, trust=True)


def test_import_trusted_file_is_read_in_another_process(
    file: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file()

    def not_here(*args: object, **kwargs: object) -> None:
        pytest.fail("the file was read in this process")

    monkeypatch.setattr(torch, "load", not_here)
    model = SIMS.from_reference_checkpoint(path, trust=True)

    assert len(model.labels) == 6


def test_import_leaves_torchs_list_of_safe_names_alone(file: Callable) -> None:
    before = set(torch.serialization.get_safe_globals())

    SIMS.from_reference_checkpoint(file(), trust=True)

    assert set(torch.serialization.get_safe_globals()) == before


def test_import_that_takes_too_long_is_given_up(
    file: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "TIMEOUT", 0.01)

    with pytest.raises(ModelFileError, match=r"not read after 0.01 seconds.*E-M31"):
        SIMS.from_reference_checkpoint(file(), trust=True)


# --- what does not fit ----------------------------------------------------------------------


def test_import_without_lists_says_what_is_missing(bare: Path) -> None:
    with pytest.raises(UsageError, match=r"47 inputs are not in the file.*genes=.*E-U53"):
        SIMS.from_reference_checkpoint(bare)
    with pytest.raises(UsageError, match=r"6 outputs are not in the file.*labels=.*E-U54"):
        SIMS.from_reference_checkpoint(bare, genes=GENES)


def test_import_lists_that_do_not_fit_are_refused(bare: Path, tmp_path: Path) -> None:
    def refused(match: str, error: type[Exception] = ModelMismatchError, **lists: object) -> None:
        with pytest.raises(error, match=match):
            SIMS.from_reference_checkpoint(bare, **{**LISTS, **lists})

    refused(r"46 genes \(46 different\) for 47.*E-M32", genes=GENES[1:])
    refused(r"47 genes \(46 different\).*ENSG00000000000.*E-M32", genes=[*GENES[:-1], GENES[0]])
    refused(r"5 labels \(5 different\) for 6.*E-M33", labels=LABELS[1:])
    refused(r"unknown.*unlabelled category.*E-M33", labels=[*LABELS[1:], "unknown"])
    two = pd.DataFrame({"x": LABELS, "y": LABELS})
    refused(r"no column of labels.*\['x', 'y'\].*E-U55", UsageError, labels=two)
    refused(r"no such file.*E-F07", InputFileError, genes=tmp_path / "none.csv")
    (tmp_path / "broken.parquet").write_text("no parquet")
    refused(r"no table.*E-F22", InputFileError, genes=tmp_path / "broken.parquet")


def test_import_lists_of_any_form_are_the_same(bare: Path, tmp_path: Path) -> None:
    table = pd.DataFrame({"gene_id": GENES, "length": 1})
    table.to_csv(tmp_path / "genes.csv", index=False)
    table.to_csv(tmp_path / "genes.tsv", sep="\t")
    table.to_parquet(tmp_path / "genes.parquet")
    (tmp_path / "genes.txt").write_text("\n".join(["gene", *GENES, ""]))
    (tmp_path / "names.csv").write_text("\n".join(GENES))
    names = ("genes.csv", "genes.tsv", "genes.parquet", "genes.txt", "names.csv")

    for genes in (*(tmp_path / n for n in names), table, pd.Index(GENES)):
        model = SIMS.from_reference_checkpoint(bare, genes=genes, labels=LABELS)

        assert model.features.ids == tuple(GENES)


def test_import_tables_keep_symbols_and_ontology_terms(bare: Path, tmp_path: Path) -> None:
    symbols = [f"SYMBOL{i}" for i in range(47)]
    genes = pd.DataFrame({"feature_name": symbols, "length": 1}, index=GENES)
    terms = [f"CL:{i:07d}" for i in range(6)]
    labels = pd.DataFrame({"cell_type_ontology_term_id": terms, "cell_type": LABELS})
    labels.to_csv(tmp_path / "labels.tsv", sep="\t", index=False)

    model = SIMS.from_reference_checkpoint(bare, genes=genes, labels=tmp_path / "labels.tsv")

    assert model.features.ids == tuple(GENES)
    assert model.labels.term_ids == tuple(terms)
    by_symbol = cells()
    by_symbol.var_names = symbols
    assert np.array_equal(model.predict_proba(by_symbol), model.predict_proba(cells()))
    assert set(model.annotate(cells())["label_ontology_term_id"]) <= {"", *terms}


def test_import_other_network_is_refused(
    network: Callable, export: Callable, settings_of: Callable, tmp_path: Path
) -> None:
    state = export(network())
    head = "network.tabnet.final_mapping.weight"

    def refused(match: str, change: dict[str, object], **given: object) -> None:
        changed = {k: v for k, v in {**state, **change}.items() if v is not None}
        torch.save(changed, tmp_path / "changed.pt")
        with pytest.raises(ModelFileError, match=match):
            SIMS.from_reference_checkpoint(tmp_path / "changed.pt", **LISTS, **given)

    refused(r"names that no reference TabNet has.*E-M34", {"network.tabnet.x": state[head]})
    refused(r"1 tensors are not its, first other.*E-M34", {"other": state[head]})
    refused(r"missing from the reference state.*E-M34", {head: None})
    refused(r"not finite.*E-M07", {head: state[head] * np.nan})
    refused(
        r"has no tensor.*initial_bn.*E-M34", {"network.tabnet.encoder.initial_bn.weight": None}
    )
    groups = {"network.tabnet.encoder.group_attention_matrix": torch.ones(47, 47)}
    refused(r"groups of genes, which are not imported.*E-M34", groups)


def test_import_matrix_of_lone_genes_is_left_out(
    network: Callable, export: Callable, tmp_path: Path
) -> None:
    state = export(network())
    state["network.tabnet.encoder.group_attention_matrix"] = torch.eye(47)
    torch.save(state, tmp_path / "weights.pt")

    model = SIMS.from_reference_checkpoint(tmp_path / "weights.pt", **LISTS)

    assert model.module.config["feature_groups"] is None


def test_import_settings_that_contradict_are_refused(
    network: Callable, export: Callable, settings_of: Callable, lightning_file: Callable
) -> None:
    net: TabNet = network()
    said = settings_of(net)

    def refused(match: str, change: dict[str, object], **given: object) -> None:
        path = lightning_file(export(net), {**said, **change})
        with pytest.raises(ModelMismatchError, match=match):
            SIMS.from_reference_checkpoint(path, trust=True, **given)

    refused(r"n_d is 8 by the tensors, 16 by its.*E-M34", {"n_d": 16})
    refused(r"there is no mask 'softmax'.*E-M34", {"mask_type": "softmax"})
    refused(r"say gamma=1.3, the call 1.5.*E-M34", {}, gamma=1.5)


def test_import_unknown_argument_is_refused(bare: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown arguments n_d.*E-U24"):
        SIMS.from_reference_checkpoint(bare, **LISTS, n_d=8)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut"])
def test_import_file_that_holds_no_weights_is_refused(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)

    with pytest.raises(ModelFileError, match=r"cannot be read as weights.*E-M31"):
        SIMS.from_reference_checkpoint(path, **LISTS)


def test_import_file_without_tensors_or_a_folder_is_refused(tmp_path: Path) -> None:
    for content in ({"a": 1}, [torch.ones(1)], {"state_dict": {}}):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(ModelFileError, match=r"no tensors by name.*E-M31"):
            SIMS.from_reference_checkpoint(tmp_path / "other.pt", **LISTS)
    with pytest.raises(InputFileError, match=r"the path is a folder.*E-F07"):
        SIMS.from_reference_checkpoint(tmp_path, **LISTS)
    with pytest.raises(InputFileError, match=r"no such file.*E-F07"):
        SIMS.from_reference_checkpoint(tmp_path / "x.ckpt", **LISTS)


# --- the command ----------------------------------------------------------------------------


def run(*arguments: object) -> object:
    from episome.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["sims-import", *map(str, arguments)])
    return caught.value.code


def test_command_writes_a_folder_that_annotates(
    file: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file()

    refused = run(path, "-o", tmp_path / "model")
    said = capsys.readouterr().err
    done = run(path, "--trust", "-o", tmp_path / "model")

    assert refused != 0
    assert "E-M30" in said
    assert "--trust" in said
    assert done == 0
    assert "6 classes, 47 genes" in capsys.readouterr().out
    assert len(SIMS.load(tmp_path / "model").predict(cells())) == 24


def test_command_takes_lists(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("\n".join(GENES))
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    lists = ("--genes", tmp_path / "genes.txt", "--labels", tmp_path / "labels.txt")

    assert run(bare, *lists, "-o", tmp_path / "model") == 0
