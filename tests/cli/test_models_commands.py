"""`episome models` from end to end, with a server on this machine for the hub."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
from pathlib import Path

import jsonschema
import pytest
import yaml
from _hub import serving
from _program import in_own_process, program, refused, tree

from episome.cli._answers import answer_schema
from episome.data import simulate_cells
from episome.jobs import missing_of_card
from episome.models import load

SCHEMA = answer_schema("")
NAME = "my-lab/toy"
SAID = (
    *("--license", "mit", "--training-data", "simulated | cells", "--intended-use", "tests"),
    *("--limits", "no <real> cells", "--tissue", "none", "--assay", "none"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, an ensemble, a model that embeds, labelled cells and their scores."""
    folder = tmp_path_factory.mktemp("models")
    cells = simulate_cells(260, 40, n_types=3, n_donors=5)
    cells[:200].copy().write_h5ad(folder / "reference.h5ad")
    cells[200:].copy().write_h5ad(folder / "labelled.h5ad")
    labelled = ("--labels-key", "cell_type", "--donor-key", "donor_id")
    train = ("train", "centroid", folder / "reference.h5ad", *labelled)
    assert program(*train, "-o", folder / "model").exit_code == 0
    two = ("train", "knn", folder / "reference.h5ad", *labelled, "--ensemble", 2)
    assert program(*two, "-o", folder / "two").exit_code == 0
    pca = ("train", "pca", folder / "reference.h5ad", "--set", "n_components=3")
    assert program(*pca, "-o", folder / "pca").exit_code == 0
    scores = ("evaluate", folder / "labelled.h5ad", "-m", folder / "model", "--draws", 10)
    more = (*labelled, "-o", folder / "scores.json")
    assert program(*scores, *more).exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EPISOME_HOME", str(tmp_path.parent / f"{tmp_path.name}-home"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def model(made):
    """A copy of the model in the working folder, that a test may change."""
    shutil.copytree(made / "model", "model")
    return Path("model")


@pytest.fixture
def hub(monkeypatch):
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield server


def answer(result):
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    jsonschema.validate(found, SCHEMA)
    assert found["ok"] is (result.exit_code == 0)
    return found


def done(*words):
    result = program(*words)
    assert result.exit_code == 0, result.output
    return result


def files_of(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


# -- on this machine -----------------------------------------------------------------------------


def test_list_shows_folders_and_an_empty_cache(made):
    assert "no model is in the cache" in done("models").stdout
    found = answer(done("models", "list", made, "--json"))["models"]

    assert {Path(m["name"]).name: m["n_members"] for m in found} == {
        "model": 1,
        "two": 2,
        "pca": 1,
    }
    assert {m["spec"] for m in found} == {"centroid", "knn", "pca"}
    assert "NearestCentroid (baselines:centroid)" in done("models", "list", made / "model").stdout
    refused(4, "E-M05", "models", "list", "nowhere")


def test_list_says_which_folder_cannot_be_used(model):
    (model / "manifest.sha256").write_text("0  manifest.json\n")

    assert "model  cannot be used: a damaged file" in done("models", "list", ".").stdout


def test_show_says_what_the_folder_knows(made):
    text = done("models", "show", made / "two").stdout
    found = answer(done("models", "show", made / "model", "--json"))

    assert "3 classes: type 0, type 1, type 2" in text
    assert "2 members" in text
    assert found["n_genes"] == 40
    assert found["card_lacks"] == ["card"]
    assert "\n# PCAEmbedding of episome\n" in done("models", "show", made / "pca", "--card").stdout


@pytest.mark.parametrize("name", ["model", "two"])
def test_verify_looks_at_every_byte(made, name):
    shutil.copytree(made / name, "copy")
    weights = next(p for p in Path("copy").rglob("weights.safetensors"))

    assert "are as they were sealed" in done("models", "verify", "copy").stdout
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)

    refused(4, "E-M03", "models", "verify", "copy", match="weights")


