"""The folder of a run: exact state, sealed, one owner, one run."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from episome.errors import ModelFileError, ResourceError, UsageError
from episome.train import RunFolder
from episome.train._packing import pack, unpack


def test_what_is_packed_comes_back_exactly():
    shared = torch.arange(6.0).reshape(2, 3)
    value = {
        "weights": [shared, shared.t(), torch.tensor(3, dtype=torch.bfloat16)],
        "state": {0: {"step": torch.tensor(2.0)}, "$x": 1},
        "numbers": (0.1, float("-inf"), float("nan"), np.float32(0.3), None, True),
        "array": np.array([1, 2], dtype=np.int16),
    }

    text, tensors = pack(value)
    back = unpack(text, tensors)

    for one, other in zip(value["weights"], back["weights"], strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert back["state"] == {0: {"step": torch.tensor(2.0)}, "$x": 1}
    assert isinstance(back["numbers"], tuple)
    assert back["numbers"][:2] == (0.1, float("-inf"))
    assert np.isnan(back["numbers"][2])
    assert back["numbers"][3:] == (float(np.float32(0.3)), None, True)
    assert (back["array"].dtype, back["array"].tolist()) == (np.int16, [1, 2])


def test_what_is_no_plain_data_is_named():
    with pytest.raises(TypeError, match=r"state\['callbacks'\]\[1\] is a object"):
        pack({"callbacks": [1, object()]})


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def kept(folder, facts, value=1):
    with folder.opened(facts, resume="auto") as run:
        run.part(1).save({"value": value})


def test_a_checkpoint_belongs_to_its_run(folder):
    kept(folder, {"seed": 0}, value=7)

    with folder.opened({"seed": 0}, resume="auto") as run:
        assert run.part(1).state() == {"value": 7}
        assert run.part(2).state() is None
        assert run.part(1).finished() is None


def test_another_run_is_refused_by_what_differs(folder):
    kept(folder, {"seed": 0, "genes": "a" * 64, "classes": ["B", "T"]})

    other = {"seed": 1, "genes": "b" * 64, "classes": ["B", "T"]}
    text = r"2 of 3, first: seed \(0, now 1\), genes\. different: seed, genes.*E-T13"
    with pytest.raises(UsageError, match=text), folder.opened(other, resume="auto"):
        pass
    with folder.opened(other, resume="never") as run:
        assert run.part(1).state() is None


def test_nothing_done_is_nothing_to_agree_with(folder):
    with folder.opened({"seed": 0}, resume="auto"):
        assert folder.path.is_dir()

    assert not folder.path.exists()
    with pytest.raises(UsageError, match="E-T03"), folder.opened({}, resume="must"):
        pass


def test_one_flipped_bit_is_refused(folder):
    kept(folder, {}, value=torch.zeros(3))
    file = folder.path / "checkpoint" / "state.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    with (
        pytest.raises(ModelFileError, match=r"checksum.*resume=\"never\".*E-T03"),
        folder.opened({}, resume="auto") as run,
    ):
        run.part(1).state()


def test_a_second_owner_is_told_who_the_first_is(folder):
    with folder.opened({}, resume="auto"):
        text = rf"process {os.getpid()} on .*E-R05"
        with (
            pytest.raises(ResourceError, match=text),
            RunFolder(folder.path).opened({}, resume="auto"),
        ):
            pass


def test_the_lock_of_a_dead_process_is_taken_over(folder):
    folder.path.mkdir()
    pid = os.fork()
    if pid == 0:
        held = folder.opened({}, resume="auto")
        held.__enter__()
        os._exit(0)
    os.waitpid(pid, 0)
    assert f"process {pid}" in (folder.path / "lock").read_text()

    with folder.opened({}, resume="auto"):
        assert f"process {os.getpid()}" in (folder.path / "lock").read_text()


def test_a_write_that_was_killed_leaves_the_one_before(folder):
    kept(folder, {}, value=1)
    (folder.path / ".checkpoint.tmp-abc").mkdir()
    (folder.path / ".checkpoint.tmp-abc" / "state.json").write_text("{")

    with folder.opened({}, resume="auto") as run:
        assert run.part(1).state() == {"value": 1}
        assert not list(folder.path.glob(".checkpoint.tmp-*"))


def test_facts_that_are_no_json_are_damage(folder):
    kept(folder, {})
    (folder.path / "run.json").write_text(json.dumps([1]))

    with pytest.raises(ModelFileError, match="E-T03"), folder.opened({}, resume="auto"):
        pass
