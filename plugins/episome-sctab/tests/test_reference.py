"""Checkpoints of the published implementation become trained models."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from episome.errors import (
    EpisomeWarning,
    InputFileError,
    ModelFileError,
    ModelMismatchError,
    UntrustedModelError,
    UsageError,
)
from episome.models import SCTab
from episome.nn import CSRParts, TabNet

GENES = [f"ENSG{i:011d}" for i in range(47)]
LABELS = [f"type {i}" for i in range(9)]
CASES = [f"02_sctab_tabnet_steps{t}_{m}" for t in (1, 3) for m in ("entmax", "sparsemax")]
SIZES = [
    {"n_steps": 1, "n_shared": 3, "n_independent": 5},
    {"n_steps": 3, "n_shared": 1, "n_independent": 0, "mask": "sparsemax"},
    {"n_steps": 2, "n_shared": 0, "n_independent": 2},
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: barriers of tiny operations take seconds on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def file(network: Callable, export: Callable, settings_of: Callable, lightning_file: Callable):
    """Write a checkpoint of a small network and return both."""

    def write(**more: object) -> Path:
        net = network()
        return lightning_file(export(net), settings_of(net), **more)

    return write


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder with the two lists of the authors' store."""
    folder = tmp_path / "store"
    (folder / "categorical_lookup").mkdir(parents=True)
    var = pd.DataFrame(
        {
            "soma_joinid": np.arange(47)[::-1],
            "feature_id": GENES,
            "feature_name": [f"SYMBOL{i}" for i in range(47)],
            "feature_length": 1000,
        }
    )
    var.to_parquet(folder / "var.parquet")
    pd.DataFrame({"label": LABELS}).to_parquet(folder / "categorical_lookup/cell_type.parquet")
    return folder


def cells(n: int = 24) -> AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (n, 47)).astype(np.float32)
    return AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=GENES))


def normalised(adata: AnnData) -> torch.Tensor:
    counts = torch.from_numpy(adata.X.toarray())
    return torch.log1p(1e4 * counts / counts.sum(1, keepdim=True))