def test_light_commands_import_nothing_heavy(made):
    for words in (("models",), ("models", "list", made), ("models", "--help")):
        ran = in_own_process(*words)
        assert ran.returncode == 0
        assert "HEAVY []" in ran.stderr


# -- cards ---------------------------------------------------------------------------------------


def front_of(card: Path) -> dict:
    return yaml.safe_load(card.read_text().split("---\n")[1])


def test_a_card_says_what_it_lacks_until_it_is_complete(made, model):
    lacks = answer(done("models", "card", model, "--json"))["card_lacks"]
    assert set(lacks) == {
        *("license", "training_data", "intended_use", "limits", "metrics", "data_digest"),
    }
    refused(4, "E-M21", "models", "card", model, "--check", match="6 of 6.*--license")
    assert answer(done("models", "card", model, *SAID, "--json"))["card_lacks"] == [
        "metrics", "data_digest",
    ]  # fmt: skip
    done("models", "card", model, "--evaluation", made / "scores.json")

    assert missing_of_card(model) == []
    done("models", "card", model, "--check")
    load(model)


def test_a_card_has_every_section_and_front_matter_for_the_hub(made, model):
    done("models", "card", model, *SAID, "--evaluation", made / "scores.json")
    scores = json.loads((made / "scores.json").read_text())

    text, front = (model / "README.md").read_text(), front_of(model / "README.md")
    sections = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert sections == [
        *("Intended use", "Limits", "Training data", "Input", "Classes", "Evaluation"),
        *("Confidence", "Cost", "Provenance", "Licence", "How to cite"),
    ]
    assert (front["license"], front["library_name"]) == ("mit", "episome")
    (results,) = front["model-index"][0]["results"]
    assert results["dataset"]["name"] == "labelled.h5ad"
    values = {m["type"]: m["value"] for m in results["metrics"]}
    assert values["f1_macro"] == pytest.approx(scores["scores"]["f1_macro"], abs=1e-6)
    digest = hashlib.sha256((made / "labelled.h5ad").read_bytes()).hexdigest()
    assert digest in text
    for row in scores["classes"]:
        assert f"| {row['class']} | {row['n_true']} | " in text
    for name, entry in json.loads((model / "manifest.json").read_text())["files"].items():
        assert f"SHA-256 of {name}: `{entry['sha256']}`" in text
    assert "no <real> cells" in text  # what people wrote stays as they wrote it
    assert re.search(r"Seconds of training: \d", text)


def test_what_was_said_stays_and_text_changed_by_hand_is_kept(model):
    done("models", "card", model, *SAID)
    done("models", "card", model, "--limits", "adults alone")

    front = front_of(model / "README.md")
    assert front["license"] == "mit"
    assert front["episome"]["limits"] == "adults alone"
    card = model / "README.md"
    card.write_text(card.read_text() + "\nMy own words.\n")
    refused(3, "E-F26", "models", "card", model, "--license", "bsd-3-clause")
    assert missing_of_card(model) == ["metrics", "data_digest"]
    done("models", "card", model, "--license", "bsd-3-clause", "--overwrite")
    assert "My own words" not in card.read_text()


@pytest.mark.parametrize("name", ["two", "pca"])
def test_cards_of_ensembles_and_of_models_without_classes(made, name):
    shutil.copytree(made / name, "copy")
    metric = ("--metric", "error=0.25", "--tested-on", made / "labelled.h5ad")

    assert answer(done("models", "card", "copy", *SAID, *metric, "--json"))["card_lacks"] == []

    text = Path("copy/README.md").read_text()
    assert "- error: 0.25" in text
    assert ("the mean of 2 models" in text) is (name == "two")
    assert ("does not annotate cells" in text) is (name == "pca")
    load("copy")


def test_scores_of_another_model_are_refused(made, model):
    train = (
        "train",
        "centroid",
        made / "labelled.h5ad",
        "--labels-key",
        "cell_type",
        "-o",
        "other",
    )
    done(*train)

    refused(4, "E-M22", "models", "card", "other", "--evaluation", made / "scores.json")
    Path("wrong.json").write_text('{"scores": {}}')
    refused(2, "E-U117", "models", "card", model, "--evaluation", "wrong.json")
    refused(2, "E-U02", "models", "card", model, "--metric", "error", match="NAME=NUMBER")
    (model / "README.md").write_text("---\nlicense: [\n---\n")
    refused(2, "E-U118", "models", "card", model)


