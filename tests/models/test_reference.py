"""Weights of published TabNets: their names, sizes, settings, and the model that they fill."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from episome.errors import (
    InputFileError,
    ModelFileError,
    ModelMismatchError,
    UntrustedModelError,
    UsageError,
)
from episome.models import (
    ReferenceWeights,
    WeightsFile,
    inert_classes,
    inert_dtype,
    number_from_bytes,
)
from episome.nn import TabNet

SIZES = {"n_d": 6, "n_a": 4, "n_steps": 2, "n_shared": 1, "n_independent": 2}
PUBLISHED = {
    "gamma": 1.3,
    "mask": "entmax15",
    "momentum": 0.02,
    "virtual_batch_size": 256,
    "lambda_sparse": 1e-5,
}


def network(**sizes: int) -> TabNet:
    torch.manual_seed(0)
    return TabNet(11, 3, **{**SIZES, **sizes}).eval()


def foreign_name(name: str) -> str:
    """Name of a tensor of a network with one shared layer in the published files."""
    kind, _, rest = name.partition(".")
    if kind == "input_norm":
        return f"encoder.initial_bn.{rest}"
    if kind == "head":
        return f"final_mapping.{rest}"
    number, _, rest = rest.partition(".")
    if kind == "first":
        return "encoder.initial_splitter.shared.shared_layers.0.weight"
    if kind == "attentions":
        part = "fc.weight" if rest == "weight" else rest.replace("norm", "bn.bn")
        return f"encoder.att_transformers.{number}.{part}"
    block = "initial_splitter" if number == "0" else f"feat_transformers.{int(number) - 1}"
    part, _, layer = rest.partition(".")
    if part == "specific":
        return f"encoder.{block}.specifics.glu_layers.{layer}.fc.weight"
    layer, _, value = layer.partition(".")
    place = "shared.glu_layers.0" if layer == "0" else f"specifics.glu_layers.{int(layer) - 1}"
    return f"encoder.{block}.{place}.bn.bn.{value}"


def foreign(net: TabNet) -> dict[str, torch.Tensor]:
    state = net.state_dict()
    return {foreign_name(k): v.T if k == "first.0" else v for k, v in state.items()}


def weights(net: TabNet | None = None, **more: object) -> ReferenceWeights:
    return ReferenceWeights("file.ckpt", foreign(net or network()), **more)


# --- names and sizes ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_renamed_weights_are_those_of_the_network_in_float32(dtype):
    net = network().to(dtype)

    renamed = weights(net, settings={"gamma": 2.0}, facts={"epoch": 3}).renamed()

    assert renamed.state.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        wanted = tensor.float() if tensor.is_floating_point() else tensor
        assert torch.equal(renamed.state[name], wanted), name
        assert renamed.state[name].dtype == wanted.dtype
    assert (renamed.file, renamed.settings, renamed.facts) == (
        "file.ckpt", {"gamma": 2.0}, {"epoch": 3},
    )  # fmt: skip


@pytest.mark.parametrize(
    "sizes", [{}, {"n_steps": 3, "n_d": 2}, {"n_independent": 0, "n_a": 7}], ids=str
)
def test_sizes_are_read_off_the_tensors(sizes):
    renamed = weights(network(**sizes)).renamed()

    assert renamed.sizes() == {**SIZES, **sizes}
    assert (renamed.n_inputs, renamed.n_outputs) == (11, 3)


def test_sizes_without_shared_layers_are_read_off_the_tensors():
    net = network(n_shared=0)

    assert ReferenceWeights("x", net.state_dict()).sizes() == {**SIZES, "n_shared": 0}


def test_a_subclass_keeps_its_fields_and_names_the_network():
    @dataclasses.dataclass(frozen=True, slots=True)
    class Ours(ReferenceWeights):
        genes: list[str] | None = None
        network: ClassVar[str] = "an Ours"
        writer: ClassVar[str] = "our script"

    renamed = Ours("file.ckpt", foreign(network()), genes=["a"]).renamed()

    assert (type(renamed), renamed.genes) == (Ours, ["a"])
    assert str(renamed.mismatch("a\n  reason " + "x" * 400)) == (
        f"the weights are not those of an Ours network in file.ckpt. a reason {'x' * 291}. "
        "To fix: pass the checkpoint as our script wrote it. [E-M34]"
    )


def test_other_tensors_are_refused():
    state = foreign(network())
    head = "final_mapping.weight"

    def refused(match, error, change):
        changed = {k: v for k, v in {**state, **change}.items() if v is not None}
        with pytest.raises(error, match=match):
            ReferenceWeights("file.ckpt", changed).renamed()

    refused(r"published TabNet network.*no reference TabNet has.*E-M34", ModelMismatchError,
            {"other": state[head]})  # fmt: skip
    refused(r"missing from.*E-M34", ModelMismatchError, {head: None})
    refused(r"not finite in file.ckpt: 1 of \d+, first: head.weight.*E-M07", ModelFileError,
            {head: state[head] * np.nan})  # fmt: skip
    without = {k: None for k in state if "att_" in k or "feat_" in k}
    refused(r"no decision step.*E-M34", ModelMismatchError, without)


# --- settings -------------------------------------------------------------------------------


def test_settings_that_contradict_the_tensors_are_refused():
    renamed = weights(settings={"n_d": 6, "n_a": 8, "n_steps": 9}).renamed()

    with pytest.raises(
        ModelMismatchError, match=r"n_a is 4 by the tensors, 8 by its hyper-parameters.*E-M34"
    ):
        renamed.require_agreement(renamed.sizes())
    agreeing = dataclasses.replace(renamed, settings={"n_d": 6, "n_shared": 1, "gene_dim": 5})
    agreeing.require_agreement(agreeing.sizes())


def test_free_settings_come_from_the_file_then_the_call_then_the_publication(caplog):
    settings = {"gamma": 2.0, "mask_type": "entmax", "momentum": 0.5, "n_d": 6}

    with caplog.at_level("INFO", "episome"):
        found = weights(settings=settings).free_settings(
            {"momentum": 0.5, "virtual_batch_size": 8, "gamma": None}, PUBLISHED, "the paper"
        )

    assert found == {
        "gamma": 2.0,
        "mask": "entmax15",
        "momentum": 0.5,
        "virtual_batch_size": 8,
        "lambda_sparse": 1e-5,
    }
    assert [r.getMessage() for r in caplog.records] == [
        "gamma=2.0, from the file",
        "mask=entmax15, from the file",
        "momentum=0.5, from the file",
        "virtual_batch_size=8, from the call",
        "lambda_sparse=1e-05, from the paper",
    ]


def test_free_settings_that_cannot_be_are_refused():
    def refused(match, error, said, **given):
        with pytest.raises(error, match=match):
            weights(settings=said).free_settings(given, PUBLISHED, "the paper")

    refused(r"say gamma=2.0, the call 1.5.*E-M34", ModelMismatchError, {"gamma": 2.0}, gamma=1.5)
    refused(r"say mask='entmax15', the call 'sparsemax'.*E-M34", ModelMismatchError,
            {"mask_type": "entmax"}, mask="sparsemax")  # fmt: skip
    refused(r"there is no mask 'softmax'.*E-M34", ModelMismatchError, {"mask_type": "softmax"})
    refused(r"mask='softmax'.*\"entmax15\", \"sparsemax\".*E-U30", UsageError, {}, mask="softmax")


# --- the model ------------------------------------------------------------------------------


def model_of(net: TabNet) -> SimpleNamespace:
    core = torch.nn.Module()
    core.net = net
    return SimpleNamespace(module=core.train(), is_trained_=False, history_=None, fit_={})


def test_a_filled_model_has_the_weights_and_is_trained():
    net = network()
    torch.manual_seed(1)
    model = model_of(TabNet(11, 3, **SIZES))

    weights(net, facts={"file": "file.ckpt", "epoch": 3}).renamed().fill(model)

    assert all(
        torch.equal(v, model.module.net.state_dict()[k]) for k, v in net.state_dict().items()
    )
    assert not model.module.net.training
    assert (model.is_trained_, model.history_) == (True, {})
    assert model.fit_ == {"source": "reference checkpoint", "file": "file.ckpt", "epoch": 3}


def test_a_model_of_other_sizes_is_refused_and_not_trained():
    model = model_of(network(n_d=5))

    with pytest.raises(ModelMismatchError, match=r"size mismatch.*E-M34"):
        weights().renamed().fill(model)

    assert not model.is_trained_


# --- files ----------------------------------------------------------------------------------


def test_a_file_of_weights_has_to_be_there(tmp_path):
    with pytest.raises(InputFileError, match=r"no such file.*x\.pt.*E-F07"):
        WeightsFile.at(tmp_path / "x.pt")
    with pytest.raises(InputFileError, match=r"the path is a folder.*E-F07"):
        WeightsFile.at(tmp_path)


def test_safetensors_are_read_and_damaged_ones_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.arange(3.0)}, tmp_path / "good.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights at all")

    good = WeightsFile.at(str(tmp_path / "good.safetensors"))

    assert good.is_safetensors
    assert torch.equal(good.safetensors()["a"], torch.arange(3.0))
    with pytest.raises(ModelFileError, match=r"cannot be read as weights.*bad.*E-M31"):
        WeightsFile.at(tmp_path / "bad.safetensors").safetensors()


def test_facts_of_a_file_are_its_hash_and_whole_numbers(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"content")

    facts = WeightsFile.at(path).facts({"epoch": 3, "global_step": "many", "loops": 7})

    assert not WeightsFile.at(path).is_safetensors
    assert facts == {
        "file": "a.ckpt", "sha256": hashlib.sha256(b"content").hexdigest(), "epoch": 3,
    }  # fmt: skip


def test_errors_of_a_file_do_not_repeat_the_advice_of_torch():
    file = WeightsFile(Path("a.ckpt"))

    plain = str(file.unreadable(pickle.UnpicklingError("set weights_only=False")))
    other = str(file.unreadable(RuntimeError("\nline one\nline two")))

    assert "its content is no plain data" in plain
    assert "weights_only" not in plain
    assert "RuntimeError: line one" in other
    assert "line two" not in other
    assert "own words" in str(file.unreadable("own words"))


def test_a_file_that_names_code_is_refused_with_the_names():
    file = WeightsFile(Path("a.ckpt"))

    error = file.untrusted(["posix.mkdir", "os.a"])

    assert isinstance(error, UntrustedModelError)
    assert "a.ckpt: 2, first: os.a, posix.mkdir" in str(error)
    assert "save torch.save(module.state_dict(), 'weights.pt') there" in str(error)
    assert "ask its maker" in str(file.untrusted(["x"], fix="ask its maker"))


def test_inert_classes_bear_the_names_and_do_nothing():
    made = inert_classes(["torch.optim.adamw.AdamW", "builtins.print"])

    assert [(c.__module__, c.__name__) for c in made] == [
        ("torch.optim.adamw", "AdamW"),
        ("builtins", "print"),
    ]
    assert torch.optim.AdamW not in made
    assert all(vars(c()) == {} for c in made)
    with pytest.raises(TypeError):
        made[1]("words")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", [np.float64(0.005), np.int64(-3), np.bool_(True)[()]])
def test_numbers_are_rebuilt_from_their_bytes(value, order):
    kind = inert_dtype()(value.dtype.str[1:], False, True)
    kind.__setstate__((3, order, None, None, None, -1, -1, 0))

    data = np.array([value]).astype(value.dtype.newbyteorder(order)).tobytes()
    number = number_from_bytes(kind, data)

    assert number == value
    assert (inert_dtype().__module__, inert_dtype().__name__) == ("numpy", "dtype")


def test_what_is_no_number_is_not_rebuilt():
    for kind in (inert_dtype()("O8"), inert_dtype()("f8, f8"), np.dtype("f8"), "f8", None):
        with pytest.raises(pickle.UnpicklingError, match="no number"):
            number_from_bytes(kind, b"\0" * 16)
