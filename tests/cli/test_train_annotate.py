"""`episome train` and `episome annotate` from end to end."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys

import anndata
import jsonschema
import mudata
import pandas as pd
import pytest
import scipy.io
from click.testing import CliRunner

from episome import settings
from episome.cli import _app
from episome.cli._answers import answer_schema
from episome.cli._errors import guarded
from episome.data import simulate_cells
from episome.io import read_manifest, read_model_folder
from episome.models import LogisticRegression


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    cells = simulate_cells(200, 40, n_types=3, n_donors=5)
    cells[:150].copy().write_h5ad(folder / "reference.h5ad")
    query = cells[150:].copy()
    query.obs = query.obs[["batch"]]
    query.write_h5ad(folder / "query.h5ad")
    bad = cells[:150].copy()
    bad.X.data[:5] = float("nan")
    bad.write_h5ad(folder / "nan.h5ad")
    cells[:150].obs[["cell_type"]].sample(frac=1, random_state=0).to_csv(folder / "labels.csv")
    (folder / "others.csv").write_text("cell,cell_type\nGGGG-1,a\n")
    foreign = cells[150:].copy()
    foreign.var_names = [f"OTHER{i}" for i in range(40)]
    foreign.write_h5ad(folder / "genes.h5ad")
    (folder / "not-cells.h5ad").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    return folder


@pytest.fixture(autouse=True)
def _settings(monkeypatch, fresh_manager):
    monkeypatch.setattr(settings, "seed", 0)


@pytest.fixture
def run():
    """Run the program in this process; exit code, output and errors as in a shell."""

    def invoke(*arguments):
        return CliRunner().invoke(_app.app, [str(a) for a in arguments], catch_exceptions=False)

    return invoke


@pytest.fixture(scope="module")
def model(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model"
    arguments = [
        "train",
        "centroid",
        files / "reference.h5ad",
        "--labels-key",
        "cell_type",
        "-o",
        path,
    ]
    result = CliRunner().invoke(_app.app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return path


def the_object(result):
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    jsonschema.validate(found, answer_schema(found["command"]))
    assert found["ok"] is (result.exit_code == 0)
    return found


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


# -- success -------------------------------------------------------------------------------------


def test_an_augmented_ensemble_is_trained_and_annotates(run, files, tmp_path):
    folder, calls = tmp_path / "two", tmp_path / "calls.csv"
    train = ["train", "sctab", files / "reference.h5ad", "--labels-key", "cell_type", "-o", folder]
    train += ["--donor-key", "donor_id", "--ensemble", 2, "--augment", "donor"]

    trained = run(*train, "--max-epochs", 2, "--device", "cpu", "--json")
    annotated = run("annotate", files / "query.h5ad", "-m", folder, "-o", calls, "--json")

    facts = the_object(trained)
    assert facts["fit"]["n_models"] == 2
    assert facts["fit"]["augment"]["kind"] == "donor"
    assert read_manifest(folder)["kind"] == "ensemble"
    the_object(annotated)
    assert len(pd.read_csv(calls)) == 50


def test_an_ensemble_is_named_in_the_answer(run, files, tmp_path):
    train = ["train", "centroid", files / "reference.h5ad", "--labels-key", "cell_type"]

    result = run(*train, "-o", tmp_path / "m", "--ensemble", 2)

    assert result.exit_code == 0
    assert "2 models of centroid trained on 150 cells" in result.output


def test_augmenting_what_has_no_epochs_is_refused(run, files, tmp_path):
    train = ["train", "centroid", files / "reference.h5ad", "--labels-key", "cell_type"]

    result = run(*train, "-o", tmp_path / "m", "--augment", "donor")

    assert result.exit_code == 2
    assert "augment" in result.output
    assert not (tmp_path / "m").exists()


def test_a_column_of_terms_is_read(run, files, tmp_path):
    cells = anndata.read_h5ad(files / "reference.h5ad")
    names = sorted(set(cells.obs["cell_type"].astype(str)))
    terms = dict(zip(names, ["CL:0000084", "CL:0000236", "CL:0000576"], strict=True))
    cells.obs["term"] = cells.obs["cell_type"].astype(str).map(terms)
    cells.write_h5ad(tmp_path / "terms.h5ad")
    train = ["train", "centroid", tmp_path / "terms.h5ad", "--labels-key", "cell_type"]

    result = run(*train, "-o", tmp_path / "m", "--ontology-term-key", "term")

    table = pd.read_csv(tmp_path / "m" / "labels.tsv", sep="\t")
    assert result.exit_code == 0, result.output
    assert table["ontology_term_id"].tolist() == list(terms.values())


@pytest.mark.slow
def test_train_and_annotate_as_a_newcomer_does(files, tmp_path):
    before = digests(files)
    shell = [sys.executable, "-m", "episome"]
    train = ["train", "sctab", files / "reference.h5ad", "--labels-key", "cell_type", "-o", "m"]
    train += ["--donor-key", "donor_id", "--set", "n_d=32", "--device", "cpu"]
    annotate = ["annotate", files / "query.h5ad", "-m", "m", "-o", "calls.csv", "--device", "cpu"]

    done = [
        subprocess.run(
            [*shell, *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        for arguments in (train, annotate)
    ]

    assert [d.returncode for d in done] == [0, 0], done[0].stderr + done[1].stderr
    calls = pd.read_csv(tmp_path / "calls.csv", index_col=0)
    truth = simulate_cells(200, 40, n_types=3, n_donors=5).obs["cell_type"][150:]
    assert (calls["label"] == truth).mean() > 0.8
    assert "next: episome annotate query.h5ad -m m -o calls.csv" in done[0].stdout
    assert "validation macro F1" in done[0].stdout
    assert "training" in done[0].stderr
    assert done[1].stdout.startswith("calls.csv\n")
    assert digests(files) == before


def test_train_answers_in_json(files, tmp_path, run):
    arguments = ["train", "sctab", files / "reference.h5ad", "--labels-key", "cell_type"]
    arguments += ["-o", tmp_path / "m", "--max-epochs", 2, "--batch-size", 64, "--seed", 5]
    arguments += ["--preset", "small", "--set", "n_d=8", "--set", "mask=sparsemax"]
    arguments += ["--set", "plan.lr=0.003", "--set", "train.refit=false"]

    result = run(*arguments, "--device", "cpu", "--threads", 1, "--json")

    found = the_object(result)
    manifest = read_manifest(tmp_path / "m")
    assert found["outputs"] == [{"path": str(tmp_path / "m")}]
    assert found["inputs"][0]["sha256"] == digests(files)["reference.h5ad"]
    # Not trained again on the cells of the validation.
    assert (found["model"], found["n_cells"], found["n_classes"]) == ("sctab", 135, 3)
    assert found["fit"]["n_epochs"] == 2
    assert 0 <= found["metrics"]["validation_f1_macro"] <= 1
    assert (manifest["core"]["n_d"], manifest["core"]["mask"]) == (8, "sparsemax")
    assert (manifest["fit"]["seed"], manifest["fit"]["batch_size"]) == (5, 64)
    assert (manifest["fit"]["plan"]["lr"], manifest["fit"]["refit"]) == (0.003, False)


def test_annotate_answers_in_json(files, tmp_path, model, run):
    result = run("annotate", files / "query.h5ad", "-m", model, "-o", tmp_path / "c.csv", "--json")

    found = the_object(result)
    assert found["n_obs"] == 50
    assert sum(found["labels"].values()) == 50
    assert found["inputs"] == [
        {"path": str(files / "query.h5ad"), "sha256": digests(files)["query.h5ad"]}
    ]
    assert any("40 of the model's 40 genes" in note for note in found["notes"])


@pytest.mark.parametrize("suffix", [".tsv", ".parquet", ".h5ad"])
def test_annotate_writes_what_the_name_says(files, tmp_path, model, run, suffix):
    path = tmp_path / f"calls{suffix}"

    assert run("annotate", files / "query.h5ad", "-m", model, "-o", path).exit_code == 0

    if suffix == ".h5ad":
        adata = anndata.read_h5ad(path)
        assert list(adata.obs)[:2] == ["batch", "episome_label"]
        assert not any(str(k).startswith("_scvi") for k in [*adata.obs, *adata.uns])
    else:
        reader = (
            pd.read_parquet
            if suffix == ".parquet"
            else lambda p: pd.read_csv(p, sep="\t", index_col=0)
        )
        assert len(reader(path)) == 50


def test_a_dash_writes_the_table_to_standard_output(files, tmp_path, model, run, monkeypatch):
    monkeypatch.chdir(tmp_path)

    result = run("annotate", files / "query.h5ad", "-m", model, "-o", "-", "-q")

    lines = result.stdout.splitlines()
    assert lines[0].startswith("cell,label,")
    assert len(lines) == 51
    assert list(tmp_path.iterdir()) == []


def test_without_a_name_the_calls_are_in_calls_csv(files, tmp_path, model, run, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert run("annotate", files / "query.h5ad", "-m", model).exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"calls.csv", "calls.csv.run.json"}


def test_labels_of_a_file_are_joined_by_barcode(files, tmp_path, model, run):
    adata = anndata.read_h5ad(files / "reference.h5ad")
    del adata.obs["cell_type"]
    adata.write_h5ad(tmp_path / "bare.h5ad")

    result = run(
        "train", "centroid", tmp_path / "bare.h5ad", "--labels-key", "cell_type",
        "--labels-file", files / "labels.csv", "-o", tmp_path / "m",
    )  # fmt: skip

    assert result.exit_code == 0
    assert "labels for 150 of 150 cells" in result.stdout
    weights = [(p / "weights.safetensors").read_bytes() for p in (tmp_path / "m", model)]
    assert weights[0] == weights[1]


def test_quiet_says_nothing_but_the_answer(files, tmp_path, model, run):
    result = run("annotate", files / "query.h5ad", "-m", model, "-o", tmp_path / "c.csv", "-q")

    assert result.stderr == ""


# -- failure -------------------------------------------------------------------------------------

TRAIN = ("train", "centroid", "{r}", "--labels-key", "cell_type", "-o", "{o}")
SCTAB = ("train", "sctab", *TRAIN[2:])
ANNOTATE = ("annotate", "{q}", "-m", "{m}", "-o", "{o}.csv")
OTHERS = "{f}/others.csv"
FAILURES = {
    "unknown option": ((*TRAIN, "--label", "x"), 2, "E-U01"),
    "bad number": ((*SCTAB, "--max-epochs", "0"), 2, "E-U02"),
    "bad choice": ((*ANNOTATE, "--input-kind", "raw"), 2, "E-U02"),
    "no key=value": ((*TRAIN, "--set", "x"), 2, "E-U26"),
    "unknown setting": ((*TRAIN, "--set", "x=1"), 2, "E-U24"),
    "unknown kind of setting": ((*SCTAB, "--set", "fit.lr=1"), 2, "E-U26"),
    "unknown setting of a training": ((*SCTAB, "--set", "train.x=1"), 2, "E-U16"),
    "unknown setting of the optimiser": ((*SCTAB, "--set", "plan.x=1"), 2, "E-U14"),
    "text for a number": ((*SCTAB, "--set", "train.train_size=x"), 2, "E-U26"),
    "true for a number": ((*SCTAB, "--set", "n_steps=true"), 2, "E-U26"),
    "a fraction of a whole number": ((*SCTAB, "--set", "train.max_epochs=2.5"), 2, "E-U26"),
    "a number for true or false": ((*SCTAB, "--set", "train.early_stopping=1"), 2, "E-U26"),
    "decay below zero": ((*SCTAB, "--set", "plan.weight_decay=-1"), 2, "E-U15"),
    "true for a rate": ((*SCTAB, "--set", "plan.lr=true"), 2, "E-U15"),
    "a rate without end": ((*SCTAB, "--set", "plan.lr=Infinity"), 2, "E-U15"),
    "smoothing that is no number": ((*SCTAB, "--set", "plan.label_smoothing=NaN"), 2, "E-U15"),
    "half a switch": ((*SCTAB, "--set", "plan.share_moment=5"), 2, "E-U15"),
    "clipping at no number": ((*SCTAB, "--set", "train.gradient_clip_val=NaN"), 2, "E-U16"),
    "no batch": ((*SCTAB, "--set", "train.limit_train_batches=0"), 2, "E-U16"),
    "several machines": ((*SCTAB, "--set", "train.num_nodes=2"), 2, "E-U26"),
    "a preset twice": ((*SCTAB, "--set", "preset=small", "--preset", "base"), 2, "E-U26"),
    "gamma below one": ((*SCTAB, "--set", "gamma=0.5"), 2, "E-U31"),
    "momentum above one": ((*SCTAB, "--set", "momentum=5"), 2, "E-U31"),
    "a reward for broad masks": ((*SCTAB, "--set", "lambda_sparse=-1"), 2, "E-U31"),
    "text for a number of lightning": ((*SCTAB, "--set", "train.max_steps=x"), 2, "E-U16"),
    "no number for lightning": ((*SCTAB, "--set", "train.gradient_clip_val=x"), 2, "E-U16"),
    "no accumulation": ((*SCTAB, "--set", "train.accumulate_grad_batches=0"), 2, "E-U16"),
    "objects as text": ((*SCTAB, "--set", "train.callbacks=x"), 2, "E-U26"),
    "resume as a setting": ((*SCTAB, "--set", "train.resume=x"), 2, "E-U26"),
    "settings of the optimiser as text": ((*SCTAB, "--set", "train.plan_kwargs=x"), 2, "E-U26"),
    "given twice": ((*SCTAB, "--max-epochs", "2", "--set", "train.max_epochs=3"), 2, "E-U26"),
    "settings of a training for auto": (
        ("train", "auto", *TRAIN[2:], "--set", "train.max_epochs=3"),
        2,
        "E-U76",
    ),
    "batch key": ((*TRAIN, "--batch-key", "batch"), 2, "E-U24"),
    "epochs of a model without": ((*TRAIN, "--max-epochs", "2"), 2, "E-U16"),
    "no column": ((*TRAIN[:3], "--labels-key", "kind", "-o", "{o}"), 2, "E-U04"),
    "no donor column": ((*TRAIN, "--donor-key", "site"), 2, "E-U04"),
    "device": ((*TRAIN, "--device", "tpu"), 2, "E-U25"),
    "preset": ((*SCTAB, "--preset", "huge"), 2, "E-U23"),
    "kind of output": ((*ANNOTATE[:4], "-o", "calls.xlsx"), 2, "E-U08"),
    "no file": (("annotate", "nowhere.h5ad", *ANNOTATE[2:]), 3, "E-F07"),
    "lfs pointer": ((*TRAIN[:2], "{f}/not-cells.h5ad", *TRAIN[3:]), 3, "E-F02"),
    "nan": ((*TRAIN[:2], "{f}/nan.h5ad", *TRAIN[3:]), 3, "E-D01"),
    "nan in a query": (("annotate", "{f}/nan.h5ad", *ANNOTATE[2:]), 3, "E-D01"),
    "no labels file": ((*TRAIN, "--labels-file", "none.csv"), 3, "E-F07"),
    "labels of others": ((*TRAIN, "--labels-file", OTHERS), 3, "E-L22"),
    "no layer": ((*ANNOTATE, "--layer", "counts"), 3, "E-D28"),
    "too few genes": (("annotate", "{f}/genes.h5ad", *ANNOTATE[2:]), 3, "E-G02"),
    "no model": ((*ANNOTATE[:3], "nowhere", "-o", "{o}.csv"), 4, "E-M05"),
    "model that is none": ((*ANNOTATE[:3], "{f}", "-o", "{o}.csv"), 4, "E-M05"),
    "no such method": (("train", "sctap", *TRAIN[2:]), 5, "E-P01"),
}


@pytest.fixture
def fill(files, tmp_path, model):
    """Put paths into the arguments of a failure."""
    places = {
        "r": files / "reference.h5ad",
        "q": files / "query.h5ad",
        "m": model,
        "f": files,
        "o": tmp_path / "out",
    }
    return lambda arguments: [a.format(**places) for a in arguments]


@pytest.mark.parametrize("what", sorted(FAILURES))
def test_a_mistake_has_its_exit_code_one_json_object_and_no_traceback(
    what, fill, files, tmp_path, capsys, monkeypatch
):
    arguments, code, kind = FAILURES[what]
    monkeypatch.chdir(tmp_path)
    before = digests(files)

    found = guarded(
        lambda argv: _app.app.main(argv, standalone_mode=False), [*fill(arguments), "--json"]
    )

    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    answer = json.loads(line)
    assert (found, answer["ok"], answer["error"]["code"]) == (code, False, kind)
    assert answer["error"]["message"]
    assert "Traceback" not in err
    assert "bug" not in err
    assert kind in err
    assert list(tmp_path.iterdir()) == []
    assert digests(files) == before


KEYS = ("logreg", "--labels-key", "cell_type")
LINEAR = ("linear", *KEYS[1:])
#: What is found before the cells are read.
EARLY = {
    "label column": (("logreg", "--labels-key", "cell_typ"), r"`cell_type`", "E-U04"),
    "donor column": ((*KEYS, "--donor-key", "donor"), r"`donor_id`", "E-U04"),
    "weights": ((*LINEAR, "--sampling", "wait"), "'wait' is missing", "E-U04"),
    "preset": ((*LINEAR, "--preset", "smal1"), r"--preset.*`small`", "E-U23"),
    "setting": ((*KEYS, "--set", "penalty=1"), r"penalty \(--set\).*`penalties`", "E-U24"),
    "markers": ((*KEYS, "--markers", "{f}/labels.csv"), r"markers \(--markers\)", "E-U24"),
    "set-up": ((*KEYS, "--batch-key", "batch"), r"batch_key \(--batch-key\)", "E-U24"),
    "epochs": ((*KEYS, "--max-epochs", "3"), r"max_epochs \(--max-epochs\)", "E-U16"),
    "draws": ((*KEYS, "--sampling", "balanced"), r"sampling \(--sampling\)", "E-U16"),
    "refit": (("pca", "--refit"), r"refit \(--refit\)", "E-U16"),
    "split": ((*KEYS, "--split", "{f}/labels.csv"), "is no split", "E-F33"),
    "auto": (("auto", "--labels-key", "cell_typ"), r"`cell_type`", "E-U04"),
    "auto, split": (("auto", *KEYS[1:], "--split", "s.json"), r"--split", "E-U76"),
    "method": (("logrg", *KEYS[1:]), "`logreg`", "E-P01"),
}


@pytest.mark.parametrize("what", sorted(EARLY))
def test_a_slip_is_found_before_the_cells_are_read(what, run, files, tmp_path, monkeypatch):
    from episome.jobs import _train

    (method, *more), text, code = EARLY[what]
    monkeypatch.setattr(_train, "read_cells", lambda *a, **k: pytest.fail("cells were read"))
    more = [word.format(f=files) for word in more]

    words = ["train", method, files / "reference.h5ad", *more, "-o", tmp_path / "m"]
    result = CliRunner().invoke(_app.app, [str(w) for w in words])

    assert code in result.stderr
    assert re.search(text, result.stderr), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_column_of_clusters_is_looked_for_before_the_cells_are_read(
    run, files, model, tmp_path, monkeypatch
):
    from episome.jobs import _asked

    monkeypatch.setattr(_asked, "read_cells", lambda *a, **k: pytest.fail("cells were read"))
    words = ["annotate", files / "query.h5ad", "-m", model, "-o", tmp_path / "c.h5ad"]

    result = CliRunner().invoke(_app.app, [*map(str, words), "--cluster-key", "bach"])

    assert result.exit_code == 2
    assert "'bach' is missing in query.h5ad.obs" in result.stderr
    assert "did you mean `batch`" in result.stderr


def test_train_and_annotate_call_the_file_by_its_name(run, files, model, tmp_path):
    bad = anndata.read_h5ad(files / "nan.h5ad")
    bad.obs["cell_type"] = bad.obs["cell_type"].astype(object)
    bad.obs.iloc[0, bad.obs.columns.get_loc("cell_type")] = None
    bad.write_h5ad(tmp_path / "bad.h5ad")
    words = ["train", "logreg", tmp_path / "bad.h5ad", "--labels-key", "cell_type", "-o", "m"]

    for more in ([], ["--backed"]):
        trained = CliRunner().invoke(_app.app, [str(w) for w in (*words, *more)])
        assert "NaN values in bad.h5ad.X" in trained.stderr
        assert "missing labels in bad.h5ad.obs['cell_type']" in trained.stderr
        assert 'nan="zero" (--nan zero)' in trained.stderr
        assert 'unlabeled="keep" (--unlabeled keep)' in trained.stderr
        assert "adata" not in trained.stderr
    called = CliRunner().invoke(
        _app.app, ["annotate", str(tmp_path / "bad.h5ad"), "-m", str(model), "-o", "c.csv"]
    )
    assert "NaN values in bad.h5ad.X" in called.stderr


def test_every_option_that_messages_name_is_one():
    from episome import errors
    from episome.cli.train import command

    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}

    named = [*errors._SAME_OPTIONS, *errors._OPTIONS]
    assert {errors.with_option(n).rpartition("(")[2].rstrip(")") for n in named} <= options


def test_clusters_of_one_cell_each_are_said_to_be_none(run, files, model, tmp_path):
    cells = anndata.read_h5ad(files / "query.h5ad")
    cells.obs["barcode"] = cells.obs_names
    cells.write_h5ad(tmp_path / "q.h5ad")
    words = ["annotate", tmp_path / "q.h5ad", "-m", model, "-o", tmp_path / "c.csv"]

    result = run(*words, "--cluster-key", "barcode", "--json")

    warned = the_object(result)["warnings"]
    assert [w["code"] for w in warned if "barcode" in w["message"]] == ["E-L39"]


def test_a_strategy_without_devices_is_said_to_do_nothing(run, files, tmp_path):
    words = ["train", "linear", files / "reference.h5ad", "--labels-key", "cell_type"]

    result = run(
        *words, "--strategy", "ddp", "--max-epochs", 1, "--device", "cpu", "-o", tmp_path / "m"
    )

    assert result.exit_code == 0, result.stderr
    assert "nothing is shared out" in result.stderr
    assert "--devices 2" in result.stderr


def test_a_damaged_model_is_refused(files, tmp_path, model, capsys):
    import shutil

    copy = shutil.copytree(model, tmp_path / "m")
    data = bytearray((copy / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(data)

    code = guarded(
        lambda argv: _app.app.main(argv, standalone_mode=False),
        ["annotate", str(files / "query.h5ad"), "-m", str(copy), "-o", str(tmp_path / "c.csv")],
    )

    assert code == 4
    assert "weights.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "c.csv").exists()


def test_outputs_are_replaced_only_when_asked_for(files, tmp_path, model, capsys):
    call = lambda *a: guarded(  # noqa: E731 - short
        lambda argv: _app.app.main(argv, standalone_mode=False), [str(x) for x in a]
    )
    calls, folder = tmp_path / "c.csv", tmp_path / "m"
    calls.write_text("mine")
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    annotate = ("annotate", files / "query.h5ad", "-m", model, "-o", calls)
    train = (
        "train",
        "centroid",
        files / "reference.h5ad",
        "--labels-key",
        "cell_type",
        "-o",
        folder,
    )

    assert call(*annotate) == 3
    assert calls.read_text() == "mine"
    assert call(*train) == call(*train, "--overwrite") == 3
    assert (folder / "thesis.txt").read_text() == "mine"

    assert call(*annotate, "--overwrite") == 0
    assert len(pd.read_csv(calls)) == 50
    (folder / "thesis.txt").unlink()
    assert call(*train, "--overwrite") == call(*train, "--overwrite") == 0
    assert read_manifest(folder)["model"]["spec"] == "centroid"
    assert "Traceback" not in capsys.readouterr().err


def test_the_input_is_never_the_output(files, tmp_path, model, capsys):
    copy = tmp_path / "q.h5ad"
    copy.write_bytes((files / "query.h5ad").read_bytes())

    code = guarded(
        lambda argv: _app.app.main(argv, standalone_mode=False),
        ["annotate", str(copy), "-m", str(model), "-o", str(copy), "--overwrite"],
    )

    assert code == 3
    assert "E-F25" in capsys.readouterr().err
    assert copy.read_bytes() == (files / "query.h5ad").read_bytes()


# -- check ---------------------------------------------------------------------------------------


def test_check_says_what_a_file_holds_and_what_comes_next(run, files):
    result = run("check", files / "reference.h5ad")

    assert result.exit_code == 0, result.output
    assert "reference.h5ad: 150 cells, 40 genes" in result.stdout
    assert "counts" in result.stdout
    assert "cell_type (3 classes)" in result.stdout
    assert "episome train METHOD" in result.stdout


def test_check_for_a_model_compares_the_genes(run, files, model):
    good = the_object(run("check", files / "query.h5ad", "-m", model, "--json"))
    bad = run("check", files / "genes.h5ad", "-m", model, "--json")

    assert good["inspection"]["ok"] is True
    assert good["next"][0].startswith("episome annotate")
    found = the_object(bad)
    assert bad.exit_code == 3
    assert found["error"]["code"] == "E-G02"
    assert found["inspection"]["findings"][0]["code"] == "E-G02"
    assert found["next"] == []


@pytest.fixture(scope="module")
def weighing(files):
    """A model that says how much its genes weigh, and a query without the heaviest."""
    cells = anndata.read_h5ad(files / "reference.h5ad")
    LogisticRegression.setup_anndata(cells, labels_key="cell_type")
    model = LogisticRegression(cells)
    model.train()
    model.save(files / "weighing")
    heaviest = model.gene_importance.weights.mean(axis=0).argsort()[-4:]
    query = anndata.read_h5ad(files / "query.h5ad")
    query[:, ~query.var_names.isin(query.var_names[heaviest])].write_h5ad(files / "light.h5ad")
    return files / "weighing"


def test_check_says_which_cell_types_lose_most_weight(run, files, weighing):
    whole = the_object(run("check", files / "query.h5ad", "-m", weighing, "--json"))["inspection"]
    said = run("check", files / "light.h5ad", "-m", weighing)
    found = the_object(run("check", files / "light.h5ad", "-m", weighing, "--json"))["inspection"]

    lost = found["lost"]
    assert said.exit_code == 0, said.output
    assert set(whole["lost"].values()) == {0.0}
    assert len(lost) == 3
    assert list(lost.values()) == sorted(lost.values(), reverse=True)
    left = 1 - sum(lost.values()) / 3
    assert left < 0.9
    assert f"weight   {left:.1%} of the model's weight is left" in said.stdout
    rows = [line.split()[1:] for line in said.stdout.splitlines() if "weight     " in line]
    assert [(" ".join(row[:-1]), row[-1]) for row in rows] == [
        (name, f"{share:.0%}") for name, share in lost.items()
    ]


def test_check_reports_what_must_be_mended(run, files):
    result = run("check", files / "nan.h5ad")

    assert result.exit_code == 3
    assert "must mend: NaN values" in result.stdout
    assert "[E-D01]" in result.stdout


def test_check_of_no_file_of_cells_is_an_error(run, files):
    result = run("check", files / "not-cells.h5ad")

    assert result.exit_code == 3
    assert "Git LFS pointer" in result.output


@pytest.fixture(scope="module")
def modalities(files):
    cells = simulate_cells(150, 40, n_types=3, n_donors=5)
    prot = simulate_cells(120, 4, n_types=2, seed=1)
    prot.var_names = ["CD3_TotalSeqB", "CD4_TotalSeqB", "CD19_TotalSeqB", "IgG1_TotalSeqB"]
    path = files / "cite.h5mu"
    mudata.MuData({"rna": cells, "prot": prot}).write(path)
    return path


def test_check_looks_at_every_modality_of_a_file(run, modalities, tmp_path):
    before = modalities.read_bytes()

    said = run("check", modalities)
    found = the_object(run("check", modalities, "--json"))

    assert said.exit_code == 0, said.output
    assert (
        "cite.h5mu: 120 cells in all modalities: rna (40 genes), prot (4 proteins)" in said.stdout
    )
    assert "controls: IgG1" in said.stdout
    assert found["warnings"] == []
    assert list(found["inspection"]["modalities"]) == ["rna", "prot"]
    assert found["inspection"]["modalities"]["prot"]["proteins"]["controls"] == ["IgG1"]
    assert modalities.read_bytes() == before
    words = found["next"][0].replace("METHOD", "centroid").replace("my-model", str(tmp_path / "m"))
    assert run(*shlex.split(words)[1:]).exit_code == 0


def test_check_compares_a_model_with_the_genes_of_several_modalities(run, modalities, model):
    found = the_object(run("check", modalities, "-m", model, "--json"))

    assert "40 of the model's 40 genes" in found["inspection"]["modalities"]["rna"]["repairs"][0]
    assert found["next"][0].startswith("episome annotate")


def test_check_says_which_modality_must_be_mended(run, modalities, tmp_path):
    mdata = mudata.read_h5mu(modalities)
    mdata.mod["prot"].X.data[0] = float("nan")
    mdata.mod["prot"].X.data[1] = -1
    mdata.write(tmp_path / "bad.h5mu")

    bad = run("check", tmp_path / "bad.h5mu", "--json")

    found = the_object(bad)
    assert bad.exit_code == 3
    assert found["error"]["code"] == "E-D01"
    assert "bad.h5mu['prot'].X" in found["error"]["message"]
    assert [w["code"] for w in found["warnings"]] == ["E-D46"]
    assert found["next"] == []


def test_check_opens_files_of_10x_with_several_kinds_of_features(run, tmp_path):
    cells = simulate_cells(60, 40, n_types=3)
    kinds = ["Gene Expression"] * 30 + ["Antibody Capture"] * 6 + ["Peaks"] * 4
    names = [*cells.var_names[:36], *(f"chr1:{i}-{i + 9}" for i in range(4))]
    folder = tmp_path / "filtered"
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", cells.X.T.astype(int))
    rows = [f"{n}\t{n}\t{k}" for n, k in zip(names, kinds, strict=True)]
    (folder / "features.tsv").write_text("\n".join(rows) + "\n")
    (folder / "barcodes.tsv").write_text("\n".join(cells.obs_names) + "\n")

    found = the_object(run("check", folder, "--json"))["inspection"]

    kinds = {m: p["kind"] for m, p in found["modalities"].items()}
    assert kinds == {"rna": "rna", "prot": "protein", "atac": "atac"}
    assert found["name"] == "filtered"
    assert found["ok"] is True


@pytest.mark.parametrize("form", ["cells.zarr", "cells.h5ad", "."])
@pytest.mark.filterwarnings("ignore:.*zarr.*")
def test_check_names_the_file_that_it_read(run, files, form, tmp_path, monkeypatch):
    bad = anndata.read_h5ad(files / "nan.h5ad")
    inside = tmp_path / "cells.zarr"
    bad.write_zarr(inside)
    bad.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(inside if form == "." else tmp_path)

    found = the_object(run("check", form, "--json"))

    name = "cells.zarr" if form == "." else form
    assert found["inspection"]["name"] == name
    assert f"in {name}.X" in found["error"]["message"]
    assert "adata" not in json.dumps(found["inspection"])


@pytest.mark.parametrize("command", ["check", "train", "annotate"])
def test_a_file_that_declares_more_than_is_allowed_is_refused(
    run, files, model, command, tmp_path
):
    arguments = {
        "check": [files / "query.h5ad"],
        "train": ["centroid", files / "reference.h5ad", "--labels-key", "cell_type", "-o", "m"],
        "annotate": [files / "query.h5ad", "-m", model, "-o", tmp_path / "calls.csv"],
    }[command]

    result = run(command, *arguments, "--max-memory", "0.000001", "--json")

    assert result.exit_code == 3
    assert the_object(result)["error"]["code"] == "E-F09"
    assert run("check", files / "query.h5ad", "--trust").exit_code == 0


# -- cells that stay in the file -----------------------------------------------------------------


def tensors_of(folder):
    return {k: v.tolist() for k, v in read_model_folder(folder).tensors.items()}


def test_train_from_the_file_gives_the_model_of_the_cells_in_memory(run, files, tmp_path):
    words = ["train", "logreg", files / "reference.h5ad", "--labels-key", "cell_type"]

    in_memory = run(*words, "-o", tmp_path / "memory")
    backed = run(*words, "-o", tmp_path / "backed", "--backed")

    assert backed.exit_code == 0, backed.output
    assert "read while training" not in backed.stdout + in_memory.stdout
    assert tensors_of(tmp_path / "backed") == tensors_of(tmp_path / "memory")


def test_train_joins_a_table_of_labels_to_cells_that_stay_in_the_file(run, files, tmp_path):
    before = (files / "reference.h5ad").read_bytes()
    words = ["train", "centroid", files / "reference.h5ad", "--labels-key", "type"]
    words += ["--labels-file", files / "labels.csv", "--backed"]

    result = run(*words, "-o", tmp_path / "model")

    assert result.exit_code == 0, result.output
    assert (files / "reference.h5ad").read_bytes() == before


def test_train_reads_a_file_that_does_not_fit_into_memory_from_disk(run, tmp_path):
    cells = simulate_cells(150, 2_000, n_types=3, n_donors=5)
    cells.write_h5ad(tmp_path / "large.h5ad")
    limit = str(cells.X.nnz * 4 / 2**30)  # half of what the matrix takes
    words = [tmp_path / "large.h5ad", "--labels-key", "cell_type", "--max-memory", limit]

    result = run("train", "centroid", *words, "-o", tmp_path / "model")

    assert result.exit_code == 0, result.output
    said = "large.h5ad does not fit into memory: its cells are read while training"
    assert result.stdout.count(said) == 1
    refused = run("train", "auto", *words, "-o", tmp_path / "other", "--json")
    assert the_object(refused)["error"]["code"] == "E-F09"


def test_the_comparison_of_models_is_not_backed(run, files, tmp_path):
    words = ["train", "auto", files / "reference.h5ad", "--labels-key", "cell_type", "--backed"]

    result = run(*words, "-o", tmp_path / "model", "--json")

    assert result.exit_code == 2
    assert the_object(result)["error"]["code"] == "E-U83"


@pytest.fixture
def parts(files, tmp_path):
    """A folder of two files that hold the reference."""
    folder = tmp_path / "parts"
    folder.mkdir()
    cells = anndata.read_h5ad(files / "reference.h5ad")
    cells[:70].copy().write_h5ad(folder / "a.h5ad")
    cells[70:, ::-1].copy().write_h5ad(folder / "b.h5ad")
    return folder


def test_train_takes_a_folder_of_files(run, files, parts, tmp_path):
    words = ["--labels-key", "cell_type"]

    one = run("train", "logreg", files / "reference.h5ad", *words, "-o", tmp_path / "one")
    many = run("train", "logreg", parts, *words, "-o", tmp_path / "many", "--json")

    assert (one.exit_code, many.exit_code) == (0, 0), many.output
    assert the_object(many)["n_cells"] == 150
    assert tensors_of(tmp_path / "one") == tensors_of(tmp_path / "many")


def test_what_belongs_to_one_file_is_refused_for_a_folder(run, files, parts, tmp_path):
    words = ["--labels-key", "cell_type", "-o", tmp_path / "model", "--json"]

    table = run("train", "logreg", parts, "--labels-file", files / "labels.csv", *words)
    auto = run("train", "auto", parts, *words)
    (parts / "c.h5ad").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    broken = run("train", "logreg", parts, *words)

    assert the_object(table)["error"]["code"] == "E-U85"
    assert the_object(auto)["error"]["code"] == "E-U83"
    assert "c.h5ad" in the_object(broken)["error"]["message"]
    assert not (tmp_path / "model").exists()
