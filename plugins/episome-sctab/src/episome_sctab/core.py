"""`SCTabCore`: the TabNet of scTab as a core that predicts."""

from __future__ import annotations

from episome.nn import TabNetCore


class SCTabCore(TabNetCore):
    """TabNet with the scTab loss term, and its published sizes as defaults.

    Parameters
    ----------
    n_features, n_classes
        Genes of the model and classes.
    n_d, n_a, n_steps, n_shared, n_independent, virtual_batch_size, gamma, momentum, mask, \
    dropout, embedding_dropout, input_eps, mask_scale
        Of ``episome.nn.TabNet``.
    lambda_sparse, n_top_genes
        Of ``episome.nn.TabNetCore``.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        n_d: int = 128,
        n_a: int = 64,
        n_steps: int = 1,
        n_shared: int = 3,
        n_independent: int = 5,
        virtual_batch_size: int = 256,
        gamma: float = 1.3,
        momentum: float = 0.02,
        mask: str = "entmax15",
        lambda_sparse: float = 1e-5,
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        input_eps: float = 1e-5,
        mask_scale: float = 1.0,
        n_top_genes: int | None = None,
    ) -> None:
        if n_top_genes is not None and n_top_genes >= n_features:
            n_top_genes = None
        config = {k: v for k, v in locals().items() if k not in {"self", "__class__"}}
        super().__init__(**config)
        self.config = config