def test_a_card_of_other_weights_is_no_card(made, model):
    done("models", "card", model, *SAID, "--evaluation", made / "scores.json")
    card = (model / "README.md").read_bytes()
    done("train", "majority", made / "reference.h5ad", "--labels-key", "cell_type", "-o", "other")
    Path("other/README.md").write_bytes(card)

    refused(4, "E-M21", "models", "card", "other", "--check", match="no card of its own")


# -- the hub -------------------------------------------------------------------------------------


def test_pull_brings_a_model_that_every_command_finds_by_name(made, hub):
    commit = hub.commit(NAME, files_of(made / "model"))

    found = answer(done("models", "pull", NAME, "--json"))

    assert (found["commit"], found["known"]) == (commit, False)
    pulled = Path(found["outputs"][0]["path"])
    assert files_of(pulled) == files_of(made / "model")
    assert NAME in done("models", "list").stdout
    assert commit in done("models", "list").stdout
    done("models", "verify", NAME)
    hub.asked.clear()
    done("annotate", made / "labelled.h5ad", "-m", NAME, "-o", "calls.csv")
    done("check", made / "labelled.h5ad", "-m", NAME)
    done("evaluate", made / "labelled.h5ad", "-m", NAME, "--labels-key", "cell_type", "--draws", 5)
    assert load(NAME).is_trained_
    assert hub.asked == []


def test_pull_again_fetches_nothing_and_another_commit_is_asked_for(made, hub):
    hub.commit(NAME, files_of(made / "model"))
    done("models", "pull", NAME)
    hub.asked.clear()

    assert "it was there already" in done("models", "pull", NAME).stdout
    assert not any("/resolve/" in asked for asked in hub.asked)
    other = hub.commit(NAME, files_of(made / "two"))
    assert program("models", "pull", NAME).exit_code == 3
    assert answer(done("models", "pull", NAME, "--overwrite", "--json"))["commit"] == other
    assert "2 members" in done("models", "show", NAME).stdout


def test_pull_of_a_revision_into_a_folder(made, hub):
    first = hub.commit(NAME, files_of(made / "model"))
    hub.commit(NAME, files_of(made / "two"))

    done("models", "pull", NAME, "--revision", first, "-o", "here")

    assert files_of(Path("here")) == files_of(made / "model")
    assert "no model is in the cache" in done("models").stdout
    refused(3, "E-F26", "models", "pull", NAME, "-o", "here")


def test_only_what_the_manifest_names_is_fetched(made, hub):
    evil = {"run_me.py": b"1/0", "model.pkl": b"x", "../out": b"x", "pytorch_model.bin": b"x"}
    hub.commit(NAME, {**files_of(made / "model"), **evil})

    done("models", "pull", NAME, "-o", "here")

    assert files_of(Path("here")) == files_of(made / "model")


@pytest.mark.parametrize("how", ["bit", "cut", "missing", "seal", "no model"])
def test_what_is_damaged_on_the_way_is_refused_and_nothing_stays(made, hub, how):
    files = files_of(made / "model")
    weights = files["weights.safetensors"]
    if how == "bit":
        files["weights.safetensors"] = weights[:-1] + bytes([weights[-1] ^ 1])
    elif how == "cut":
        files["weights.safetensors"] = weights[:-10]
    elif how == "missing":
        del files["weights.safetensors"]
    elif how == "seal":
        files["manifest.json"] += b" "
    else:
        files = {"config.json": b"{}"}
    hub.commit(NAME, files)

    result = program("models", "pull", NAME, "--json")

    found = answer(result)["error"]
    expected = {"missing": (7, "E-N03"), "no model": (7, "E-N03")}.get(how, (4, "E-M03"))
    assert (result.exit_code, found["code"]) == expected
    assert "no model is in the cache" in done("models").stdout
    assert tree() == {}


