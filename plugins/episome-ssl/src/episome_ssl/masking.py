"""Tasks that hide genes and ask for them: at random, by programmes, or all but one programme."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch

from episome.nn import PretextOutput, PretextTask, RandomMask, TableMask

if TYPE_CHECKING:
    from episome.nn import GeneMask, MaskedAutoencoder, PretextBatch, PretextSetting

#: How often unions of programmes are drawn again that would hide every gene.
_TRIES = 20


class MaskTask(PretextTask):
    """Base: a mask hides genes, and the loss is the mean error of those that it scores.

    The mean is over what is scored, so that losses of masks that hide more or less can be
    compared; the published code divides by all values.

    Parameters
    ----------
    decode_genes
        Only so many genes, drawn for every batch, are decoded in training: an estimate of the same
        loss that costs less. ``None``: all.
    """

    def __init__(self, *, decode_genes: int | None = None) -> None:
        super().__init__()
        if decode_genes is not None and (decode_genes < 1 or decode_genes != int(decode_genes)):
            msg = f"decode_genes is {decode_genes}; it must be a whole number, 1 or more."
            raise ValueError(msg)
        self.decode_genes = None if decode_genes is None else int(decode_genes)

    @abstractmethod
    def mask(self, batch: PretextBatch) -> GeneMask:
        """Return the mask of a batch."""

    def said(self, mask: GeneMask) -> Mapping[str, torch.Tensor]:
        """Return what is logged of a mask."""
        return {}

    def loss(self, net: MaskedAutoencoder, batch: PretextBatch) -> PretextOutput:
        """Return the mean error of the scored genes."""
        mask = self.mask(batch)
        latent = net.encode_visible(batch.cells, mask, products=batch.products)
        error = net.error(
            latent,
            batch.cells,
            batch.only_measured(mask),
            counts=batch.counts,
            size=batch.size,
            genes=self._decoded(net, batch),
            products=batch.products,
        )
        return PretextOutput(error, latent, self.said(mask))

    def _decoded(self, net: MaskedAutoencoder, batch: PretextBatch) -> torch.Tensor | None:
        if self.decode_genes is None or not self.training or self.decode_genes >= net.n_features:
            return None
        draws = batch.generator(stream=1)
        order = torch.randperm(net.n_features, generator=draws, device=draws.device)
        return order[: self.decode_genes].sort().values


class RandomMaskTask(MaskTask):
    """Genes of a cell are hidden at random, each with the same probability.

    Visible values are divided by the share that is visible.

    Parameters
    ----------
    mask_rate
        Probability to be hidden, at least 0 and below 1; 0 is a plain autoencoder.
    **options
        Of :class:`MaskTask`.
    """

    def __init__(self, *, mask_rate: float = 0.5, **options: int | None) -> None:
        super().__init__(**options)
        RandomMask(mask_rate)  # refuses what is no rate
        self.mask_rate = mask_rate

    def mask(self, batch: PretextBatch) -> RandomMask:
        """Return a mask that is drawn for every cell and gene."""
        return RandomMask(self.mask_rate, seed=batch.seed, cells=batch.numbers)


class ProgrammeTask(MaskTask):
    """Base of the tasks about programmes of genes.

    Parameters
    ----------
    table
        Genes of every programme, uint8 (P, G).
    targets
        Column of the gene that each is asked for, int64 (P,), or ``None``.
    **options
        Of :class:`MaskTask`.
    """

    needs_programmes: ClassVar[bool] = True
    table: torch.Tensor
    targets: torch.Tensor | None

    def __init__(
        self, table: torch.Tensor, targets: torch.Tensor | None = None, **options: int | None
    ) -> None:
        super().__init__(**options)
        # The data they come from stay with the model: names of programmes and genes.
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("targets", targets, persistent=False)

    @classmethod
    def build(cls, setting: PretextSetting, **options: object) -> PretextTask:
        """Return the task for the programmes of a setting."""
        members = {n: set(of) for n, of in setting.programmes.items()}
        if cls.needs_targets:
            # A factor is not shown where it is asked for, whether its programme names it or not.
            members = {n: members[n] - {t} for n, t in setting.targets.items() if n in members}
        names = [n for n, of in members.items() if of]
        if not names:
            what = "target genes of programmes" if cls.needs_targets else "programmes of genes"
            msg = f"the task needs {what}, and none are among the model's genes."
            raise ValueError(msg)
        table = torch.zeros(len(names), setting.n_features, dtype=torch.uint8)
        for row, name in enumerate(names):
            table[row, sorted(members[name])] = 1
        targets = None
        if cls.needs_targets:
            targets = torch.tensor([setting.targets[n] for n in names])
        return cls(table, targets, **options)

    def _drawn(self, batch: PretextBatch) -> torch.Tensor:
        """Draw a programme for every cell, with replacement, (B,) int64."""
        draws = batch.generator()
        return torch.randint(
            len(self.table), (len(batch.numbers),), generator=draws, device=draws.device
        )


class Hidden(NamedTuple):
    """Unions of programmes.

    Parameters
    ----------
    genes
        Which genes are hidden, uint8 (n, G).
    share
        Of all genes that are hidden, (n,).
    """

    genes: torch.Tensor
    share: torch.Tensor


class ProgrammeMaskTask(ProgrammeTask):
    """Whole programmes are hidden: the union of some, drawn anew for every group of cells.

    ``mask_rate`` is a share of programmes, not of genes: as programmes overlap, a quarter of them
    may hide half of the genes. What is hidden is logged as ``hidden_share``. Visible values are
    divided by the share of genes that is visible.

    Parameters
    ----------
    table, targets
        See :class:`ProgrammeTask`.
    mask_rate
        Share of the programmes that are hidden; one at least.
    n_groups
        Unions that are drawn for a batch; every cell gets one of them. 1 is the published form:
        the same genes for all cells of a batch.
    **options
        Of :class:`MaskTask`.
    """

    def __init__(
        self,
        table: torch.Tensor,
        targets: torch.Tensor | None = None,
        *,
        mask_rate: float = 0.25,
        n_groups: int = 32,
        **options: int | None,
    ) -> None:
        super().__init__(table, targets, **options)
        if not 0 < mask_rate < 1 or n_groups < 1:
            msg = (
                f"mask_rate is {mask_rate} and n_groups {n_groups}; the rate must be between 0 "
                "and 1, and there must be one group at least."
            )
            raise ValueError(msg)
        self.mask_rate, self.n_groups = mask_rate, n_groups
        self.n_hidden = max(int(mask_rate * len(table)), 1)
        # Programmes that always hide everything are refused before cells are read.
        self.unions(n_groups, torch.Generator(table.device).manual_seed(0))

    def unions(self, n: int, generator: torch.Generator) -> Hidden:
        """Draw unions of programmes, none of which hides every gene.

        Raises
        ------
        ValueError
            Every union that was drawn hides all genes.
        """
        genes = self._unions(n, generator)
        for _ in range(_TRIES):
            full = genes.bool().all(1)
            if not bool(full.any()):
                return Hidden(genes, genes.float().mean(1))
            genes[full] = self._unions(int(full.sum()), generator)
        full = genes.bool().all(1)
        if not bool(full.all()):
            # Unlucky draws are no reason to end a training: groups may hide the same.
            sound = genes[~full]
            genes[full] = sound[torch.arange(int(full.sum()), device=full.device) % len(sound)]
            return Hidden(genes, genes.float().mean(1))
        msg = (
            f"{self.n_hidden} of {len(self.table)} programmes together hold every gene, so that "
            "nothing would be left to see. Lower mask_rate."
        )
        raise ValueError(msg)

    def _unions(self, n: int, generator: torch.Generator) -> torch.Tensor:
        n_programmes = len(self.table)
        order = torch.rand(n, n_programmes, generator=generator, device=self.table.device)
        chosen = order.argsort(1)[:, : self.n_hidden]
        member = torch.zeros(n, n_programmes, device=self.table.device).scatter_(1, chosen, 1.0)
        return (member @ self.table.to(member.dtype) > 0).to(torch.uint8)

    def mask(self, batch: PretextBatch) -> TableMask:
        """Return a table of unions, and one of them for every cell."""
        draws = batch.generator()
        hidden = self.unions(self.n_groups, draws)
        of = torch.randint(
            self.n_groups, (len(batch.numbers),), generator=draws, device=draws.device
        )
        return TableMask(hidden.genes, hidden.genes, of, scale=1 / (1 - hidden.share))

    def said(self, mask: TableMask) -> Mapping[str, torch.Tensor]:
        """Return the share of genes that is hidden."""
        return {"hidden_share": mask.hidden.float().mean(1)[mask.rows].mean()}


class ProgrammeToProgrammeTask(ProgrammeTask):
    """Each cell shows the genes of one programme only, and these are asked for.

    A narrow autoencoder of programmes, as the paper words it. The published code cannot run it.

    Parameters
    ----------
    table, targets
        See :class:`ProgrammeTask`.
    scaled
        Divide what is visible by its share of the genes. Off: the values enter as they are.
    **options
        Of :class:`MaskTask`.
    """

    def __init__(
        self,
        table: torch.Tensor,
        targets: torch.Tensor | None = None,
        *,
        scaled: bool = False,
        **options: int | None,
    ) -> None:
        super().__init__(table, targets, **options)
        self.scaled = scaled

    def scored(self) -> torch.Tensor:
        """Return which genes each programme is asked for, uint8 (P, G)."""
        return self.table

    def mask(self, batch: PretextBatch) -> TableMask:
        """Return the table of programmes, and one of them for every cell."""
        scale = 1 / self.table.float().mean(1) if self.scaled else None
        return TableMask(1 - self.table, self.scored(), self._drawn(batch), scale=scale)


class ProgrammeToTFTask(ProgrammeToProgrammeTask):
    """Each cell shows the genes of one programme, and its transcription factor is asked for.

    Programmes are drawn with replacement, so that every cell of a batch has one; a factor is not
    among the genes of its own programme, and programmes whose factor is no gene of the model are
    left out.
    """

    needs_targets: ClassVar[bool] = True

    def scored(self) -> torch.Tensor:
        """Return the gene of the transcription factor of each programme, uint8 (P, G)."""
        out = torch.zeros_like(self.table)
        return out.scatter_(1, torch.as_tensor(self.targets)[:, None], 1)
