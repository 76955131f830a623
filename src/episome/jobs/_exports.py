"""Annotated cells in the forms of other programs: CELLxGENE, cell annotation schema, viewers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import io as scipy_io
from scipy import sparse

from episome.data import AnnDataSource, check_inputs, inspect_values, read_cells
from episome.errors import InputDataError, Problem, UsageError, warn
from episome.io import check_output, ensure_free, folder_beside, write_file
from episome.jobs._inputs import shown_name
from episome.log import get_logger
from episome.ontology import cell_ontology, schema_term

if TYPE_CHECKING:
    from anndata import AnnData

logger = get_logger(__name__)

ExportForm = Literal["cellxgene", "cas", "vitessce", "cellbrowser"]
EXPORT_FORMS: tuple[ExportForm, ...] = get_args(ExportForm)
#: Version of the cell annotation schema, and of the Vitessce configuration, that is written.
CAS_VERSION, VITESSCE_VERSION = "0.1.0", "1.0.16"
UNKNOWN = "unknown"
#: Columns that the CELLxGENE portal adds from the identifiers beside them: nobody else may.
TWINS = (
    "assay", "cell_type", "development_stage", "disease", "organism", "organism_ontology_term_id",
    "self_reported_ethnicity", "sex", "tissue",
)  # fmt: skip
#: Columns of genes that the portal adds.
GENE_TWINS = (
    "feature_biotype", "feature_length", "feature_name", "feature_reference", "feature_type",
)  # fmt: skip
#: Columns that a file must have before the portal takes it, beside the cell type.
REQUIRED = (
    "assay_ontology_term_id", "development_stage_ontology_term_id", "disease_ontology_term_id",
    "donor_id", "is_primary_data", "self_reported_ethnicity_ontology_term_id",
    "sex_ontology_term_id", "suspension_type", "tissue_ontology_term_id", "tissue_type",
)  # fmt: skip
_TYPE = "cell_type_ontology_term_id"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What ``episome data convert --to`` is asked for.

    Parameters
    ----------
    input
        Annotated h5ad, as ``episome annotate -o annotated.h5ad`` writes.
    output
        ``.h5ad`` for ``cellxgene``, ``.json`` for ``cas``, a new folder for the viewers.
    form
        What is written.
    prefix
        Of the columns of the calls.
    author
        Who annotated, first and last name; for ``cas``.
    title
        Of the data; default the name of the file.
    overwrite
        Replace an existing output.
    max_memory, trust
        Of ``episome.data.read_cells``.
    """

    input: Path
    output: Path
    form: ExportForm
    prefix: str = "episome_"
    author: str = ""
    title: str = ""
    overwrite: bool = False
    max_memory: int | None = None
    trust: bool = False


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written, and what it lacks that its readers want."""

    output: Path
    form: str
    n_obs: int
    n_vars: int
    missing: tuple[str, ...]


def data_export(request: ExportRequest) -> ExportResult:
    """Write annotated cells in the form of another program.

    Parameters
    ----------
    request
        What to do.

    Returns
    -------
    What was written.

    Raises
    ------
    InputDataError
        There are no calls with the prefix (E-D70), no counts for CELLxGENE (E-D71), or no map for
        a viewer (E-D72).
    UsageError
        The annotation has no author (E-U142), or the output has another ending (E-U08).
    EpisomeError
        Of ``read_cells``; nothing is written then.
    """
    check_inputs(request.input)
    if request.form == "cas" and not request.author.strip():
        raise UsageError(
            "E-U142",
            "nobody is named as the author of the annotation",
            where="cas",
            why="the cell annotation schema requires a name",
            fix='pass author= (--author "First Last")',
        )
    kinds = {"cellxgene": [".h5ad"], "cas": [".json"]}.get(request.form)
    if kinds is None:
        ensure_free(request.output, overwrite=request.overwrite)
    else:
        check_output(
            request.output, overwrite=request.overwrite, kinds=kinds, source=request.input
        )
    cells = read_cells(request.input, max_memory=request.max_memory, trust=request.trust)
    name = shown_name(request.input)
    calls = calls_of(cells, request.prefix, name)
    title = request.title or name
    missing: Sequence[str] = ()
    if request.form == "cellxgene":
        made = cellxgene_cells(cells, calls, title, name)
        missing = missing_for_cellxgene(made)
        write_file(request.output, made.write_h5ad, overwrite=request.overwrite)
    elif request.form == "cas":
        plain = cell_annotation(calls, author=request.author, title=title, **_made_by(cells))
        text = json.dumps(plain, indent=1, ensure_ascii=False)
        write_file(request.output, text.encode(), overwrite=request.overwrite)
    else:
        basis = _basis(cells, name)
        cells = _drawn(cells, name)
        write = _vitessce if request.form == "vitessce" else _cell_browser
        with folder_beside(request.output, overwrite=request.overwrite) as folder:
            folder.mkdir()
            write(cells, calls, basis, title, folder)
    return ExportResult(request.output, request.form, cells.n_obs, cells.n_vars, tuple(missing))


def calls_of(cells: AnnData, prefix: str, name: str) -> pd.DataFrame:
    """Return the calls that are in the columns of annotated cells.

    Parameters
    ----------
    cells
        Annotated.
    prefix
        Of the columns.
    name
        Of the file, for messages.

    Raises
    ------
    InputDataError
        There are none (E-D70).
    """
    wanted = f"{prefix}label"
    if wanted not in cells.obs:
        raise InputDataError(
            "E-D70",
            f"there is no column {wanted!r}",
            where=f"{name}, obs",
            why="only annotated cells have calls to write",
            fix="`episome annotate ... -o annotated.h5ad` first, or pass prefix= (--prefix)",
        )
    columns = {c.removeprefix(prefix): cells.obs[c] for c in cells.obs if c.startswith(prefix)}
    return pd.DataFrame(columns, index=cells.obs_names)


def _made_by(cells: AnnData) -> dict[str, str]:
    """Return what made the calls, as their provenance says."""
    found = cells.uns.get("episome", {})
    return made_by(found if isinstance(found, Mapping) else {})


def made_by(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments of :func:`cell_annotation` that say what made the calls.

    Parameters
    ----------
    provenance
        Of the calls, as ``uns["episome"]`` holds it.
    """
    plugin = str(provenance.get("plugin") or "")
    distribution = f"episome-{plugin}" if plugin not in ("", "None") else "episome"
    return {
        "algorithm": str(provenance.get("model") or "episome"),
        "version": str(provenance.get("episome") or metadata.version("episome")),
        "url": f"https://pypi.org/project/{distribution}/",
    }


