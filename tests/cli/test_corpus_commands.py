"""``episome corpus``: options, answers and exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from episome.cli._app import app
from episome.data import CorpusSource, read_split, simulate_cells


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for seed, name in enumerate("ab"):
        cells = simulate_cells(120, 50, n_donors=6, seed=seed)
        cells.obs["tissue"] = "lung" if name == "a" else "=1+1"
        cells.obs_names = [f"{name}{n}" for n in cells.obs_names]
        cells.write_h5ad(folder / f"{name}.h5ad")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["corpus", *map(str, arguments)])


def answer(*arguments):
    result = run(*arguments, "--json")
    return json.loads(result.stdout), result.exit_code


def build(files, output, *more):
    keys = ("--labels-key", "cell_type", "--donor-key", "donor_id")
    return run("build", files / "a.h5ad", files / "b.h5ad", "-o", output, *keys, *more)


@pytest.fixture(scope="module")
def corpus(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "c"
    assert build(files, folder).exit_code == 0
    return folder


@pytest.mark.parametrize("command", ["build", "info", "verify", "split"])
def test_help_ends_with_two_examples(command):
    lines = run(command, "--help").stdout.strip().splitlines()

    assert sum(line.strip().startswith("$ episome corpus") for line in lines[-6:]) == 2


def test_build_answers_with_the_folder_and_what_is_in_it(files, tmp_path):
    result = build(files, tmp_path / "c")

    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == str(tmp_path / "c")
    assert "240 cells, 50 genes" in result.stdout
    assert "sorting" in result.stderr or "writing" in result.stderr


def test_the_same_command_again_does_nothing_and_another_is_refused(files, tmp_path):
    first = build(files, tmp_path / "c", "--json")
    again = build(files, tmp_path / "c", "--json")
    other = build(files, tmp_path / "c", "--shuffle-seed", "4")
    replaced = build(files, tmp_path / "c", "--shuffle-seed", "4", "--overwrite")

    assert json.loads(again.stdout)["repeated"] is True
    assert json.loads(again.stdout)["n_obs"] == json.loads(first.stdout)["n_obs"] == 240
    assert (other.exit_code, "E-F26" in other.stderr) == (3, True)
    assert replaced.exit_code == 0
    assert CorpusSource(tmp_path / "c").manifest["shuffle_seed"] == 4


def test_a_dry_run_estimates_and_writes_nothing(files, tmp_path):
    found, code = answer(
        *("build", files / "a.h5ad", "-o", tmp_path / "c", "--where", "donor_id=donor 1"),
        "--dry-run",
    )

    assert (code, found["ok"], found["dry_run"]) == (0, True, True)
    assert 0 < found["n_obs"] < 120
    assert found["disk_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_columns_and_conditions_are_taken(files, tmp_path):
    result = build(files, tmp_path / "c", "--columns", "batch, tissue", "--where", "tissue!=lung")

    source = CorpusSource(tmp_path / "c")
    assert result.exit_code == 0, result.stderr
    assert source.obs_columns == ["cell_type", "donor_id", "batch", "tissue", "corpus_input"]
    assert set(source.obs_column("tissue")) == {"=1+1"}


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (("--where", "tissue"), 2, "E-U90"),
        (("--layer", "counts", "--use-raw"), 2, "E-U27"),
        (("--layer", "nothing"), 3, "E-D28"),
        (("--columns", "nothing"), 3, "E-L35"),
        (("--where", "tissue=moon"), 3, "E-D57"),
    ],
)
def test_wrong_wishes_are_refused_and_nothing_is_written(files, tmp_path, more, code, text):
    result = build(files, tmp_path / "c", *more)

    assert (result.exit_code, text in result.stderr) == (code, True)
    assert list(tmp_path.iterdir()) == []


def test_info_draws_what_is_in_it(corpus):
    text = run("info", corpus).stdout
    found, code = answer("info", corpus)

    assert "240 cells, 50 genes" in text
    assert "tissue: 2 values" in text
    assert "cell_type: 4 values" in text
    assert "#####" in text
    assert code == 0
    assert found["composition"]["tissue"] == {"lung": 120, "=1+1": 120}
    assert [s["name"] for s in found["sources"]] == ["a.h5ad", "b.h5ad"]


def test_verify_says_that_all_is_well_or_what_is_damaged(files, corpus, tmp_path):
    assert "nothing is damaged" in run("verify", corpus).stdout
    build(files, tmp_path / "c")
    genes = tmp_path / "c" / "genes.json"
    genes.write_bytes(genes.read_bytes().replace(b"GENE0", b"GENE1", 1))

    said = run("verify", tmp_path / "c")
    found, code = answer("verify", tmp_path / "c")

    assert (said.exit_code, said.stdout) == (3, "")
    assert "error: a damaged file of a corpus in" in said.stderr
    assert "genes.json" in said.stderr
    assert "To fix: copy the corpus again" in said.stderr
    assert "[E-F31]" in said.stderr
    assert (code, found["ok"], found["error"]["code"]) == (3, False, "E-F31")
    assert found["inputs"] == [{"path": str(tmp_path / "c")}]
    assert "genes.json" in found["error"]["message"]


@pytest.mark.parametrize("command", ["info", "verify"])
def test_what_is_no_corpus_is_refused(files, command):
    result = run(command, files)

    assert (result.exit_code, "E-F30" in result.stderr) == (3, True)


def test_split_writes_a_file_with_donors_and_a_checksum(corpus, tmp_path):
    output = tmp_path / "split.json"
    wanted = ("split", corpus, "--by", "donor_id", "--sizes", "0.6,0.2,0.2", "-o", output)

    result = run(*wanted)
    kept = json.loads(output.read_bytes())

    assert result.exit_code == 0, result.stderr
    assert set(kept["parts"]) == {"train", "validation", "test"}
    assert len(kept["sha256"]) == 64
    assert run(*wanted).exit_code == 3
    assert run(*wanted, "--overwrite").exit_code == 0
    assert json.loads(output.read_bytes()) == kept
    assert run("split", corpus, "-o", output, "--sizes", "much").exit_code == 2


def test_page_as_written_runs(files, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/user_guide/corpus.md").read_text(encoding="utf-8")
    for name in ("a.h5ad", "b.h5ad"):
        shutil.copy(files / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names = {}

    for kind, text in re.findall(r"^```(python|console)\n(.*?)^```", page, re.M | re.S):
        if kind == "python":
            exec(compile(text, "corpus.md", "exec"), names)
            continue
        for line in re.findall(r"^\$ episome corpus (.*)$", text, re.M):
            result = run(*shlex.split(line))
            assert result.exit_code == 0, result.stderr

    assert names["batch"].shape == (240, 50)
    assert len(names["labels"]) == 240
    assert len(names["split"].train) > 100


def test_rules_of_the_preset_are_options(files, tmp_path):
    result = run(
        *("build", files / "a.h5ad", "-o", tmp_path / "c", "--min-donors", 7, "--assay", "10x"),
    )

    assert result.exit_code == 3
    assert "column 'assay' is missing" in result.stderr
    assert "column 'cell_type_ontology_term_id' is missing" in result.stderr


def test_a_corpus_is_what_train_reads_and_has_one_place_of_values(corpus, files, tmp_path):
    train = ("train", "centroid", str(corpus), "--labels-key", "cell_type", "-o")
    runner = CliRunner()

    done = runner.invoke(app, [*train, str(tmp_path / "m")])
    layer = runner.invoke(app, [*train, str(tmp_path / "n"), "--layer", "counts"])
    check = runner.invoke(app, ["check", str(corpus)])

    assert done.exit_code == 0, done.stderr
    assert "240 cells, 50 genes (counts), 4 classes" in done.stdout
    assert (layer.exit_code, "E-U27" in layer.stderr) == (2, True)
    assert (check.exit_code, "the folder is a corpus" in check.stderr) == (3, True)


def test_a_held_out_part_of_a_corpus_is_annotated(corpus, tmp_path):
    """From the corpus to calls that can be scored, every step by a command."""
    split, model, calls = tmp_path / "split.json", tmp_path / "m", tmp_path / "calls.csv"
    app_run = lambda *words: CliRunner().invoke(app, [str(w) for w in words])  # noqa: E731
    assert run("split", corpus, "-o", split).exit_code == 0

    trained = app_run(
        *("train", "logreg", corpus, "--labels-key", "cell_type", "-o", model),
        *("--split", split),
    )
    whole = app_run("annotate", corpus, "-m", model, "-o", tmp_path / "all.csv")
    part = app_run(
        *("annotate", corpus, "-m", model, "-o", calls, "--split", split, "--part", "test")
    )

    assert [r.exit_code for r in (trained, whole, part)] == [0, 0, 0], part.stderr
    source = CorpusSource(corpus)
    rows = read_split(split, source).test
    found = pd.read_csv(calls, index_col=0)
    assert list(pd.read_csv(tmp_path / "all.csv", index_col=0).index) == list(source.obs_names)
    assert list(found.index) == list(source.obs_names[rows])
    truth = source.obs_column("cell_type").astype(str).to_numpy()[rows]
    assert (found["label_raw"] == truth).mean() > 0.8


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (("-o", "calls.h5ad"), "E-U09", "those of a corpus in .* take a table"),
        (("-o", "calls.csv", "--part", "test"), "E-U34", r"split \(--split\)"),
        (("-o", "calls.csv", "--split", "no.json"), "E-F33", "is no split"),
        (("-o", "calls.csv", "--cluster-key", "leidn"), "E-U04", "'leidn' is missing"),
    ],
)
def test_what_a_corpus_cannot_give_is_refused(corpus, tmp_path, monkeypatch, more, code, text):
    monkeypatch.chdir(tmp_path)
    model = ["train", "centroid", str(corpus), "--labels-key", "cell_type", "-o", "m"]
    assert CliRunner().invoke(app, model).exit_code == 0

    result = CliRunner().invoke(app, ["annotate", str(corpus), "-m", "m", *more])

    assert code in result.stderr
    assert re.search(text, result.stderr)
    assert {p.name for p in tmp_path.iterdir()} == {"m", "m.run.json"}


def test_models_are_not_compared_on_a_corpus(corpus, tmp_path):
    words = ["train", "auto", str(corpus), "--labels-key", "cell_type", "-o", str(tmp_path / "m")]

    result = CliRunner().invoke(app, words)

    assert (result.exit_code, "E-U83" in result.stderr) == (2, True)
    assert "this is a corpus" in result.stderr
    assert "--backed" not in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_stopped_by_a_signal_it_goes_on_from_there(files, tmp_path):
    """Ctrl-C and SIGTERM end with their own codes, and the same command finishes the work."""
    command = [
        *(sys.executable, "-m", "episome", "corpus", "build"),
        *(files / "a.h5ad", files / "b.h5ad", "-o", tmp_path / "c"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
    folder = tmp_path / ".c.building"
    for _ in range(600):
        if (folder / "state.json").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    assert process.returncode in {0, 143}  # it may have been ready before the signal came
    assert done.returncode == 0, done.stderr
    assert CorpusSource(tmp_path / "c").n_obs == 240
    assert not folder.exists()
