"""Model folders: exact, sealed, and never executed."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.numpy import save

from episome.errors import InputFileError, ModelFileError, ModelMismatchError, UntrustedModelError
from episome.io import ModelFolder, read_manifest, read_model_folder, write_model_folder

SEALED = (
    "manifest.json",
    "manifest.sha256",
    "weights.safetensors",
    "genes.tsv",
    "labels.tsv",
    "history.csv",
    "files/tree.json",
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def test_what_is_read_is_what_was_written(folder, model):
    got, wanted = read_model_folder(folder), model(0)

    assert {k: v for k, v in got.manifest.items() if k in wanted.manifest} == wanted.manifest
    for name, tensor in wanted.tensors.items():
        assert got.tensors[name].dtype == tensor.dtype
        assert np.array_equal(got.tensors[name], tensor)
    assert got.genes == wanted.genes
    assert got.labels == wanted.labels
    np.testing.assert_array_equal(got.history["train_loss"], wanted.history["train_loss"])
    assert got.files == wanted.files
    assert got.card == wanted.card


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(names=st.lists(TEXT, min_size=1, max_size=4), loss=st.lists(st.floats(), max_size=4))
def test_names_and_numbers_of_any_kind_survive(tmp_path, names, loss):
    parts = ModelFolder(
        manifest={"note": names},
        tensors={"w": np.zeros(1, np.float32)},
        genes={"id": names},
        labels={"label": names, "ontology_term_id": names},
        history={"loss": loss},
    )

    got = read_model_folder(write_model_folder(tmp_path / "m", parts, overwrite=True))

    assert got.genes["id"] == tuple(names)
    assert got.labels["label"] == tuple(names)
    assert got.manifest["note"] == names
    np.testing.assert_array_equal(got.history["loss"], loss)


def test_the_same_model_gives_the_same_bytes(tmp_path, model):
    for name in ("a", "b"):
        write_model_folder(tmp_path / name, model(0))

    for name in (*SEALED, "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_checksums_can_be_checked_by_hand(folder):
    done = subprocess.run(
        ["sha256sum", "-c", "manifest.sha256"], cwd=folder, capture_output=True, check=False
    )

    assert done.returncode == 0


# -- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEALED)
def test_one_flipped_bit_is_refused_wherever_it_is(folder, name):
    file = folder / name
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    places = {0, len(data) - 1, *rng.integers(0, len(data), 12).tolist()}

    for place in places:
        for bit in (0, 4, 7):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            with pytest.raises(ModelFileError) as caught:
                read_model_folder(folder)
            assert caught.value.code == "E-M03"
            assert file.name in str(caught.value) or name == "manifest.sha256"


@pytest.mark.parametrize("name", SEALED)
def test_a_cut_or_longer_file_is_refused(folder, name):
    file = folder / name
    data = file.read_bytes()

    for damaged in (b"", data[:1], data[:-1], data[: len(data) // 2], data + b"\0"):
        file.write_bytes(damaged)
        with pytest.raises(ModelFileError, match="E-M03"):
            read_model_folder(folder)


@pytest.mark.parametrize("name", SEALED)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()

    with pytest.raises(ModelFileError, match=r"E-M05") as caught:
        read_model_folder(folder)

    assert os.path.basename(name) in str(caught.value)  # noqa: PTH119 - of a name, not a path


def test_extra_files_are_left_alone_and_said(folder, model, caplog):
    (folder / "notes.txt").write_text("mine")

    with caplog.at_level(logging.INFO, logger="episome"):
        got = read_model_folder(folder)

    assert "notes.txt" in caplog.text
    assert got.files == model(0).files


def test_the_card_may_be_edited_or_removed(folder):
    (folder / "README.md").write_text("my words")
    assert read_model_folder(folder).card == "my words"

    (folder / "README.md").unlink()
    assert read_model_folder(folder).card == ""


def test_links_are_refused(folder, tmp_path):
    target = tmp_path / "elsewhere"
    (folder / "genes.tsv").rename(target)
    (folder / "genes.tsv").symlink_to(target)

    with pytest.raises(ModelFileError, match=r"a link where a file should be.*E-M12"):
        read_model_folder(folder)


def test_a_linked_folder_of_files_is_refused(folder, tmp_path):
    (folder / "files").rename(tmp_path / "files")
    (folder / "files").symlink_to(tmp_path / "files")

    with pytest.raises(ModelFileError, match="E-M12"):
        read_model_folder(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "files/../../x",
        "files/a/b",
        "a/b",
        "..",
        "",
        ".hidden",
        "x\n",
        "C:\\x",
    ],
)
def test_names_that_leave_the_folder_are_refused(folder, reseal, name, tmp_path):
    (tmp_path / "x").write_text("secret")
    manifest = read_manifest(folder)
    reseal({"files": {**manifest["files"], name: {"sha256": "0", "size": 6}}})

    with pytest.raises(ModelFileError, match=r"E-M12"):
        read_model_folder(folder)


@pytest.mark.parametrize("name", ["../x", "a/b", ".x"])
def test_names_that_leave_the_folder_are_not_written(tmp_path, model, name):
    parts = model(0)
    bad = ModelFolder(parts.manifest, parts.tensors, parts.genes, files={name: b""})

    with pytest.raises(ModelFileError, match="E-M12"):
        write_model_folder(tmp_path / "deep" / "model", bad)
    assert list(tmp_path.rglob("x")) == []


@pytest.mark.parametrize(
    "files", [None, [], {"weights.safetensors": None}, {"weights.safetensors": {"size": "1"}}, {}]
)
def test_a_manifest_that_lists_no_proper_files_is_refused(folder, reseal, files):
    manifest = json.loads((folder / "manifest.json").read_text())
    entries = {**manifest["files"], **files} if isinstance(files, dict) and files else files
    text = json.dumps({**manifest, "files": entries}).encode()
    import hashlib

    (folder / "manifest.json").write_bytes(text)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")

    with pytest.raises(ModelFileError):
        read_model_folder(folder)


def test_a_newer_format_asks_for_an_upgrade_and_a_newer_minor_one_does_not(folder, reseal):
    reseal({"format_version": [1, 9]})
    assert read_manifest(folder)["format_version"] == [1, 9]

    reseal({"format_version": [2, 0]})
    with pytest.raises(ModelMismatchError, match=r"pip install -U episome.*E-M10"):
        read_model_folder(folder)


# -- pickles -------------------------------------------------------------------------------------


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture
def payload(tmp_path):
    """A pickle and the file that it would create."""
    mark = tmp_path / "executed"
    data = pickle.dumps(Payload(mark))
    pickle.loads(data).close()
    assert mark.exists()
    mark.unlink()
    return data, mark


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "model.ckpt"])
def test_a_pickle_alone_is_refused_by_name(tmp_path, payload, name):
    data, mark = payload
    place = tmp_path / "foreign"
    place.mkdir()
    (place / name).write_bytes(data)

    for path in (place, place / name):
        with pytest.raises(UntrustedModelError, match=r"may run code when it is loaded.*E-M02"):
            read_model_folder(path)
    assert not mark.exists()


def test_a_pickle_beside_the_model_is_never_opened(folder, payload):
    data, mark = payload
    for name in ("model.pt", "weights.pkl", "files/more.pkl"):
        (folder / name).write_bytes(data)

    read_model_folder(folder)

    assert not mark.exists()


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("name", ["weights.safetensors", "files/tree.json", "labels.tsv"])
def test_a_pickle_in_the_place_of_a_file_is_never_executed(folder, reseal, payload, name, sealed):
    data, mark = payload
    (folder / name).write_bytes(data)
    if sealed:
        reseal({})

    if sealed and name == "files/tree.json":
        # a core may own data files; they are handed over as bytes
        assert read_model_folder(folder).files["tree.json"] == data
    else:
        with pytest.raises(ModelFileError, match=r"E-M03|E-M04"):
            read_model_folder(folder)

    assert not mark.exists()


# -- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(folder, reseal, model, value):
    tensors = {"weight": np.array([1, value], np.float32)}
    before = (folder / "weights.safetensors").read_bytes()
    parts = model(0)

    with pytest.raises(ModelFileError, match=r"1 of 1, first: weight.*E-M07"):
        write_model_folder(folder, ModelFolder({}, tensors, parts.genes), overwrite=True)
    assert (folder / "weights.safetensors").read_bytes() == before

    (folder / "weights.safetensors").write_bytes(save(tensors))
    reseal({})
    with pytest.raises(ModelFileError, match="E-M07"):
        read_model_folder(folder)


def test_a_table_with_ragged_rows_is_refused(folder, reseal):
    (folder / "genes.tsv").write_text("id\tfeature_name\nA\ta\nB\n")
    reseal({})

    with pytest.raises(ModelFileError, match="E-M04"):
        read_model_folder(folder)


# -- where it goes -------------------------------------------------------------------------------


def test_a_model_is_replaced_only_when_asked_for(folder, model):
    with pytest.raises(InputFileError, match=r"exists already.*overwrite=True.*E-F26"):
        write_model_folder(folder, model(1))
    assert read_model_folder(folder).manifest["number"] == 0

    write_model_folder(folder, model(1), overwrite=True)

    assert read_model_folder(folder).manifest["number"] == 1
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path, model):
    place = tmp_path / "thesis"
    place.mkdir()
    (place / "chapter.txt").write_text("words")

    with pytest.raises(InputFileError, match=r"no model folder.*E-F26"):
        write_model_folder(place, model(0), overwrite=True)

    assert (place / "chapter.txt").read_text() == "words"


def test_an_empty_folder_is_used(tmp_path, model):
    (tmp_path / "new").mkdir()

    write_model_folder(tmp_path / "new", model(0), overwrite=True)

    assert read_manifest(tmp_path / "new")["number"] == 0


def test_what_is_no_model_folder_is_said(tmp_path):
    with pytest.raises(ModelFileError, match=r"there is no such folder.*E-M05"):
        read_model_folder(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match=r"holds no manifest.json.*E-M05"):
        read_model_folder(tmp_path)