# -- cell annotation schema ----------------------------------------------------------------------


def cell_annotation(
    calls: pd.DataFrame,
    *,
    author: str,
    title: str,
    algorithm: str = "episome",
    version: str = "",
    url: str = "https://pypi.org/project/episome/",
) -> dict[str, Any]:
    """Return calls as an object of the cell annotation schema.

    Parameters
    ----------
    calls
        Indexed by cell, with ``label``; ``label_ontology_term_id`` and ``confidence`` are used.
    author
        First and last name.
    title
        Of the data.
    algorithm, version, url
        What made the calls, and where its code is.

    Returns
    -------
    One label set, and an annotation for every label with the names of its cells.
    """
    labels = calls["label"].astype(str)
    labelset = "episome_label"
    made = {
        "algorithm_name": algorithm,
        "algorithm_version": version or metadata.version("episome"),
        "algorithm_repo_url": url,
    }
    described = {
        "name": labelset,
        "description": "Cell types called by a model",
        "annotation_method": "algorithmic",
        "automated_annotation": made,
    }
    return {
        "title": title,
        "author_name": author,
        "cellannotation_schema_version": CAS_VERSION,
        "cellannotation_timestamp": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "labelsets": [described],
        "annotations": [
            _annotation(labelset, str(label), calls.loc[labels.index[labels == label]])
            for label in sorted(set(labels))
        ],
    }


