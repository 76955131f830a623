"""`JointEmbeddingAdapter`: scVI with a self-supervised loss, of scvi-tools 1.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from scvi.model import SCVI

from episome.errors import UsageError
from episome_baselines.extras import require_joint_embedding, require_positive
from episome_baselines.scvi_adapters import SCVIAdapter
from episome_baselines.scvi_base import Adapter
from episome_baselines.scvi_core import JointEmbeddingAdapterCore

try:
    from scvi.external import JointEmbeddingSCVI
except ImportError:
    # scvi-tools 1.4: the class can be looked at, and says what it needs when it is built.
    JointEmbeddingSCVI = SCVI

if TYPE_CHECKING:
    from anndata import AnnData


class JointEmbeddingAdapter(SCVIAdapter, JointEmbeddingSCVI):
    """scVI that learns to embed a cell alike whatever its depth.

    The model is ``JointEmbeddingSCVI`` of scvi-tools. In training every cell is also thinned to a
    random smaller number of molecules, and a cross-correlation loss draws the vectors of both
    together, dimension by dimension: self-supervision beside scVI's likelihood, for cells with few
    molecules. Set-up, training arguments, alignment, folders and prediction are those of
    :class:`SCVIAdapter`, and so are the sizes of the network, so that the two differ in the loss
    alone.

    The new loss is not measured on validation cells: early stopping sees scVI's part,
    ``elbo_validation``, and ``history`` has the new one of training cells (``cco_loss_train``).

    Needs scvi-tools 1.5, and with it Python 3.12.

    Parameters
    ----------
    adata, registry
        As for every model.
    joint_embedding_weight
        Weight of the cross-correlation loss.
    lambda_off_diag
        Weight in it of the correlations between different dimensions, which should be none.
    min_library_size
        Smallest number of molecules that a cell is thinned to.
    reconstruction_weight
        Weight of scVI's likelihood. It is above zero: without it nothing would train the decoder.
    variance_weight
        Weight of a loss on dimensions that vary too little.
    n_top_genes
        Variable genes that the network reads, chosen on training cells; ``None``: all.
    n_hidden, n_latent, n_layers
        Sizes of the network.
    dropout_rate
        Share of the hidden values that is left out in training.
    dispersion
        ``"gene"``, ``"gene-batch"`` or ``"gene-cell"``.
    gene_likelihood
        ``"zinb"``, ``"nb"`` or ``"poisson"``.

    Raises
    ------
    MissingDependencyError
        scvi-tools has no such model (E-P02).
    UsageError
        A network that cannot be built (E-U31), a number below one (E-U22), or a weight that is
        too small (E-U15).
    """

    _core_cls = JointEmbeddingAdapterCore

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        joint_embedding_weight: float = 100.0,
        lambda_off_diag: float = 0.01,
        min_library_size: float = 10.0,
        reconstruction_weight: float = 1.0,
        variance_weight: float = 0.0,
        n_top_genes: int | None = 4000,
        n_hidden: int = 128,
        n_latent: int = 30,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-cell"] = "gene",
        gene_likelihood: Literal["zinb", "nb", "poisson"] = "zinb",
    ) -> None:
        require_joint_embedding()
        require_positive(n_top_genes=n_top_genes)
        weights = {
            "joint_embedding_weight": joint_embedding_weight,
            "lambda_off_diag": lambda_off_diag,
            "variance_weight": variance_weight,
        }
        above = {
            "min_library_size": min_library_size,
            "reconstruction_weight": reconstruction_weight,
        }
        _require_weights(weights, above)
        # The constructor of SCVIAdapter would build scVI's module.
        Adapter.__init__(self, adata, registry)
        module = self._build_module(
            n_top_genes,
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            dispersion=dispersion,
            gene_likelihood=gene_likelihood,
            **weights,
            **above,
        )
        summary = f"JointEmbeddingAdapter with {n_latent} latent dimensions, {n_layers} layers"
        self._finish_init(module, locals(), summary)

    @classmethod
    def check_train_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Refuse a scvi-tools without the model, and arguments that ``train`` does not take."""
        require_joint_embedding()
        super().check_train_arguments(arguments)


def _require_weights(weights: Mapping[str, float], above: Mapping[str, float]) -> None:
    """Refuse weights below zero, and zero for those that have to be above it."""
    for name, value in {**weights, **above}.items():
        if not (value > 0 if name in above else value >= 0):
            least = "above zero" if name in above else "of zero or more"
            raise UsageError("E-U15", f"{name}={value!r}", fix=f"pass a number {least}")
