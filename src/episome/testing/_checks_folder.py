"""Checks of folders: exact, free of code, refused when damaged, the same in the predictor."""

from __future__ import annotations

import pickletools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.errors import EpisomeError, ModelFileError
from episome.testing._check import check, refuses, require, same

if TYPE_CHECKING:
    from episome.testing._subject import Subject

_STATE = "keep all state in the core's state(): tensors, and files for what is none"


@check(advice=_STATE)
def check_save_and_load_are_exact(subject: Subject) -> None:
    """A folder gives the same bits, without data and with them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        subject.trained.save(path)
        loaded = subject.cls.load(path)
        require(loaded.adata is None, "a model loaded without data holds some")
        same(subject.ask(loaded, subject.query), subject.answers, "load", exact=True)
        again = subject.cls.load(path, subject.data())
        same(subject.ask(again, subject.query), subject.answers, "load with data", exact=True)
        if subject.annotates:
            names: Any = again.labels
            mine: Any = subject.trained.labels
            require(names.names == mine.names, "the classes changed their order")


@check(advice=_STATE)
def check_a_second_save_writes_the_same_weights(subject: Subject) -> None:
    """Saving, loading and saving again gives the same tensors."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "first", Path(folder) / "second"
        subject.trained.save(first)
        subject.cls.load(first).save(second)
        name = "weights.safetensors"
        require((first / name).read_bytes() == (second / name).read_bytes(), "other weights")


@check(advice="hand files to the host by state(); write JSON, tables or a format of its own")
def check_folders_hold_no_code(subject: Subject) -> None:
    """No file of the folder is a pickle."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        subject.trained.save(path)
        for file in path.rglob("*"):
            require(not file.is_file() or not _is_pickle(file), f"{file.name} is a pickle")


@check(advice="save through the host's save()")
def check_a_folder_is_replaced_only_when_asked(subject: Subject) -> None:
    """Saving over a folder is refused without ``overwrite``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        subject.trained.save(path)
        refuses(EpisomeError, lambda: subject.trained.save(path), "saving over a folder")
        subject.trained.save(path, overwrite=True)
        subject.cls.load(path)


@check(advice="load through the host's load(), which checks every sealed file")
def check_a_damaged_folder_is_refused(subject: Subject) -> None:
    """A flipped bit in the weights, or a missing file, is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        subject.trained.save(path)
        weights = path / "weights.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        refuses(ModelFileError, lambda: subject.cls.load(path), "a flipped bit", code="E-M03")
        weights.unlink()
        refuses(ModelFileError, lambda: subject.cls.load(path), "a missing file")


@check(advice="put what prediction needs into the core, nothing onto the model class")
def check_the_predictor_of_a_folder_agrees(subject: Subject) -> None:
    """What the host predicts from the folder alone is what the model predicts."""
    from episome.inference import Predictor

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        subject.trained.save(path)
        predictor = Predictor.from_folder(path, device="cpu", core_cls=_core(subject))
        keys = {"annotation": "probabilities", "embedding": "latent", "translation": "target"}
        query = predictor.prepare(subject.query, min_gene_overlap=0.0)
        live = subject.trained.predictor()
        for capability, key in keys.items():
            if capability not in subject.capabilities:
                continue
            alone = predictor.collect(query, [key])[key]
            same({key: alone}, {key: live.collect(query, [key])[key]}, "a folder", exact=True)


def _core(subject: Subject) -> Any:
    """The class of the core, for a model that no plugin registers."""
    return None if subject.spec is not None else type(subject.trained.module)


@check(advice="keep the network's parameters in model.module, as scvi-tools does")
def check_export_for_scvi_tools_holds_the_weights(subject: Subject) -> None:
    """``save(format="scvi")`` writes scvi-tools' own file, with the same weights."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        subject.trained.save(path, format="scvi")
        # Written a line above, by this process.
        held = torch.load(path / "model.pt", map_location="cpu", weights_only=False)
        core: Any = subject.trained.module
        for name, value in core.state_dict().items():
            got = np.asarray(held["model_state_dict"][name])
            require(np.array_equal(got, np.asarray(value)), f"{name} is not the model's")


def _is_pickle(path: Path) -> bool:
    """Whether a file parses as a pickle to its end; nothing in it is executed."""
    try:
        operations = [op.name for op, _, _ in pickletools.genops(path.read_bytes())]
    except (ValueError, IndexError, UnicodeDecodeError):
        return False
    return operations[-1:] == ["STOP"]