def _annotation(labelset: str, label: str, calls: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {"labelset": labelset, "cell_label": label, "cell_fullname": label}
    terms = calls.get("label_ontology_term_id")
    term = next((t for t in terms.astype(str) if t.startswith("CL:")), "") if terms is not None \
        else ""  # fmt: skip
    if term and label != UNKNOWN:
        ontology = cell_ontology()
        found["cell_ontology_term_id"] = term
        found["cell_ontology_term"] = ontology.label(term) if term in ontology else label
    if "confidence" in calls and label != UNKNOWN:
        mean = pd.to_numeric(calls["confidence"], errors="coerce").mean()
        if np.isfinite(mean):
            found["rationale"] = f"mean confidence {mean:.3f} over {len(calls):,} cells"
    found["cell_ids"] = list(map(str, calls.index))
    return found


# -- CELLxGENE -----------------------------------------------------------------------------------


def cellxgene_cells(cells: AnnData, calls: pd.DataFrame, title: str, name: str) -> AnnData:
    """Return cells as version 7.1.0 of the CELLxGENE schema has them; the given ones stay.

    Counts are in ``raw.X`` where ``X`` holds other values, else in ``X``, as float32, in rows
    where half of them are zero. Types are terms of the Cell Ontology that the schema allows, else
    ``unknown``. Columns that the portal itself adds are left out.

    Parameters
    ----------
    cells, calls
        Of ``episome annotate``.
    title
        Of the data.
    name
        Of the file, for messages.

    Raises
    ------
    InputDataError
        There are no counts (E-D71).
    """
    import anndata

    counts, var = _counts(cells, name)
    obs = cells.obs.drop(columns=[c for c in TWINS if c in cells.obs])
    obs = obs.assign(**{_TYPE: pd.Categorical(_allowed_terms(calls))})
    kept_var = cells.var.drop(columns=[c for c in GENE_TWINS if c in cells.var])
    uns = {k: v for k, v in cells.uns.items() if not k.startswith("_")}
    uns["title"] = title
    if "organism_ontology_term_id" not in uns and "organism_ontology_term_id" in cells.obs:
        organisms = cells.obs["organism_ontology_term_id"].astype(str).unique()
        if len(organisms) == 1:
            uns["organism_ontology_term_id"] = organisms[0]
    obsm = {k: v for k, v in cells.obsm.items() if np.ndim(v) == 2 and k.startswith("X_")}
    if _is_counts(cells.X):
        return anndata.AnnData(counts, obs=obs, var=kept_var, uns=uns, obsm=obsm)
    whole = anndata.AnnData(counts, obs=obs[[]], var=var)
    made = anndata.AnnData(_stored(cells.X), obs=obs, var=kept_var, uns=uns, obsm=obsm)
    made.raw = whole
    measured = np.asarray(abs(counts[:, var.index.get_indexer(kept_var.index)]).sum(axis=0))
    shown = np.asarray(abs(sparse.csr_matrix(made.X)).sum(axis=0))
    made.var["feature_is_filtered"] = ((measured > 0) & (shown == 0)).ravel()
    return made


def _allowed_terms(calls: pd.DataFrame) -> list[str]:
    ontology = cell_ontology()
    terms = calls.get("label_ontology_term_id", pd.Series("", index=calls.index)).astype(str)
    known = {term: schema_term(term, ontology) or UNKNOWN for term in terms.unique()}
    return [known[t] for t in terms]


def _counts(cells: AnnData, name: str) -> tuple[Any, pd.DataFrame]:
    """Return the counts and their genes: of X, of raw, or of a layer."""
    if _is_counts(cells.X):
        return _stored(cells.X), cells.var
    if cells.raw is not None and _is_counts(cells.raw.X):
        var = cells.raw.var.drop(columns=[c for c in GENE_TWINS if c in cells.raw.var])
        if set(cells.var_names) <= set(var.index):
            return _stored(cells.raw.X), var
    for key in cells.layers:
        if key is not None and _is_counts(cells.layers[key]):
            return _stored(cells.layers[key]), cells.var[[]]
    raise InputDataError(
        "E-D71",
        "there are no counts",
        where=f"{name}, X, raw and layers",
        why="the CELLxGENE schema requires them",
        fix="put them into a layer, and annotate again",
    )


def _is_counts(values: Any) -> bool:
    if values is None:
        return False
    numbers = values.data if sparse.issparse(values) else np.asarray(values)
    whole = (numbers >= 0).all() and np.array_equal(numbers, np.rint(numbers))
    return bool(numbers.size and whole)


def _stored(values: Any) -> Any:
    """Return values as float32, in rows where half of them are zero."""
    n = values.shape[0] * values.shape[1]
    stored = values.count_nonzero() if sparse.issparse(values) else np.count_nonzero(values)
    if 2 * stored <= n:
        return sparse.csr_matrix(values, dtype=np.float32)
    return np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float32)


def missing_for_cellxgene(cells: AnnData) -> list[str]:
    """Return what cells lack before the CELLxGENE portal takes them.

    Parameters
    ----------
    cells
        Of :func:`cellxgene_cells`.
    """
    found = [f"obs[{c!r}]" for c in REQUIRED if c not in cells.obs]
    if "organism_ontology_term_id" not in cells.uns:
        found.append("uns['organism_ontology_term_id']")
    if not all(str(g).startswith(("ENS", "FBgn", "WBGene")) for g in cells.var_names[:1000]):
        found.append("Ensembl identifiers as names of genes")
    if not any(k.startswith("X_") for k in cells.obsm):
        found.append("a map in obsm, such as X_umap")
    counts = sparse.csr_matrix(cells.X if cells.raw is None else cells.raw.X)
    if empty := int((np.diff(counts.indptr) == 0).sum()):
        found.append(f"counts of {empty:,} cells without any")
    return found


# -- viewers -------------------------------------------------------------------------------------


def _basis(cells: AnnData, name: str) -> str:
    for key in ("X_umap", "X_tsne", "X_draw_graph_fa", "X_pca"):
        if key in cells.obsm and np.ndim(cells.obsm[key]) == 2 and cells.obsm[key].shape[1] > 1:
            return key
    raise InputDataError(
        "E-D72",
        "there is no map of the cells",
        where=f"{name}, obsm",
        why="a viewer draws X_umap, X_tsne, X_draw_graph_fa or X_pca",
        fix="sc.pp.neighbors(adata); sc.tl.umap(adata)",
    )


