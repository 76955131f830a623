"""What this plugin adds to the host: names and targets only, nothing heavy."""

from __future__ import annotations

from episome.plugins import ModelSpec, hookimpl

EPISOME_API = (1, 0)

_PAPER = "10.1101/2025.02.19.639127"


@hookimpl
def episome_register_models() -> tuple[ModelSpec, ...]:
    """Return the model of this plugin."""
    return (
        ModelSpec(
            name="ldvae",
            target="episome_datamix.model:LDVAE",
            core="episome_datamix.core:LDVAECore",
            summary="Autoencoder of counts with a linear decoder: loadings of every gene",
            reference="10.1093/bioinformatics/btaa169",
            capabilities=("embedding", "reconstruction"),
        ),
    )
