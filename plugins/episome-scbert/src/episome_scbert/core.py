"""`SCBERTCore`: what predicts, and what is pretrained; torch without scvi-tools or Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from episome import settings
from episome.nn import CSRParts, TorchCore
from episome_scbert.config import checked, encoder_settings
from episome_scbert.gene_attention import gene_scores
from episome_scbert.heads import PooledHead, PositionHead, pooled_mean
from episome_scbert.layers import Encoder, GeneTable
from episome_scbert.masking import Masked, ask_unexpressed, mask_expressed, masked_loss
from episome_scbert.tokens import (
    Sequences,
    at_most,
    expressed_sequences,
    places_of,
    whole_sequences,
)

if TYPE_CHECKING:
    from episome.data import GenePanels

#: Tokens that are computed together in prediction; more cost memory and gain nothing.
TOKENS = 2**15
_ODD = 0x9E3779B97F4A7C15


class SCBERTCore(TorchCore):
    """A transformer over the levels of the genes of a cell, a head for classes, one for levels.

    Parameters
    ----------
    n_features
        Genes of the model.
    n_classes
        Classes; 0: no head for classes, an encoder that is only pretrained.
    **options
        See :data:`episome_scbert.config.DEFAULTS`, which names all and their values.
    """

    input_format: ClassVar[str] = "csr"
    inference_format: ClassVar[str] = "csr"
    mean_scale: ClassVar[str] = "log1p"
    attributions_hold_values: ClassVar[bool] = False
    levels: torch.Tensor
    n_asked: torch.Tensor
    n_drawn: torch.Tensor
    measured: torch.Tensor | None
    origins: torch.Tensor | None

    def __init__(self, n_features: int, n_classes: int = 0, **options: Any) -> None:
        super().__init__()
        c = checked(n_features, n_classes, options)
        self.config = c
        self.n_genes, self.n_bins = n_features, int(c["n_bins"])
        self.mask_token = self.n_bins + 1
        self.whole = c["attention"] == "favor"
        genes = GeneTable(
            n_features,
            int(c["gene_width"]),
            int(c["dim"]),
            appended=bool(c["appended"]),
            trainable=bool(c["train_genes"]),
        )
        self.encoder = Encoder(genes, self.n_bins + 2, **encoder_settings(c))
        hidden = (int(c["hidden"][0]), int(c["hidden"][1]))
        more = {"hidden": hidden, "dropout": float(c["head_dropout"])}
        self.head: nn.Module | None = None
        if n_classes and c["head"] == "position":
            places = n_features + bool(c["appended"])
            self.head = PositionHead(places, int(c["dim"]), n_classes, **more)
        elif n_classes:
            self.head = PooledHead(int(c["dim"]), n_classes, **more)
        middle = torch.log1p(2.0 ** (torch.arange(self.n_bins + 1) + 0.5) - 1)
        middle[0] = 0.0
        # Mean value of every level, learned from training cells; what a level is worth.
        self.encoder.register_buffer("levels", middle)
        # Updates by hidden genes: without one, nothing is known of what is hidden.
        self.encoder.register_buffer("n_asked", torch.zeros((), dtype=torch.int64))
        # Batches that were drawn for, so that a run that goes on draws what it would have drawn.
        self.register_buffer("n_drawn", torch.zeros((), dtype=torch.int64))
        # Of the cells that are trained on, and of no use afterwards.
        self.register_buffer("measured", None, persistent=False)
        self.register_buffer("origins", None, persistent=False)
        self.trainable = "all"

    # --- what is trained --------------------------------------------------------------------

    def set_trainable(self, what: str) -> None:
        """Say which parameters are trained.

        Parameters
        ----------
        what
            ``"head"``: the heads; ``"last"``: the last layer and the last norm too; ``"all"``:
            everything but a table of genes that is not trained.

        Raises
        ------
        ValueError
            Another word.
        """
        if what not in TRAINABLE:
            msg = f"trainable is {what!r}; use one of {', '.join(TRAINABLE)}."
            raise ValueError(msg)
        self.trainable, encoder = what, self.encoder
        for parameter in self.parameters():
            parameter.requires_grad_(what == "all")
        heads = [encoder.to_tokens] if self.head is None else [encoder.to_tokens, self.head]
        last = [encoder.layers[-1], encoder.norm] if what != "head" else []
        for module in (*heads, *last):
            module.requires_grad_(True)  # noqa: FBT003 - torch's signature
        if not self.config["train_genes"]:
            encoder.genes.weight.requires_grad_(False)  # noqa: FBT003 - torch's signature

    def parts(self) -> Mapping[str, Any]:
        """Return where in the tensors the encoder is; see ``episome.models.EncoderPart``."""
        shared = ("n_bins", "binning", "dim", "depth", "heads", "dim_head", "ff_mult")
        more = ("attention", "nb_features", "stabilizer", "gene_width")
        return {
            "encoder": {
                "prefix": "encoder.",
                "tensors": list(self.encoder.state_dict()),
                "gene_axes": {"genes.weight": 0},
                "settings": {k: self.config[k] for k in (*shared, *more)},
            }
        }

    def set_measured(self, panels: GenePanels | None) -> None:
        """Say which genes were measured in the training cells; ``None``: all in all.

        Parameters
        ----------
        panels
            By the rows of the training cells.
        """
        table, codes = None, None
        if panels is not None:
            table = torch.from_numpy(panels.measured.astype(bool)).to(self.device)
            codes = torch.from_numpy(panels.codes).to(self.device)
        self.measured, self.origins = table, codes

    # --- sequences --------------------------------------------------------------------------

    def sequences(self, x: CSRParts | torch.Tensor) -> Sequences:
        """Return the sequences of cells, all genes or those that are expressed.

        Parameters
        ----------
        x
            Values after log1p, sparse or dense (B, G).
        """
        slopes = isinstance(x, torch.Tensor) and x.requires_grad
        cells = CSRParts.from_dense(x) if isinstance(x, torch.Tensor) else x
        how = (self.n_bins, self.config["binning"])
        if not self.whole:
            return expressed_sequences(cells, *how, slopes=slopes)
        return whole_sequences(
            cells,
            self.n_genes,
            *how,
            appended=self.config["appended"],
            attend_appended=self.config["attend_appended"],
            slopes=slopes,
        )

    def in_parts(self, sequences: Sequences) -> Iterator[torch.Tensor]:
        """Yield cells that are computed together, int64 (n,), shorter ones first."""
        order = torch.argsort(sequences.lengths, stable=True)
        ends = sequences.lengths[order].cumsum(0).tolist()
        start, before = 0, 0
        for i, end in enumerate(ends):
            if i > start and end - before > TOKENS:
                yield order[start:i]
                start, before = i, ends[i - 1]
        if len(order) > start:
            yield order[start:]

    def generator(self, batch: Mapping[str, Any], stream: str) -> torch.Generator:
        """Return what a batch is drawn by; in validation the same in every epoch."""
        seed = settings.stream_seed(stream)
        if self.training:
            seed += int(self.n_drawn)
        numbers = batch.get("ind_x")
        first = int(numbers[0]) if numbers is not None and len(numbers) else 0
        seed = (seed + _ODD * (first + 1)) % 2**63
        return torch.Generator(device=self.device).manual_seed(seed)

    def hidden(
        self, sequences: Sequences, batch: Mapping[str, Any], *, known: Sequences
    ) -> Masked:
        """Return sequences with genes hidden, and unexpressed genes asked for where that is on.

        Parameters
        ----------
        sequences
            Of the cells, perhaps shortened.
        batch
            What they are of.
        known
            Of the cells, whole.
        """
        rate = float(self.config["mask_rate"])
        draw = self.generator(batch, "mask")
        found = mask_expressed(
            sequences, self.mask_token, rate=rate, generator=draw, hide_keys=not self.whole
        )
        if not self.config["mask_zeros"]:
            return found
        measured = None
        if self.measured is not None and self.origins is not None and "ind_x" in batch:
            measured = self.measured[self.origins[batch["ind_x"]]]
        return ask_unexpressed(
            found,
            sequences,
            known,
            n_genes=self.n_genes,
            mask_token=self.mask_token,
            generator=draw,
            insert=not self.whole,
            measured=measured,
        )

    # --- answers ----------------------------------------------------------------------------

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``logits`` (B, n_classes) and ``latent`` (B, dim), or ``mean`` (B, G) if asked.

        In training also ``penalty``: the loss of hidden genes times its weight.
        """
        sequences = self.sequences(batch["X"])
        if self.training:
            return self._in_training(sequences, batch)
        if "mean" in (batch.get("outputs") or ()):
            return {"mean": self.expected(sequences)}
        # A cell of this size, whatever beside it: parts change no answer.
        parts = [
            (cells, self._answers(sequences.of_cells(cells))) for cells in self.in_parts(sequences)
        ]
        if not parts:
            return self._answers(sequences)
        back = torch.argsort(torch.cat([cells for cells, _ in parts]))
        return {k: torch.cat([out[k] for _, out in parts])[back] for k in parts[0][1]}

    def _answers(self, sequences: Sequences) -> dict[str, torch.Tensor]:
        h, expressed = self.encoder(sequences), sequences.tokens > 0
        out = {"latent": pooled_mean(h, sequences, expressed)}
        if self.head is not None:
            out["logits"] = self.head(h, sequences, expressed)
        return out

    def _in_training(
        self, sequences: Sequences, batch: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        if self.head is None:
            # Its training is the loss of hidden genes.
            return self._answers(sequences)
        self.n_drawn += 1
        weight = float(self.config["mask_weight"])
        short = self._shortened(sequences, batch)
        drawn = None
        if short is not sequences:
            drawn = short.lengths / sequences.lengths.clamp(min=1)
            drawn = drawn.clamp_min(1e-6)
        if weight == 0:
            h = self.encoder(short)
            return {"logits": self.head(h, short, short.tokens > 0, drawn)}
        masked = self.hidden(short, batch, known=sequences)
        h = self.encoder(masked.sequences)
        self.encoder.n_asked += 1
        lost = masked_loss(self.encoder.to_tokens(h[masked.at]), masked.truth)
        logits = self.head(h, masked.sequences, masked.pooled, drawn)
        return {"logits": logits, "penalty": weight * lost}

    def _shortened(self, sequences: Sequences, batch: Mapping[str, Any]) -> Sequences:
        """Return what of the cells is trained on, where there is a limit."""
        limit = self.config["max_tokens"]
        if self.whole or limit is None or not self.training:
            return sequences
        return at_most(sequences, int(limit), self.generator(batch, "tokens"))

    def loss(self, batch: dict[str, Any]) -> Mapping[str, torch.Tensor]:
        """Return the cross-entropy of hidden genes, and the share that is told rightly."""
        if self.training:
            self.n_drawn += 1
            self.redraw_when_due()
            self.encoder.n_asked += 1
        whole = self.sequences(batch["X"])
        masked = self.hidden(self._shortened(whole, batch), batch, known=whole)
        h = self.encoder(masked.sequences)
        logits = self.encoder.to_tokens(h[masked.at])
        with torch.no_grad():
            told = logits[:, : self.mask_token].argmax(1) == masked.truth
            right = told.float().mean() if len(told) else logits.new_zeros(())
        return {"loss": masked_loss(logits, masked.truth), "masked_accuracy": right}

    def redraw_when_due(self) -> None:
        """Draw the random features anew, every so many batches of pretraining."""
        every, n = self.config["redraw_every"], int(self.encoder.n_asked)
        if not self.whole or not every or n == 0 or n % int(every):
            return
        seed = (settings.stream_seed("features") + n) % 2**63
        self.encoder.redraw(torch.Generator().manual_seed(seed))

    # --- what is expected -------------------------------------------------------------------

    def expected(self, sequences: Sequences) -> torch.Tensor:
        """Return the expected log1p value of every gene, (B, G).

        Expressed genes are read where they stand. Others are hidden and asked for, a fourth of
        them at a time where they stand in the sequence themselves.
        """
        found = sequences.tokens.new_zeros(
            (len(sequences.lengths), self.n_genes), dtype=self.encoder.levels.dtype
        )
        longest = self.n_genes * (1 if self.whole else 2)
        for cells in self._few(len(sequences.lengths), longest):
            part = sequences.of_cells(cells)
            found[cells] = self._expected_whole(part) if self.whole else self._expected(part)
        return found

    def _few(self, n_cells: int, length: int) -> Iterator[torch.Tensor]:
        step = max(TOKENS // max(length, 1), 1)
        yield from torch.arange(n_cells, device=self.device).split(step)

    def _expected(self, part: Sequences) -> torch.Tensor:
        n = len(part.lengths)
        there = torch.zeros(n, self.n_genes, dtype=torch.bool, device=part.tokens.device)
        there[part.cells, part.genes] = True
        cells, genes = (~there).nonzero(as_tuple=True)
        row = torch.cat([part.cells, cells])
        order = torch.argsort(row, stable=True)
        asked = torch.full_like(genes, self.mask_token)
        keys = torch.cat([torch.ones_like(part.genes), torch.zeros_like(genes)]).bool()
        whole = Sequences(
            torch.cat([part.tokens, asked])[order],
            torch.cat([part.genes, genes])[order],
            torch.full_like(part.lengths, self.n_genes),
            keys[order],
        )
        out = there.new_zeros(there.shape, dtype=self.encoder.levels.dtype)
        out[whole.cells, whole.genes] = self._values(whole, part.lengths)
        return out

    def _expected_whole(self, part: Sequences) -> torch.Tensor:
        n, unexpressed = len(part.lengths), part.tokens == 0
        n_expressed = torch.bincount(part.cells[~unexpressed], minlength=n)
        out = self.encoder.levels.new_zeros(len(part.tokens))
        for turn in range(4):
            hidden = unexpressed & (part.genes % 4 == turn) & (part.genes < self.n_genes)
            seen = part._replace(tokens=torch.where(hidden, self.mask_token, part.tokens))
            values = self._values(seen, n_expressed)
            out = torch.where(hidden | (~unexpressed & (turn == 0)), values, out)
        return out.view(n, -1)[:, : self.n_genes]

    def _values(self, sequences: Sequences, n_expressed: torch.Tensor) -> torch.Tensor:
        """Return the expected value of every token, (T,)."""
        logits = self.encoder.to_tokens(self.encoder(sequences))[:, : self.mask_token]
        if self.config["mask_zeros"]:
            # As many unexpressed genes were asked for as hidden: they are more among all.
            odds = math.log(self.n_genes) - n_expressed.clamp(min=1).to(logits.dtype).log()
            logits = torch.cat([logits[:, :1] + odds[sequences.cells, None], logits[:, 1:]], 1)
        else:
            # Only levels of expressed genes were ever asked for.
            logits = logits.index_fill(
                1, torch.zeros(1, dtype=torch.int64, device=logits.device), -torch.inf
            )
        return logits.float().softmax(1) @ self.encoder.levels

    # --- explanation ------------------------------------------------------------------------

    def explaining(self) -> Callable[[dict[str, Any]], CSRParts]:
        """Return a function from a batch to the attention that every gene gets, (B, G)."""
        self.eval()

        def run(batch: dict[str, Any]) -> CSRParts:
            sequences = self.sequences(batch["X"])
            score = self.encoder.levels.new_zeros(len(sequences.tokens))
            for cells in self.in_parts(sequences):
                at = places_of(sequences.lengths, cells)
                score[at] = gene_scores(self.encoder, sequences.of_cells(cells), self.n_genes)
            kept = sequences.genes < self.n_genes
            counts = torch.bincount(sequences.cells[kept], minlength=len(sequences.lengths))
            indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            return CSRParts(indptr, sequences.genes[kept].int(), score[kept])

        return run


#: What may be trained.
TRAINABLE = ("head", "last", "all")
