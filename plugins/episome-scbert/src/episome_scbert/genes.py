"""Vectors of genes: out of a table of the user's, or of how genes go together in the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds

from episome import settings
from episome.data import FeatureSpace
from episome.errors import InputFileError, UsageError
from episome.log import get_logger
from episome.models import gene_places, normalized_rows, require_known_genes
from episome.nn import host_batch
from episome_scbert.heads import PooledHead
from episome_scbert.tokens import level_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.train import CellDataModule
    from episome_scbert.core import SCBERTCore

logger = get_logger(__name__)

#: Vectors by gene: a table whose rows are genes, or a file of one.
GeneVectors: TypeAlias = "pd.DataFrame | Mapping[str, Sequence[float]] | str | Path"
#: Training cells that are read for what genes do.
CELLS = 4096
#: And that a fresh head is settled by.
SETTLED = 512


def read_vectors(table: GeneVectors) -> pd.DataFrame:
    """Return the vectors of genes as a frame, a row for every gene.

    Parameters
    ----------
    table
        A frame indexed by gene, vectors by name, or a file: ``.parquet``, ``.csv`` and ``.tsv``
        with genes in the first column, else text as word2vec writes it, a name and its numbers in
        every line, perhaps below a line of two counts.

    Raises
    ------
    InputFileError
        There is no such file (E-F07), or it is no table of numbers (E-F22).
    UsageError
        Vectors are of several lengths or hold no numbers (E-U31).
    """
    where = "gene_table"
    if isinstance(table, str | Path):
        where, table = str(table), _read_file(Path(table))
    elif not isinstance(table, pd.DataFrame | Mapping):
        raise _no_vectors(where, f"it is a {type(table).__name__}, in which no genes are named")
    elif not isinstance(table, pd.DataFrame):
        lengths = {np.size(vector) for vector in table.values()}
        if len(lengths) > 1:
            raise _no_vectors(where, f"they have {min(lengths)} to {max(lengths)} numbers")
    try:
        frame = (
            table
            if isinstance(table, pd.DataFrame)
            else pd.DataFrame.from_dict(dict(table), orient="index")
        )
        values = frame.to_numpy(dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise _no_vectors(where, str(error)) from error
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise _no_vectors(where, "values are missing or not finite")
    found = pd.DataFrame(values, index=frame.index.astype(str))
    return found[~found.index.duplicated()]


def _no_vectors(where: str, why: str) -> UsageError:
    return UsageError(
        "E-U31",
        "the table of genes holds no vectors of one length",
        where=where,
        why=why[:200],
        fix="pass a row of numbers for every gene, names of genes in front",
    )


def _read_file(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputFileError(
            "E-F07", "there is no such file", where=str(path), fix="pass its path"
        )
    try:
        if path.suffix == ".parquet":
            found = pd.read_parquet(path)
            first = found.columns[0] if len(found.columns) else None
            named = first is not None and not pd.api.types.is_numeric_dtype(found[first].dtype)
            return found.set_index(first) if named else found
        if path.suffix in {".npy", ".npz"}:
            msg = "an array of numpy has no names of genes"
            raise ValueError(msg)
        if path.suffix in {".csv", ".tsv"}:
            return pd.read_csv(path, index_col=0, sep="," if path.suffix == ".csv" else "\t")
        with path.open(encoding="utf-8") as lines:
            counts = len(lines.readline().split()) == 2
        return pd.read_csv(path, index_col=0, sep=r"\s+", header=None, skiprows=int(counts))
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise InputFileError(
            "E-F22",
            "the file cannot be read as a table",
            where=str(path),
            why=str(error)[:200],
            fix="pass a .parquet, .csv or .tsv of vectors by gene, or word2vec's text",
        ) from error


def vectors_for(
    features: FeatureSpace, table: pd.DataFrame, *, min_gene_overlap: float = 0.5
) -> torch.Tensor:
    """Return the vectors of a model's genes, (n_genes, width).

    Genes that the table lacks get vectors of the same spread, by chance: zeros
    would make them one gene.

    Parameters
    ----------
    features
        Genes of the model.
    table
        Of :func:`read_vectors`; names are matched as those of any query.
    min_gene_overlap
        Smallest accepted share of the genes that the table has.

    Raises
    ------
    GeneMatchError
        Too few genes are in the table (E-G03).
    """
    places = gene_places(features, FeatureSpace(tuple(table.index)))
    require_known_genes(
        places,
        min_gene_overlap,
        where="gene_table",
        what="in the table of vectors",
        why="the others would get some by chance",
        fix="take a table with the names that the data have, or leave it out",
    )
    values = table.to_numpy(dtype=np.float32)
    rng = np.random.default_rng(settings.stream_seed("genes"))
    out = rng.normal(values.mean(0), values.std(0), (len(places), values.shape[1]))
    known = places >= 0
    out[known] = values[places[known]]
    logger.info("%d of %d genes are in the table of vectors", known.sum(), len(known))
    return torch.from_numpy(out.astype(np.float32))


def chosen_rows(data: CellDataModule) -> NDArray[np.int64]:
    """Return training cells to look at, at most 4,096, evenly over all of them."""
    rows = np.sort(np.asarray(data.split.train, dtype=np.int64))
    if len(rows) > CELLS:
        rows = rows[np.linspace(0, len(rows) - 1, CELLS).astype(np.int64)]
    return rows


def learn_from_cells(core: SCBERTCore, data: CellDataModule) -> None:
    """Let a fresh core know what levels are worth, and where asked how genes go together.

    Parameters
    ----------
    core
        Changed in place.
    data
        Of the training; training cells alone are read.
    """
    values = normalized_rows(data, chosen_rows(data))
    core.encoder.levels.copy_(level_means(core, values))
    if core.config["gene_embedding"] == "coexpression":
        width = int(core.config["gene_width"])
        core.encoder.genes.set_genes(coexpression_vectors(values, width))


def settle_head(core: SCBERTCore, data: CellDataModule) -> None:
    """Let a fresh head know how the cells that it will read differ.

    Parameters
    ----------
    core
        Changed in place.
    data
        Of the training; up to 512 training cells are read.
    """
    if not isinstance(core.head, PooledHead):
        return
    rows = chosen_rows(data)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), SETTLED)).astype(np.int64)]
    cells = host_batch({"X": normalized_rows(data, rows)})["X"]
    core.eval()
    with torch.no_grad():
        core.head.settle(core({"X": cells.to(core.device)})["latent"])


def level_means(core: SCBERTCore, values: sparse.csr_matrix) -> torch.Tensor:
    """Return the mean log1p value of every level; levels that no gene has keep theirs."""
    tokens = level_tokens(host_batch({"X": values})["X"], core.n_bins, core.config["binning"])
    found = np.bincount(tokens.numpy(), minlength=core.n_bins + 1)
    sums = np.bincount(tokens.numpy(), weights=values.data, minlength=core.n_bins + 1)
    means = torch.from_numpy(sums / np.maximum(found, 1)).float()
    kept = core.encoder.levels.cpu()
    out = torch.where(torch.from_numpy(found > 0), means, kept)
    # What is below the first level is as good as nothing.
    out[0] = 0.0
    return out.to(core.encoder.levels.device)


def coexpression_vectors(values: sparse.csr_matrix, width: int) -> torch.Tensor:
    """Return vectors whose products are close to the correlations of genes, (n_genes, width).

    Parameters
    ----------
    values
        Log1p values of training cells, CSR (n_cells, n_genes).
    width
        Length of the vectors. Where there are fewer cells or genes, what is missing is drawn, and
        so are the vectors of genes that do not vary. All are brought to the spread of a fresh
        table, one.
    """
    n_cells, n_genes = values.shape
    mean = np.asarray(values.mean(0), dtype=np.float64).ravel()
    second = np.asarray(values.multiply(values).mean(0), dtype=np.float64).ravel()
    sd = np.sqrt(np.maximum(second - mean**2, 0.0))
    # Genes of a few cells would correlate by chance: a floor under the deviation holds them down.
    floor = np.quantile(sd[sd > 0], 0.1) if (sd > 0).any() else 1.0
    scale = np.where(sd > 0, 1 / np.maximum(sd, floor), 0.0)
    x = values.astype(np.float64) @ sparse.diags(scale)
    centre = mean * scale
    ones = np.ones(n_cells)
    operator = LinearOperator(
        values.shape,
        matvec=lambda v: x @ v.ravel() - ones * (centre @ v.ravel()),
        rmatvec=lambda u: x.T @ u.ravel() - centre * u.sum(),
        dtype=np.float64,
    )
    rng = np.random.default_rng(settings.stream_seed("genes"))
    k = min(width, n_cells - 1, n_genes - 1)
    if k < 1:  # nothing goes together with anything
        return torch.from_numpy(rng.normal(size=(n_genes, width)).astype(np.float32))
    _, s, vt = svds(operator, k=k, v0=rng.normal(size=min(values.shape)))
    order = np.argsort(-s)
    vectors = vt[order].T * s[order] / np.sqrt(n_cells)
    # Signs of singular vectors are arbitrary: the largest entry is positive.
    sign = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(k)])
    vectors = vectors * np.where(sign == 0, 1, sign)
    spread = np.sqrt((vectors[sd > 0] ** 2).mean()) if (sd > 0).any() else 1.0
    out = rng.normal(size=(n_genes, width))
    out[:, :k] = np.where((sd > 0)[:, None], vectors / max(spread, 1e-12), out[:, :k])
    return torch.from_numpy(out.astype(np.float32))
