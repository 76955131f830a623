"""The same model in scvi-tools and here: tensors are copied both ways."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd

from episome.errors import ModelFileError, ModelMismatchError, UntrustedModelError, UsageError

if TYPE_CHECKING:
    from anndata import AnnData
    from scvi.model import LinearSCVI

    from episome_datamix.model import LDVAE

#: Settings of scvi-tools' module that are not ours to choose, and what they must be.
_FIXED = {"dispersion": "gene", "latent_distribution": "normal", "log_variational": True}


def from_scvi(cls: type[LDVAE], model: LinearSCVI) -> LDVAE:
    """Return a model of scvi-tools under the host's contract.

    Parameters
    ----------
    cls
        ``LDVAE``.
    model
        A trained ``scvi.model.LinearSCVI`` with its data, in memory. Its data are not written to.

    Returns
    -------
    A trained ``LDVAE`` with the same tensors; it holds a copy of the data.

    Raises
    ------
    UsageError
        The model is not trained (E-M20) or holds no data (E-U17).
    ModelMismatchError
        It is of another class, or its settings have no counterpart here (E-M06).
    """
    from scvi.model import LinearSCVI

    if not isinstance(model, LinearSCVI):
        raise ModelMismatchError(
            "E-M06", f"a {type(model).__name__} is no LinearSCVI", fix="pass scvi.model.LinearSCVI"
        )
    if not model.is_trained_:
        raise UsageError("E-M20", "the model is not trained", fix="call train() first")
    if model.adata is None:
        raise UsageError("E-U17", "the model holds no data", fix="load it with its AnnData object")
    module = model.module
    wrong = [f"{k}={getattr(module, k)!r}" for k, v in _FIXED.items() if getattr(module, k) != v]
    if module.gene_likelihood not in ("nb", "zinb"):
        wrong.append(f"gene_likelihood={module.gene_likelihood!r}")
    if not module.use_batch_norm:
        wrong.append("use_batch_norm=False")
    if module.decoder.factor_regressor.fc_layers[0][0].bias is not None:
        wrong.append("bias=True")
    if wrong:
        raise ModelMismatchError(
            "E-M06",
            f"the model has settings without a counterpart: {', '.join(wrong)}",
            why="LDVAE has one dispersion per gene, a normal latent space and no bias",
            fix="use the model in scvi-tools, or train LDVAE",
        )
    setup = model.registry["setup_args"]
    batch_key, layer = setup.get("batch_key"), setup.get("layer")
    obs = pd.DataFrame(index=model.adata.obs_names.copy())
    if batch_key is not None:
        obs[batch_key] = model.adata.obs[batch_key].astype(str).to_numpy()
    values = model.adata.layers[layer] if layer else model.adata.X
    var = pd.DataFrame(index=model.adata.var_names.copy())
    cells = anndata.AnnData(values.copy(), obs=obs, var=var)
    cls.setup_anndata(cells, batch_key=batch_key)
    first = module.z_encoder.encoder.fc_layers
    found = cls(
        cells,
        n_hidden=int(first[0][0].out_features),
        n_latent=int(module.n_latent),
        n_layers=len(first),
        dropout_rate=_dropout(first[0]),
        gene_likelihood=module.gene_likelihood,
        use_observed_lib_size=bool(module.use_observed_lib_size),
    )
    if list(found.batches) != _batches_of(model) and batch_key is not None:
        raise ModelMismatchError(
            "E-M06",
            f"batches in another order: {', '.join(_batches_of(model)[:5])}",
            why="codes of batches would be mixed up",
            fix="name the batches so that they sort as text, and train again",
        )
    found.module.load_state_dict(module.state_dict())
    found.module.eval()
    found.is_trained_ = True
    rows = model.train_indices
    found.train_indices_ = np.arange(cells.n_obs) if rows is None else np.asarray(rows)
    found.fit_ = {"n_epochs": 0, "from": "scvi-tools", "n_cells": len(found.train_indices_)}
    return found


def to_scvi(model: LDVAE, adata: AnnData | None = None) -> LinearSCVI:
    """Return a model of scvi-tools with the tensors of a model.

    Parameters
    ----------
    model
        A trained ``LDVAE``.
    adata
        Cells that it holds, with the batch column where there is one; default the training cells.
        A copy, aligned to the model's genes, is made.

    Raises
    ------
    UsageError
        The model is not trained (E-M20), or there are no cells (E-U17).
    """
    from scvi.model import LinearSCVI

    model._require_trained()
    cells = model._stand_in(model._require_adata() if adata is None else adata)
    setup: dict[str, Any] = {"layer": model.setup_args.get("layer")}
    key = model.setup_args.get("batch_key")
    if key is not None:
        # All batches of the model, whether these cells have them or not, in its order.
        cells.obs[key] = pd.Categorical(cells.obs[key].astype(str), categories=model.batches)
        setup["batch_key"] = key
    LinearSCVI.setup_anndata(cells, **setup)
    config = model.module.config
    found = LinearSCVI(
        cells,
        n_hidden=config["n_hidden"],
        n_latent=config["n_latent"],
        n_layers=config["n_layers"],
        dropout_rate=config["dropout_rate"],
        gene_likelihood=config["gene_likelihood"],
        use_observed_lib_size=config["use_observed_lib_size"],
    )
    found.module.load_state_dict(model.module.state_dict())
    found.module.eval()
    found.is_trained_ = True
    return found


def _dropout(block: Any) -> float:
    """Share that a block of layers leaves out."""
    return next((float(layer.p) for layer in block if type(layer).__name__ == "Dropout"), 0.0)


def _batches_of(model: LinearSCVI) -> list[str]:
    state = model.registry["field_registries"]["batch"]["state_registry"]
    return [str(name) for name in state["categorical_mapping"]]


def read_scvi(path: str | Path, adata: AnnData, *, trust: bool = False) -> LDVAE:
    """Return a saved ``LinearSCVI`` under the host's contract.

    Parameters
    ----------
    path
        Folder that ``LinearSCVI.save`` wrote. It holds a pickle: opening it runs what is in it.
    adata
        The cells that it was trained on.
    trust
        You know who made the folder, and run code of theirs.

    Raises
    ------
    UntrustedModelError
        ``trust`` was not given (E-M02); nothing is opened.
    ModelFileError
        The folder cannot be read (E-M31).
    """
    if not trust:
        raise UntrustedModelError(
            "E-M02",
            "a model of scvi-tools holds a pickle",
            where=str(path),
            why="opening it runs whatever code is in it",
            fix="pass trust=True (--trust) for a file that you made",
        )
    from scvi.model import LinearSCVI

    from episome_datamix.model import LDVAE

    try:
        model = LinearSCVI.load(str(path), adata=adata.copy(), accelerator="cpu")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelFileError(
            "E-M31",
            "the folder cannot be read as a LinearSCVI model of these cells",
            where=str(path),
            why=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            fix="pass the folder that LinearSCVI.save wrote, and its cells",
        ) from error
    return from_scvi(LDVAE, model)


def write_scvi(model: LDVAE, path: str | Path, adata: AnnData) -> None:
    """Save a model as ``LinearSCVI`` does.

    Parameters
    ----------
    model
        A trained ``LDVAE``.
    path
        Folder to write.
    adata
        The cells that it was trained on; scvi-tools wants them again when it loads the folder.

    Raises
    ------
    ModelMismatchError
        The model is of another class (E-M06).
    """
    from episome_datamix.model import LDVAE

    if not isinstance(model, LDVAE):
        raise ModelMismatchError(
            "E-M06", f"a {type(model).__name__} is no LDVAE", fix="pass the folder of an LDVAE"
        )
    to_scvi(model, adata).save(str(path), overwrite=True)