def test_names_and_revisions_that_there_are_not(made, hub):
    hub.commit(NAME, files_of(made / "model"))

    refused(7, "E-N03", "models", "pull", "my-lab/other", match="404.*correct the name")
    refused(7, "E-N03", "models", "pull", NAME, "--revision", "v9")
    refused(2, "E-U119", "models", "pull", "../etc", match="owner/name")
    refused(2, "E-U119", "models", "pull", "noslash")
    refused(4, "E-M05", "annotate", made / "labelled.h5ad", "-m", "my-lab/never-pulled")


def test_without_a_network_the_cache_is_answered(made, hub, monkeypatch):
    hub.commit(NAME, files_of(made / "model"))
    refused(7, "E-N04", "models", "pull", NAME, "--offline", match="not in the cache")
    done("models", "pull", NAME)
    hub.asked.clear()

    found = answer(done("models", "pull", NAME, "--offline", "--json"))

    assert found["known"]
    assert hub.asked == []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        refused(7, "E-N01", "models", "pull", NAME, match="cannot be reached.*models list")
    monkeypatch.setenv("HF_ENDPOINT", "http://example.com")
    refused(7, "E-N02", "models", "pull", NAME, match="HF_ENDPOINT")


def test_rm_removes_from_the_cache_and_nothing_else(made, hub, model):
    hub.commit(NAME, files_of(made / "model"))
    done("models", "pull", NAME)

    refused(2, "E-U116", "models", "rm", "model", match="folder of your own")
    assert answer(done("models", "rm", NAME, "--json"))["n_bytes"] > 0
    assert "no model is in the cache" in done("models").stdout
    refused(2, "E-U116", "models", "rm", NAME)
    assert model.is_dir()


def test_a_cached_model_that_was_changed_is_noticed(made, hub):
    hub.commit(NAME, files_of(made / "model"))
    pulled = Path(answer(done("models", "pull", NAME, "--json"))["outputs"][0]["path"])
    shutil.rmtree(pulled)
    shutil.copytree(made / "pca", pulled)

    refused(4, "E-M03", "models", "verify", NAME, match="not the one that was pulled")


@pytest.mark.parametrize("name", ["model", "two"])
def test_push_and_pull_give_the_same_folder(made, hub, monkeypatch, name):
    shutil.copytree(made / name, "copy")
    (Path("copy") / "notes.txt").write_text("mine")
    more = ("--evaluation", made / "scores.json") if name == "model" else ()
    metric = () if more else ("--metric", "f1=0.9", "--tested-on", made / "labelled.h5ad")
    done("models", "card", "copy", *SAID, *more, *metric)
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    # Another protocol, of a server of its own; what is pushed by it is the same.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)

    pushed = answer(done("models", "push", "copy", NAME, "--json"))
    done("models", "pull", NAME, "-o", "back")

    assert pushed["outputs"] == [{"path": f"{hub.url}/{NAME}"}]
    kept = {k: v for k, v in files_of(Path("copy")).items() if k != "notes.txt"}
    assert files_of(Path("back")) == kept
    assert sorted(pushed["files"]) == sorted(kept)


def test_push_refuses_an_incomplete_card_and_a_damaged_folder_before_any_connection(
    made, hub, model
):
    refused(4, "E-M21", "models", "push", model, NAME)
    done("models", "card", model, *SAID)
    refused(4, "E-M21", "models", "push", model, NAME, match="metrics.*--evaluation")
    done("models", "card", model, "--evaluation", made / "scores.json")
    found = answer(done("models", "push", model, NAME, "--dry-run", "--json"))
    assert found["dry_run"]
    (model / "genes.tsv").write_bytes(b"")
    refused(4, "E-M03", "models", "push", model, NAME)

    assert hub.asked == []


def test_push_without_a_login_says_how(made, hub, model):
    hub.token = "another"
    done("models", "card", model, *SAID, "--evaluation", made / "scores.json")

    refused(7, "E-N03", "models", "push", model, NAME, match="401.*hf auth login")
