"""Weights that a published TabNet implementation wrote, for a model of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Self

from episome.data import require_choice
from episome.errors import ModelMismatchError
from episome.log import get_logger
from episome.models._weights_file import require_finite_weights
from episome.nn import rename_reference_state

if TYPE_CHECKING:
    import torch

    from episome.models._network import NetworkModel

logger = get_logger(__name__)

_MASKS = {"entmax": "entmax15", "entmax15": "entmax15", "sparsemax": "sparsemax"}


@dataclass(frozen=True, slots=True)
class ReferenceWeights:
    """What a file of a published TabNet implementation holds.

    A subclass says in ``network`` and ``writer`` how messages name the network and what wrote the
    file.

    Parameters
    ----------
    file
        Its name.
    state
        Tensors by name: the file's names, after :meth:`renamed` those of ``episome.nn.TabNet``.
    settings
        Plain settings that the file holds beside them; empty for bare weights.
    facts
        What else is known of the training.
    """

    file: str
    state: Mapping[str, torch.Tensor]
    settings: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)

    network: ClassVar[str] = "a published TabNet"
    writer: ClassVar[str] = "the published code"
    #: Settings that shapes do not tell.
    FREE: ClassVar[tuple[str, ...]] = (
        "gamma",
        "mask",
        "momentum",
        "virtual_batch_size",
        "lambda_sparse",
    )

    def mismatch(self, why: str) -> ModelMismatchError:
        """Return the error of weights that are not those of the network (E-M34)."""
        return ModelMismatchError(
            "E-M34",
            f"the weights are not those of {self.network} network",
            where=self.file,
            why=" ".join(why.split())[:300],
            fix=f"pass the checkpoint as {self.writer} wrote it",
        )

    def renamed(self) -> Self:
        """Return the same in float32 and under the names of ``episome.nn.TabNet``.

        Raises
        ------
        ModelMismatchError
            A tensor is missing or foreign, or there is no decision step (E-M34).
        ModelFileError
            Weights are not finite (E-M07).
        """
        plain = {k: v.float() if v.is_floating_point() else v for k, v in self.state.items()}
        try:
            state = rename_reference_state(plain)
        except ValueError as error:
            raise self.mismatch(str(error)) from error
        require_finite_weights(state, self.file)
        if "attentions.0.weight" not in state:
            why = "it has no decision step"
            raise self.mismatch(why)
        return replace(self, state=state)

    @property
    def n_inputs(self) -> int:
        """Number of genes that enter, of renamed weights."""
        return self.state["input_norm.weight"].shape[0]

    @property
    def n_outputs(self) -> int:
        """Number of classes, of renamed weights."""
        return self.state["head.weight"].shape[0]

    def sizes(self) -> dict[str, int]:
        """Sizes of the network, read off the names and shapes of renamed tensors."""

        def count(pattern: str) -> int:
            return sum(bool(re.fullmatch(pattern, name)) for name in self.state)

        n_shared = 0 if count(r"first\.\d+") > 1 else 1 + count(r"shared\.\d+")
        return {
            "n_d": self.state["head.weight"].shape[1],
            "n_a": self.state["attentions.0.weight"].shape[1],
            "n_steps": count(r"attentions\.\d+\.weight"),
            "n_shared": n_shared,
            "n_independent": count(r"transformers\.0\.norms\.\d+\.weight") - n_shared,
        }

    def require_agreement(self, sizes: Mapping[str, int]) -> None:
        """Refuse settings of the file that contradict its tensors.

        Parameters
        ----------
        sizes
            What the tensors say, from :meth:`sizes`.

        Raises
        ------
        ModelMismatchError
            They differ (E-M34).
        """
        for name, size in sizes.items():
            said = self.settings.get(name, size)
            if said != size:
                why = f"{name} is {size} by the tensors, {said} by its hyper-parameters"
                raise self.mismatch(why)

    def free_settings(
        self, given: Mapping[str, object], published: Mapping[str, object], source: str
    ) -> dict[str, object]:
        """Return what shapes do not tell: from the file, else from the caller, else as published.

        Where each comes from is logged.

        Parameters
        ----------
        given
            Wishes of the caller by name; ``None`` is none.
        published
            Value of every setting where neither says it.
        source
            How the log names the place of the published values.

        Returns
        -------
        A value for each of ``FREE``.

        Raises
        ------
        UsageError
            The caller wishes a mask that there is not (E-U30).
        ModelMismatchError
            File and caller differ, or the file has a mask that there is not (E-M34).
        """
        masks = tuple(dict.fromkeys(_MASKS.values()))
        if given.get("mask") is not None:
            require_choice("mask", given["mask"], masks)
        said = dict(self.settings)
        if "mask_type" in said:
            said["mask"] = _MASKS.get(str(said["mask_type"]), said["mask_type"])
        settings: dict[str, object] = {}
        for name in self.FREE:
            value, wish = said.get(name), given.get(name)
            if value is not None and wish is not None and wish != value:
                why = f"its hyper-parameters say {name}={value!r}, the call {wish!r}"
                raise self.mismatch(why)
            places = ((value, "the file"), (wish, "the call"), (published[name], source))
            settings[name], place = next(found for found in places if found[0] is not None)
            logger.info("%s=%s, from %s", name, settings[name], place)
        if settings["mask"] not in masks:
            why = f"there is no mask {settings['mask']!r}"
            raise self.mismatch(why)
        return settings

    def fill(self, model: NetworkModel) -> None:
        """Give renamed weights to a model and mark it as trained.

        Parameters
        ----------
        model
            Its core holds a ``TabNet`` of these sizes as ``net``. ``fit_`` becomes the facts of
            the file.

        Raises
        ------
        ModelMismatchError
            Tensors have other shapes (E-M34).
        """
        try:
            model.module.get_submodule("net").load_state_dict(self.state)
        except RuntimeError as error:
            raise self.mismatch(str(error)) from error
        model.module.eval()
        model.is_trained_ = True
        model.history_ = {}
        model.fit_ = {"source": "reference checkpoint", **self.facts}
