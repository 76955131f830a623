"""`LDVAE`: a variational autoencoder whose decoder is one matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from scvi.model import LinearSCVI

from episome import settings
from episome.errors import UsageError
from episome.models import (
    CountsWithBatches,
    EmbeddingMixin,
    NetworkModel,
    ReconstructionMixin,
    WithoutModule,
    batch_codes,
    batch_names,
    decoding_into,
)
from episome_datamix.convert import from_scvi, to_scvi
from episome_datamix.core import BATCH
from episome_datamix.module import LDVAEModule
from episome_datamix.plan_training import ElboPlan, epochs_for
from episome_datamix.scores import Reconstruction, reconstruction_r2, residuals

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource
    from episome.train import CellDataModule


class LDVAE(
    CountsWithBatches,
    ReconstructionMixin,
    EmbeddingMixin,
    NetworkModel,
    WithoutModule,
    LinearSCVI,
):
    """scvi-tools' linearly decoded autoencoder, under the host's contract.

    An encoder of log1p counts, a latent space of few dimensions, and one matrix from there to all
    genes: every dimension has a loading for every gene. Counts are negative binomial, and the size
    of a cell is inferred. scvi-tools' own methods work on it (``get_elbo``,
    ``differential_expression``, ``posterior_predictive_sample`` ...); training, embedding and
    reconstruction are the host's.

    Parameters
    ----------
    adata, registry
        As for every model; ``setup_anndata(batch_key=)`` names batches that the decoder is told.
    n_hidden, n_latent, n_layers
        Widths and layers of the encoder; scvi-tools has one layer by default, the study two.
    dropout_rate
        Share of the encoder's hidden values that is left out in training.
    gene_likelihood
        ``"nb"`` or ``"zinb"``.
    use_observed_lib_size
        Take the size of a cell as it was counted.
    start_from_mean
        Begin with the mean profile of the training cells in the shift of the decoder's batch
        normalisation. scvi-tools begins with equal shares of all genes, from which some hundred
        cells take thousands of steps to the mean; ``False`` does so too.

    Raises
    ------
    UsageError
        A network that cannot be built (E-U31).

    References
    ----------
    Svensson et al., Bioinformatics 36, 3418-3421 (2020); as used by Nadig et al., bioRxiv
    2025.02.19.639127.
    """

    capabilities = ("embedding", "reconstruction")
    _core_cls = LDVAEModule
    _plan_cls = ElboPlan
    module: LDVAEModule

    def __init__(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        registry: dict[str, object] | None = None,
        *,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
        gene_likelihood: Literal["nb", "zinb"] = "nb",
        use_observed_lib_size: bool = False,
        start_from_mean: bool = True,
    ) -> None:
        super().__init__(adata, registry)
        core = self._build_core(
            n_batch=len(batch_names(self)),
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            gene_likelihood=gene_likelihood,
            use_observed_lib_size=use_observed_lib_size,
            target_sum=float(self.input_rule.target_sum),
        )
        self._start_from_mean = bool(start_from_mean)
        summary = f"LDVAE with {n_latent} dimensions, {len(batch_names(self))} batches"
        self._finish_init(core, locals(), summary)

    @property
    def batches(self) -> tuple[str, ...]:
        """Names of the batches that the decoder knows."""
        return batch_names(self)

    # --- training ---------------------------------------------------------------------------

    def _training_defaults(self) -> dict[str, Any]:
        return {
            "max_epochs": epochs_for(self.training_source().n_obs),
            "batch_size": 128,
            "early_stopping": False,
        }

    def _columns(self, source: CellSource) -> dict[str, NDArray[Any]]:
        return {BATCH: batch_codes(self, source)}

    def _fit(self, datamodule: CellDataModule, *args: Any, **kwargs: Any) -> None:
        if not self.is_trained_:
            self._start(datamodule)
        super()._fit(datamodule, *args, **kwargs)

    def _start(self, datamodule: CellDataModule) -> None:
        """Set what the training cells say before training: library sizes, and the mean profile."""
        rows = np.sort(np.asarray(datamodule.split.train))
        query = self.training_query()
        sizes, totals = [], np.zeros(len(self.features))
        for part in np.array_split(rows, max(len(rows) // 4096, 1)):
            counts = query.alignment.apply(query.source.read(part))
            sizes.append(np.asarray(counts.sum(axis=1)).ravel())
            totals += np.asarray(counts.sum(axis=0)).ravel()
        if self.module.infers_library:
            codes = np.asarray(datamodule.columns[BATCH])[rows]
            self._start_sizes(np.concatenate(sizes), codes)
        if self._start_from_mean:
            # Half a molecule of what was never seen: its logarithm is finite.
            logs = np.log(totals + 0.5)
            shift = self.module.decoder.factor_regressor.fc_layers[0][1].bias
            with torch.no_grad():
                shift.copy_(torch.as_tensor(logs - logs.mean(), dtype=shift.dtype))

    def _start_sizes(self, sizes: NDArray[np.floating], codes: NDArray[np.integer]) -> None:
        """Set the prior of library sizes, batch by batch."""
        means, spreads = self.module.library_log_means, self.module.library_log_vars
        for code in range(len(self.batches)):
            of_batch = sizes[(codes == code) & (sizes > 0)]
            if len(of_batch):
                logs = np.log(of_batch)
                means[0, code], spreads[0, code] = float(logs.mean()), float(max(logs.var(), 1e-4))

    # --- what it says of cells --------------------------------------------------------------

    def get_normalized_expression(  # type: ignore[override]  # of the host, not of scvi-tools
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        transform_batch: str | None = None,
        n_samples: int = 0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> pd.DataFrame | NDArray[np.float32]:
        """Return the shares of a cell's molecules that the model expects of every gene.

        Parameters
        ----------
        adata
            Query; genes are aligned by name, nothing is modified. ``None`` takes the training
            cells.
        transform_batch
            Batch to decode into; ``None``: the mean of all.
        n_samples
            Draws of the posterior whose shares are averaged; 0 decodes its mean, and nothing is
            drawn. The published study took one draw.
        seed
            Of the draws, which do not depend on batches or order; default ``settings.seed``.
        **kwargs
            Of ``ReconstructionMixin.get_normalized_expression``: ``indices``, ``gene_list``,
            ``library_size``, ``hide``, ``mask``, ``batch_size``, ``return_numpy`` and those of a
            query.

        Returns
        -------
        float32 (n_cells, n_genes), frame with cell names and gene identifiers.

        Raises
        ------
        UsageError
            There is no such batch (E-U110), a number of draws that is none (E-U22), and as the
            base class.
        """
        if isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 0:
            raise UsageError(
                "E-U22", f"n_samples={n_samples!r}", fix="pass 0 or a number of draws"
            )
        core = self.module
        core.n_draws = n_samples
        core.draw_seed = settings.stream_seed("posterior", seed)
        try:
            with decoding_into(core, self.batches, transform_batch):
                return super().get_normalized_expression(adata, **kwargs)
        finally:
            core.n_draws, core.draw_seed = 0, 0

    def get_loadings(self) -> pd.DataFrame:
        """Return the loading of every gene on every dimension, float32 (n_genes, n_latent).

        Weights of the decoder times the scale of its batch normalisation, row by row. Loadings
        times a latent mean are what the softmax reads, but for a constant of every gene.
        """
        self._require_trained()
        block = self.module.decoder.factor_regressor.fc_layers[0]
        norm, n_latent = block[1], int(self.module.config["n_latent"])
        with torch.no_grad():
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            values = (block[0].weight[:, :n_latent] * scale[:, None]).cpu().numpy()
        names = [f"Z_{i}" for i in range(n_latent)]
        return pd.DataFrame(values, index=list(self.features.ids), columns=names)

    def reconstruction_r2(
        self,
        adata: AnnData | str | Path | CellSource,
        *,
        n_top_genes: int | None = 1000,
        n_samples: int = 0,
        seed: int | None = None,
        **query: Any,
    ) -> Reconstruction:
        """Return how well cells are reconstructed; see :func:`episome_datamix.reconstruction_r2`.

        Parameters
        ----------
        adata
            Counts of cells.
        n_top_genes
            Variable genes of these cells that are compared; ``None``: all genes of the model.
        n_samples, seed
            Of :meth:`get_normalized_expression`.
        **query
            ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``.
        """
        return reconstruction_r2(
            self, adata, n_top_genes=n_top_genes, n_samples=n_samples, seed=seed, **query
        )

    def residuals(
        self, adata: AnnData | str | Path | CellSource, *, by: str | None = None, **query: Any
    ) -> pd.DataFrame:
        """Return what the model misses of every gene; see :func:`episome_datamix.residuals`.

        Parameters
        ----------
        adata
            Counts of cells.
        by
            Column of ``obs`` whose groups are told apart.
        **query
            ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``.
        """
        return residuals(self, adata, by=by, **query)

    # --- scvi-tools -------------------------------------------------------------------------

    @classmethod
    def from_scvi(cls, model: LinearSCVI) -> LDVAE:
        """Return the same model under the host's contract; see :func:`convert.from_scvi`.

        Parameters
        ----------
        model
            A trained ``scvi.model.LinearSCVI`` with its data.
        """
        return from_scvi(cls, model)

    def to_scvi(self, adata: AnnData | None = None) -> LinearSCVI:
        """Return the same model of scvi-tools; see :func:`convert.to_scvi`.

        Parameters
        ----------
        adata
            Cells that it holds; default the training cells, aligned.
        """
        return to_scvi(self, adata)
