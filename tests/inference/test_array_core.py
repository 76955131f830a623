"""`ArrayCore`: strict about its arrays."""

from __future__ import annotations

import numpy as np
import pytest

from episome.errors import ModelFileError
from episome.inference import ArrayCore


class Core(ArrayCore):
    array_names = ("a", "b")

    def prepare(self):
        self.require("a", int(self.config["n_features"]), None)

    def forward(self, batch):
        return {"latent": batch["X"] @ self.arrays["a"]}


def test_arrays_survive_state_and_load():
    core = Core.from_config({"n_features": 2}).fill(a=np.arange(6.0).reshape(3, 2).T, b=np.ones(1))
    tensors, files = core.state()

    again = Core.from_config(core.config)
    again.load_state(tensors, files)

    x = np.array([[1.0, 2.0]])
    assert np.array_equal(again.forward({"X": x})["latent"], core.forward({"X": x})["latent"])
    assert all(v.flags.c_contiguous for v in [*tensors.values(), *core.arrays.values()])
    assert core.to("cuda") is core


@pytest.mark.parametrize(
    "arrays",
    [{"a": np.ones((2, 1))}, {"a": np.ones((2, 1)), "b": np.ones(1), "c": np.ones(1)}, {}],
)
def test_missing_and_unknown_arrays_are_named(arrays):
    with pytest.raises(ModelFileError, match=r"the weights do not fit.*first: .*E-M06"):
        Core(n_features=2).fill(**arrays)


@pytest.mark.parametrize("shape", [(3, 1), (2,), (2, 1, 1)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ModelFileError, match=r"a has shape .*\(2, None\) is expected.*E-M06"):
        Core(n_features=2).fill(a=np.ones(shape), b=np.ones(1))