# --- the same numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_import_golden_weights_give_golden_logits(case: str, lightning_file: Callable) -> None:
    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA is not set: the recorded reference numbers are elsewhere")
    meta = json.loads((Path(folder) / "goldens" / f"{case}.json").read_text())
    with np.load(Path(folder) / "goldens" / f"{case}.npz") as arrays:
        names = {k: k for k in arrays.files if k.startswith("state/")}
        names |= meta["state_aliases"]
        state = {k.removeprefix("state/"): torch.tensor(arrays[v]) for k, v in names.items()}
        x, wanted = torch.tensor(arrays["eval/x"]), arrays["eval/logits"]
        exact = arrays["eval_f64/logits"]
    keys = ("gene_dim", "type_dim", "n_d", "n_a", "n_steps", "n_shared", "n_independent")
    keys += ("gamma", "momentum", "virtual_batch_size", "mask_type", "lambda_sparse", "epsilon")
    path = lightning_file(state, {k: meta["config"][k] for k in keys})

    model = SCTab.from_reference_checkpoint(path, genes=GENES, labels=LABELS)

    limits = {k: meta["tolerance"]["eval/logits"][k] for k in ("rtol", "atol")}
    with torch.no_grad():
        plain = model.module({"X": x})["logits"]
        sparse_x = CSRParts.from_dense(x.double())
        folded = model.module.double().inference()({"X": sparse_x})["logits"]
    np.testing.assert_allclose(plain, wanted, **limits)
    np.testing.assert_allclose(folded, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_import_any_sizes_give_the_same_probabilities(
    network: Callable, export: Callable, settings_of: Callable, lightning_file: Callable,
    sizes: dict[str, object],
) -> None:  # fmt: skip
    net = network(**sizes)
    path = lightning_file(export(net), settings_of(net))
    query = cells()

    model = SCTab.from_reference_checkpoint(path, genes=GENES, labels=LABELS)

    with torch.no_grad():
        x = normalised(query)
        assert torch.equal(model.module({"X": x})["logits"], net(x).logits)
        wanted = net(x).logits.softmax(1).numpy()
    found = model.predict_proba(query)
    # A random network magnifies the rounding of float32; its logits above are the same bits.
    np.testing.assert_allclose(found, wanted, atol=5e-4)
    assert list(found.columns) == LABELS
    assert np.array_equal(model.predict_proba(query[:, ::-1]), found)
    assert {k: model.module.config[k] for k in sizes} == sizes


@pytest.mark.parametrize("prefix", ["", "classifier."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_import_bare_weights_give_the_same_logits(
    network: Callable, export: Callable, tmp_path: Path, prefix: str, suffix: str
) -> None:
    net = network(n_steps=3, gamma=1.5, mask="sparsemax")
    state = {f"{prefix}{k}": v for k, v in export(net).items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file({k: v.clone() for k, v in state.items() if "shared_layers" not in k}, path)

    model = SCTab.from_reference_checkpoint(
        path, genes=GENES, labels=LABELS, gamma=1.5, mask="sparsemax", virtual_batch_size=8
    )

    x = normalised(cells())
    with torch.no_grad():
        assert torch.equal(model.module({"X": x})["logits"], net(x).logits)
    assert model.module.config["virtual_batch_size"] == 8
    assert model.module.config["momentum"] == 0.02


def test_import_says_where_settings_come_from(
    file: Callable, network: Callable, export: Callable, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    bare = tmp_path / "bare.pt"
    torch.save(export(network()), bare)

    with caplog.at_level("INFO", "episome"):
        SCTab.from_reference_checkpoint(file(), genes=GENES, labels=LABELS)
        SCTab.from_reference_checkpoint(bare, genes=GENES, labels=LABELS, gamma=1.5)

    said = [r.getMessage() for r in caplog.records if r.name.endswith("reference")]
    assert "virtual_batch_size=16, from the file" in said
    assert "gamma=1.5, from the call" in said
    assert "mask=entmax15, from the published script" in said


# --- what is made ---------------------------------------------------------------------------


def test_imported_model_is_saved_loaded_and_explained(
    file: Callable, store: Path, tmp_path: Path
) -> None:
    model = SCTab.from_reference_checkpoint(file(), genes=store)
    query = cells()

    model.save(tmp_path / "model")
    loaded = SCTab.load(tmp_path / "model")

    assert np.array_equal(loaded.predict_proba(query), model.predict_proba(query))
    assert loaded.adata is None
    assert loaded.preset == "paper"
    assert loaded.history_ in (None, {})
    assert loaded.fit_ == model.fit_
    assert model.fit_["source"] == "reference checkpoint"
    assert (model.fit_["epoch"], model.fit_["global_step"]) == (41, 308_000)
    assert len(model.fit_["sha256"]) == 64
    card = (tmp_path / "model" / "README.md").read_text()
    assert "source: reference checkpoint" in card
    assert "Trained on" not in card
    assert str(tmp_path) not in card + (tmp_path / "model" / "manifest.json").read_text()
    assert loaded.explain(query).shape == (24, 47)
    assert set(loaded.top_genes(query)["gene_name"]) <= {f"SYMBOL{i}" for i in range(47)}
    rule = loaded.input_rule
    assert (rule.input_kind, rule.size_factor, rule.target_sum) == ("counts", "model_genes", 1e4)


def test_imported_model_is_fine_tuned(file: Callable) -> None:
    model = SCTab.from_reference_checkpoint(file(), genes=GENES, labels=LABELS)
    new = cells(40)
    new.obs["cell_type"] = ["type 1", "a new type"] * 20

    tuned = model.fine_tune(new, max_epochs=1, accelerator="cpu")

    assert tuned.labels.names == (*LABELS, "a new type")


# --- genes and labels -----------------------------------------------------------------------


def genes_in_forms(store: Path) -> dict[str, object]:
    var = pd.read_parquet(store / "var.parquet")
    var.drop(columns="feature_length").to_csv(store / "genes.csv", index=False)
    var.to_csv(store / "genes.tsv", sep="\t")
    (store / "bare.csv").write_text("\n".join(GENES))
    (store / "genes.txt").write_text("\n".join(["feature_id", *GENES, ""]))
    return {
        "parquet": store / "var.parquet",
        "csv": str(store / "genes.csv"),
        "tsv": store / "genes.tsv",
        "list in csv": store / "bare.csv",
        "txt": store / "genes.txt",
        "table": var,
        "indexed table": var.set_index("feature_id"),
        "index": pd.Index(GENES),
        "array": np.array(GENES),
    }


def test_import_genes_in_any_form_are_the_same(file: Callable, store: Path) -> None:
    path = file()
    for form, genes in genes_in_forms(store).items():
        model = SCTab.from_reference_checkpoint(path, genes=genes, labels=LABELS)

        assert model.features.ids == tuple(GENES), form
        assert set(model.features.other) <= {"feature_name"}, form
    by_symbol = cells()
    by_symbol.var_names = [f"SYMBOL{i}" for i in range(47)]
    model = SCTab.from_reference_checkpoint(path, genes=store)
    assert np.array_equal(model.predict_proba(by_symbol), model.predict_proba(cells()))


def test_import_labels_keep_their_ontology_terms(file: Callable, store: Path) -> None:
    terms = [f"CL:{i:07d}" if i else None for i in range(9)]
    table = pd.DataFrame({"cell_type_ontology_term_id": terms, "label": LABELS})
    table.to_csv(store / "labels.csv", index=False)
    path = file()

    for labels in (table, store / "labels.csv"):
        model = SCTab.from_reference_checkpoint(path, genes=GENES, labels=labels)

        assert model.labels.names == tuple(LABELS)
        assert model.labels.term_ids == ("", *terms[1:])
    calls = model.annotate(cells())
    assert set(calls["label_ontology_term_id"]) <= {"", *terms[1:]}
    (store / "labels.txt").write_text("\n".join(LABELS))
    listed = SCTab.from_reference_checkpoint(path, genes=GENES, labels=store / "labels.txt")
    assert listed.labels.names == tuple(LABELS)
    assert set(listed.labels.term_ids) == {""}


def test_import_labels_of_a_shuffled_store_go_by_their_codes(file: Callable, store: Path) -> None:
    table = pd.DataFrame({"label": LABELS}).sample(frac=1, random_state=0)
    table.to_parquet(store / "categorical_lookup" / "cell_type.parquet")

    model = SCTab.from_reference_checkpoint(file(), genes=store)

    assert list(table["label"]) != LABELS
    assert model.labels.names == tuple(LABELS)


def test_import_without_lists_says_where_they_are(file: Callable) -> None:
    path = file()

    with pytest.raises(
        UsageError, match=r"47 inputs are not in the checkpoint.*var.parquet.*E-U53"
    ):
        SCTab.from_reference_checkpoint(path)
    with pytest.raises(UsageError, match=r"9 outputs are not in.*cell_type.parquet.*E-U54"):
        SCTab.from_reference_checkpoint(path, genes=GENES)


def test_import_genes_that_do_not_fit_are_refused(file: Callable, store: Path) -> None:
    path = file()

    def refused(genes: object, match: str, error: type[Exception] = ModelMismatchError) -> None:
        with pytest.raises(error, match=match):
            SCTab.from_reference_checkpoint(path, genes=genes, labels=LABELS)

    refused(GENES[:-1], r"46 genes for 47 inputs.*E-M32")
    refused([*GENES[:-1], GENES[0]], r"genes stand twice.*1 of 47.*ENSG00000000000.*E-M32")
    repository = pd.DataFrame({"feature_names": [f"G{i}" for i in range(19_357)]})
    refused(repository, r"19,357 genes.*authors' repository, which is not the order.*E-M32")
    nameless = pd.DataFrame({"a": range(47), "b": range(47)})
    refused(nameless, r"no column of genes.*\['a', 'b'\].*E-U55", UsageError)
    refused(store / "nothing.csv", r"no such file.*E-F07", InputFileError)
    (store / "broken.parquet").write_text("no parquet")
    refused(store / "broken.parquet", r"is no table.*E-F22", InputFileError)


def test_import_labels_that_do_not_fit_are_refused(file: Callable) -> None:
    path = file()

    def refused(labels: object, match: str, error: type[Exception] = ModelMismatchError) -> None:
        with pytest.raises(error, match=match):
            SCTab.from_reference_checkpoint(path, genes=GENES, labels=labels)

    refused(LABELS[:-1], r"8 labels \(8 different\) for 9 outputs.*E-M33")
    refused([*LABELS[:-1], "type 0"], r"9 labels \(8 different\).*type 0.*E-M33")
    refused([*LABELS[:-1], "unknown"], r"unknown.*unlabelled category.*E-M33")
    refused(pd.DataFrame({"x": LABELS, "y": LABELS}), r"no column of labels.*E-U55", UsageError)


def test_import_labels_out_of_order_warn(file: Callable) -> None:
    with pytest.warns(EpisomeWarning, match=r"not in alphabetical order.*E-M35"):
        model = SCTab.from_reference_checkpoint(file(), genes=GENES, labels=LABELS[::-1])

    assert model.labels.names == tuple(LABELS[::-1])


# --- files ----------------------------------------------------------------------------------


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.folder),))


class Misuse:
    """Calls a class that honest files only name."""

    def __reduce__(self) -> tuple[object, ...]:
        return (torch.optim.AdamW, ([torch.ones(1, requires_grad=True)],))


@pytest.mark.parametrize("new_torch", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["x", "hyper_parameters", "state_dict"])
def test_import_file_with_code_is_refused_and_not_run(
    file: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, zipped: bool,
    new_torch: bool,
) -> None:  # fmt: skip
    path, made = file(), tmp_path / "harm"
    content = torch.load(path, weights_only=False)
    content.setdefault(place, {})["classifier.harm"] = Harm(made)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if not new_torch:
        monkeypatch.delattr(torch.serialization, "get_unsafe_globals_in_checkpoint")

    with pytest.raises(UntrustedModelError, match=r"(posix|nt|os).mkdir.*E-M30") as caught:
        SCTab.from_reference_checkpoint(path, genes=GENES, labels=LABELS)

    assert not made.exists()
    assert "weights_only" not in str(caught.value)


def test_import_file_with_other_classes_is_refused_by_name(file: Callable) -> None:
    path = file(where=Path("somewhere"))

    with pytest.raises(UntrustedModelError, match=r"pathlib\.\w*Path.*E-M30"):
        SCTab.from_reference_checkpoint(path, genes=GENES, labels=LABELS)


@pytest.mark.parametrize(
    "odd", [Misuse(), np.array([print], dtype=object)[:0]], ids=["called", "array of objects"]
)
def test_import_file_that_misuses_harmless_names_is_refused(file: Callable, odd: object) -> None:
    with pytest.raises(ModelFileError, match=r"E-M3[01]"):
        SCTab.from_reference_checkpoint(file(odd=odd), genes=GENES, labels=LABELS)


def test_import_numbers_of_older_numpy_are_read(file: Callable, tmp_path: Path) -> None:
    old = tmp_path / "old.ckpt"
    with zipfile.ZipFile(file()) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            data = source.read(name).replace(b"numpy._core.multi", b"numpy.core.multi")
            target.writestr(name, data)

    model = SCTab.from_reference_checkpoint(old, genes=GENES, labels=LABELS)

    assert model.is_trained_


def test_import_with_torch_that_knows_no_exceptions_reads_bare_weights_only(
    file: Callable, network: Callable, export: Callable, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = file()
    torch.save(export(network()), tmp_path / "bare.pt")
    for name in ("safe_globals", "get_unsafe_globals_in_checkpoint"):
        monkeypatch.delattr(torch.serialization, name)

    with pytest.raises(UntrustedModelError, match=r"(torch\.optim|numpy)\.\S+.*E-M30"):
        SCTab.from_reference_checkpoint(path, genes=GENES, labels=LABELS)
    bare = SCTab.from_reference_checkpoint(tmp_path / "bare.pt", genes=GENES, labels=LABELS)

    assert bare.is_trained_


def test_import_leaves_torchs_list_of_safe_names_alone(file: Callable) -> None:
    before = set(torch.serialization.get_safe_globals())

    SCTab.from_reference_checkpoint(file(), genes=GENES, labels=LABELS)

    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut"])
def test_import_file_that_holds_no_weights_is_refused(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)

    with pytest.raises(ModelFileError, match=r"cannot be read as weights.*E-M31"):
        SCTab.from_reference_checkpoint(path, genes=GENES, labels=LABELS)


def test_import_file_without_tensors_or_a_folder_is_refused(tmp_path: Path) -> None:
    for content in ({"a": 1}, [torch.ones(1)], torch.ones(1), {"state_dict": {}}):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(ModelFileError, match=r"no tensors by name.*E-M31"):
            SCTab.from_reference_checkpoint(tmp_path / "other.pt", genes=GENES, labels=LABELS)
    with pytest.raises(InputFileError, match=r"the path is a folder.*E-F07"):
        SCTab.from_reference_checkpoint(tmp_path, genes=GENES, labels=LABELS)
    with pytest.raises(InputFileError, match=r"no such file.*E-F07"):
        SCTab.from_reference_checkpoint(tmp_path / "x.ckpt", genes=GENES, labels=LABELS)


def test_import_other_network_is_refused(
    network: Callable, export: Callable, settings_of: Callable, lightning_file: Callable
) -> None:
    net = network()
    state, settings = export(net), settings_of(net)
    head = state["final_mapping.weight"]

    def refused(match: str, change: dict, said: dict | None = None, **given: object) -> None:
        changed = {k: v for k, v in {**state, **change}.items() if v is not None}
        path = lightning_file(changed, {**settings, **(said or {})})
        with pytest.raises(ModelFileError, match=match):
            SCTab.from_reference_checkpoint(path, genes=GENES, labels=LABELS, **given)

    refused(r"names that no reference TabNet has.*E-M34", {"other.weight": head})
    refused(r"missing from the reference state.*E-M34", {"final_mapping.weight": None})
    refused(r"Shared tensor.*differs.*E-M34", differing_alias(net, state))
    refused(r"size mismatch|Error.*loading.*E-M34", {"encoder.initial_bn.bias": torch.ones(3)})
    refused(r"not finite.*E-M07", {"final_mapping.weight": head * np.nan})
    refused(r"n_d is 8 by the tensors, 16 by its.*E-M34", {}, {"n_d": 16})
    refused(r"there is no mask 'softmax'.*E-M34", {}, {"mask_type": "softmax"})
    refused(r"say gamma=1.3, the call 1.5.*E-M34", {}, gamma=1.5)


def differing_alias(net: TabNet, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = "encoder.feat_transformers.0.shared.shared_layers.0.weight"
    return {name: state[name] + 1}


# --- the command ----------------------------------------------------------------------------


def test_command_writes_a_folder_that_annotates(
    file: Callable, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from episome.cli import main

    arguments = ["sctab-import", str(file()), "--genes", str(store), "-o", str(tmp_path / "model")]

    with pytest.raises(SystemExit) as first:
        main(arguments)
    said = capsys.readouterr().out
    with pytest.raises(SystemExit) as second:
        main(arguments)

    assert first.value.code == 0
    assert "9 classes, 47 genes" in said
    assert len(SCTab.load(tmp_path / "model").predict(cells())) == 24
    assert second.value.code == 3
    assert "E-F26" in capsys.readouterr().err


def test_command_tells_what_is_missing(
    file: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from episome.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["sctab-import", str(file()), "-o", str(tmp_path / "model")])

    assert caught.value.code == 2
    assert "E-U53" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_import_with_a_mask_that_there_is_not_blames_the_call(file: Callable) -> None:
    with pytest.raises(UsageError, match=r"mask='softmax'.*\"entmax15\""):
        SCTab.from_reference_checkpoint(file(), genes=GENES, labels=LABELS, mask="softmax")


def test_import_of_a_text_file_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "text.ckpt"
    path.write_text("experiment 1\n")

    with pytest.raises((ModelFileError, UntrustedModelError), match=r"Error|plain data|code"):
        SCTab.from_reference_checkpoint(path, genes=GENES, labels=LABELS)
