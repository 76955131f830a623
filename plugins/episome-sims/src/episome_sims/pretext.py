"""Self-supervised pretraining: genes are hidden, and the encoder learns to tell their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from episome import settings
from episome.errors import UsageError
from episome.nn import TabNetDecoder, TorchCore, hidden_value_loss, hidden_value_scale
from episome.train import LossPlan, check_plan_kwargs, check_trainer_kwargs, fit

if TYPE_CHECKING:
    from episome.train import CellDataModule, Fit
    from episome_sims.core import SIMSCore

DEFAULTS: dict[str, object] = {"lr": 2e-2, "weight_decay": 1e-5, "lr_schedule": "cosine"}


class Pretext(NamedTuple):
    """What a pretraining run left.

    Parameters
    ----------
    n_tensors
        Tensors of the encoder from which :meth:`SIMS.train` starts.
    fit
        Epochs, best epoch, seconds and the losses of every epoch.
    """

    n_tensors: int
    fit: Fit

    def facts(self, **more: object) -> dict[str, object]:
        """Return plain data for the model's folder."""
        run = self.fit
        facts = {
            "n_tensors": self.n_tensors,
            "n_epochs": run.n_epochs,
            "best_epoch": run.best_epoch,
            "n_updates": run.n_updates,
            "seconds": round(run.seconds, 2),
            **more,
        }
        if run.best_epoch is not None:
            losses = run.history["validation_loss"]
            facts["validation_loss"] = float(losses.loc[run.best_epoch].iloc[0])
        return facts


class PretextCore(TorchCore):
    """The encoder of a `SIMSCore`, a decoder, and the loss of hidden values.

    Every gene (or group of genes) of a cell is hidden with probability ``mask_rate``: its value is
    set to zero and no step may look at it. The encoder is that of ``core``, not a copy.

    Parameters
    ----------
    core
        The core whose encoder is trained.
    mask_rate
        Probability with which a gene is hidden, between 0 and 1.

    References
    ----------
    Arik and Pfister (2021), section on tabular self-supervised learning.
    """

    def __init__(self, core: SIMSCore, mask_rate: float) -> None:
        super().__init__()
        net, config = core.net, core.config
        self.config = {"n_features": config["n_features"]}
        self.core, self.mask_rate = core, mask_rate
        self.decoder = TabNetDecoder(
            net.n_features,
            n_d=net.n_d,
            n_steps=net.n_steps,
            virtual_batch_size=int(config["virtual_batch_size"]),
            momentum=float(config["momentum"]),
            ghost_rounding=config["ghost_rounding"],
        )

    def hide(self, batch: dict[str, object]) -> torch.Tensor:
        """Return which groups of genes are hidden, float (B, n_groups).

        Drawn anew in training; in validation the same for a batch of cells in every epoch, so that
        epochs can be compared.
        """
        groups, x = self.core.net.groups, batch["X"]
        width = self.core.net.n_features if groups is None else groups.n_groups
        if self.training:
            draws = torch.rand(len(x), width, device=x.device)
        else:
            seed = settings.stream_seed("mask") ^ int(batch["ind_x"][0])
            generator = torch.Generator().manual_seed(seed)
            draws = torch.rand(len(x), width, generator=generator).to(x.device)
        return (draws < self.mask_rate).to(x.dtype)

    def reconstruct(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Return the values that encoder and decoder expect.

        Parameters
        ----------
        x
            Values as they enter the network, (B, G).
        hidden
            1 for hidden groups, else 0, (B, n_groups).

        Returns
        -------
        (B, G).
        """
        seen = x * (1 - self.per_gene(hidden))
        decisions, _, _ = self.core.net.run_steps(seen, prior=1 - hidden)
        return self.decoder(decisions)

    def per_gene(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden genes (B, G) of hidden groups (B, n_groups)."""
        groups = self.core.net.groups
        return hidden if groups is None else hidden[:, groups.group_of]

    def forward(self, batch: dict[str, object]) -> dict[str, torch.Tensor]:
        """Return ``mean``, the expected values, and ``hidden``, which genes were hidden."""
        hidden = self.hide(batch)
        mean = self.reconstruct(self.core.inputs(batch["X"]), hidden)
        return {"mean": mean, "hidden": self.per_gene(hidden)}

    def loss(self, batch: dict[str, object]) -> torch.Tensor:
        """Return the loss of the hidden values of a batch."""
        out, target = self(batch), self.core.inputs(batch["X"])
        scale = hidden_value_scale(target)
        return hidden_value_loss(out["mean"], target, out["hidden"], scale)


def encoder_names(core: SIMSCore) -> list[str]:
    """Names of all tensors of the encoder: those of the network but its head."""
    return [f"net.{name}" for name in core.net.state_dict() if name != "head.weight"]


def checked_arguments(
    mask_rate: float,
    plan_kwargs: Mapping[str, object] | None,
    trainer_kwargs: Mapping[str, object],
    max_epochs: int,
    batch_size: int,
) -> dict[str, object]:
    """Return the settings of the plan; refuse what is impossible before anything is computed.

    Raises
    ------
    UsageError
        A rate outside (0, 1) (E-U15), numbers below one (E-U22), unknown keys (E-U14, E-U16).
    """
    for name, value in (("max_epochs", max_epochs), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError("E-U22", f"{name}={value}", fix=f"pass {name} of at least 1")
    if not 0 < mask_rate < 1:
        raise UsageError(
            "E-U15",
            f"mask_rate={mask_rate}",
            where="pretrain()",
            why="some genes have to be hidden, and some seen",
            fix="mask_rate=0.2",
        )
    plan = {**DEFAULTS, **(plan_kwargs or {})}
    check_plan_kwargs(plan, LossPlan)
    check_trainer_kwargs(trainer_kwargs)
    return plan


def pretrain(
    core: SIMSCore,
    data: CellDataModule,
    *,
    mask_rate: float,
    max_epochs: int,
    plan_kwargs: Mapping[str, object],
    **fit_kwargs: object,
) -> Pretext:
    """Train the encoder of a core in place; after an error it is as it was.

    Parameters
    ----------
    core
        Its encoder is trained.
    data
        Cells; labels are not read.
    mask_rate, max_epochs
        Of :meth:`SIMS.pretrain`.
    plan_kwargs
        Of the host's plan.
    **fit_kwargs
        Of ``episome.train.fit``.
    """
    before = {k: v.clone() for k, v in core.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.stream_seed("pretext"))
        pretext = PretextCore(core, mask_rate)
    plan = LossPlan(pretext, target_sum=data.rule.target_sum, n_epochs=max_epochs, **plan_kwargs)
    plan.n_obs_training = len(data.split.train)
    plan.n_obs_validation = len(data.split.validation)
    try:
        run = fit(plan, data, max_epochs=max_epochs, seed=settings.seed, **fit_kwargs)
    except BaseException:
        core.load_state_dict(before)
        core.to("cpu").eval()
        raise
    return Pretext(len(encoder_names(core)), run)