def _drawn(cells: AnnData, name: str) -> AnnData:
    """Return cells with values that a reader of a map understands: not scaled by gene.

    ``raw`` takes the place of a scaled ``X``; without one the scaled values are shown, with a
    warning.
    """
    if inspect_values(AnnDataSource(cells)).kind != "scaled":
        return cells
    if cells.raw is None or inspect_values(AnnDataSource(cells, use_raw=True)).kind == "scaled":
        warn(
            Problem(
                "E-D73",
                "X holds values that were scaled by gene, and there is no raw",
                where=name,
                why="a viewer shows them as they are: below zero where a gene is low",
                fix="export cells with counts or log1p values in X or raw",
            )
        )
        return cells
    logger.info("%s: X holds scaled values, those of raw are written, with its genes", name)
    shown = cells.raw.to_adata()
    shown.uns = dict(cells.uns)
    return shown


def _vitessce(cells: AnnData, calls: pd.DataFrame, basis: str, title: str, folder: Path) -> None:
    """Write ``cells.zarr`` and ``config.json``."""
    import anndata

    obs = pd.DataFrame(
        {
            "label": calls["label"].astype(str).astype("category"),
            "confidence": pd.to_numeric(calls["confidence"], errors="coerce").astype("float32"),
        },
        index=cells.obs_names,
    )
    points = {basis: np.asarray(cells.obsm[basis])[:, :2].astype(np.float32)}
    matrix = sparse.csc_matrix(cells.X, dtype=np.float32)
    anndata.AnnData(matrix, obs=obs, var=cells.var[[]], obsm=points).write_zarr(
        folder / "cells.zarr"
    )
    kind = _short(basis)
    options = {
        "obsFeatureMatrix": {"path": "X"},
        "obsEmbedding": [{"path": f"obsm/{basis}", "embeddingType": kind}],
        "obsSets": [{"name": "Cell type", "path": "obs/label"}],
    }
    scopes = {"dataset": "A", "embeddingType": "A"}
    views = (("scatterplot", 0, 0, 8, 12), ("obsSets", 8, 0, 4, 6), ("featureList", 8, 6, 4, 6))
    config = {
        "version": VITESSCE_VERSION,
        "name": title,
        "description": "Cell types called by episome",
        "datasets": [
            {
                "uid": "A",
                "name": title,
                "files": [{"fileType": "anndata.zarr", "url": "cells.zarr", "options": options}],
            }
        ],
        "coordinationSpace": {"dataset": {"A": "A"}, "embeddingType": {"A": kind}},
        "layout": [
            {
                "component": name,
                "coordinationScopes": scopes if name == "scatterplot" else {"dataset": "A"},
                **dict(zip("xywh", place, strict=True)),
            }
            for name, *place in views
        ],
        "initStrategy": "auto",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _short(basis: str) -> str:
    return basis.removeprefix("X_").replace("_", " ").upper()


def _cell_browser(
    cells: AnnData, calls: pd.DataFrame, basis: str, title: str, folder: Path
) -> None:
    """Write what ``cbBuild`` of the UCSC Cell Browser reads."""
    meta = cells.obs.astype(str).drop(columns=[c for c in calls if c in cells.obs])
    meta = pd.concat([calls[["label", "confidence"]].astype(str), meta], axis=1)
    _tsv(meta, folder / "meta.tsv", "cellId")
    points = pd.DataFrame(
        np.asarray(cells.obsm[basis])[:, :2].astype(float), cells.obs_names, ["x", "y"]
    )
    _tsv(points, folder / "map.coords.tsv", "cellId")
    with gzip.open(folder / "matrix.mtx.gz", "wb") as handle:
        scipy_io.mmwrite(handle, sparse.coo_matrix(cells.X).T)
    for name, words in (("barcodes", cells.obs_names), ("features", cells.var_names)):
        text = "".join(f"{_one_line(w)}\n" for w in words)
        with gzip.open(folder / f"{name}.tsv.gz", "wb") as handle:
            handle.write(text.encode())
    settings: dict[str, Any] = {
        "name": "".join(c if c.isalnum() else "-" for c in title)[:60],
        "shortLabel": title,
        "exprMatrix": "matrix.mtx.gz",
        "meta": "meta.tsv",
        "geneIdType": "auto",
        "defColorField": "label",
        "labelField": "label",
        "enumFields": ["label"],
        "coords": [{"file": "map.coords.tsv", "shortLabel": _short(basis)}],
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    (folder / "cellbrowser.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _tsv(table: pd.DataFrame, path: Path, index: str) -> None:
    named = table.set_axis(map(_one_line, table.index), axis=0)
    named = named.map(lambda v: _one_line(v) if isinstance(v, str) else v)
    named.to_csv(path, sep="\t", index_label=index)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
