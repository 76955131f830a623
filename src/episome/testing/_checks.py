"""The checks that every annotator must pass, whoever wrote it."""

from __future__ import annotations

import hashlib
import pickletools
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from episome import plugins, settings
from episome.errors import EpisomeError, GeneMatchError, InputDataError, LabelError
from episome.testing._subject import Subject, synthetic_adata

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from episome.data import Labels
    from episome.models import EpisomeModel

TOLERANCE = 1e-5


def check_genes_are_aligned_by_name(subject: Subject) -> None:
    """Permuted, extra genes change nothing; missing ones are zeros; foreign ones are refused."""
    query, model = subject.query, subject.trained
    order = np.random.default_rng(0).permutation(query.n_vars)
    _same(
        model.predict_proba(query[:, order]), subject.probabilities, "permuted genes", exact=True
    )

    noise = sparse.random(query.n_obs, 20, density=0.3, random_state=0, format="csr").ceil()
    extra = pd.DataFrame(index=[f"EXTRA{i}" for i in range(20)])
    wide = anndata.AnnData(
        sparse.hstack([noise, query.X], format="csr"),
        obs=query.obs,
        var=pd.concat([extra, query.var]),
    )
    _same(model.predict_proba(wide), subject.probabilities, "extra genes", exact=True)

    kept = order[: int(0.7 * query.n_vars)]
    zeroed = query.X.toarray()
    zeroed[:, np.setdiff1d(order, kept)] = 0
    zeros = anndata.AnnData(sparse.csr_matrix(zeroed), obs=query.obs, var=query.var)
    got = model.predict_proba(query[:, kept]).to_numpy()
    _same(model.predict_proba(zeros), got, "missing genes against zeros")

    foreign = query.copy()
    foreign.var_names = [f"OTHER{i}" for i in range(foreign.n_vars)]
    _refuses(GeneMatchError, lambda: model.predict(foreign), "a query of foreign genes")


def check_query_needs_no_labels(subject: Subject) -> None:
    """Labels of a query, absent, unknown or missing, change no call."""
    query, model = subject.query, subject.trained
    _require("cell_type" not in query.obs, "the kit's query must have no labels")
    for value in ("never seen", None, 7):
        labelled = query.copy()
        labelled.obs["cell_type"] = pd.Series(
            [value] * query.n_obs, index=query.obs_names, dtype=object
        )
        _same(
            model.predict_proba(labelled), subject.probabilities, f"labels {value!r}", exact=True
        )


def check_matrix_formats_agree(subject: Subject) -> None:
    """CSR, CSC, sparse arrays, dense, other dtypes, views and backed files give the same."""
    query, model, x = subject.query, subject.trained, subject.query.X
    forms: dict[str, object] = {
        "csc_matrix": sparse.csc_matrix(x),
        "csr_array": sparse.csr_array(x),
        "csc_array": sparse.csc_array(x),
        "dense": x.toarray(),
        "Fortran order": np.asfortranarray(x.toarray()),
        "int64": x.astype(np.int64),
        "float64": x.astype(np.float64),
        "uint16": x.toarray().astype(np.uint16),
    }
    for name, matrix in forms.items():
        adata = anndata.AnnData(matrix, obs=query.obs, var=query.var)
        _same(model.predict_proba(adata), subject.probabilities, name)
    padded = anndata.concat([query, query], index_unique="-")
    padded.var = query.var
    _same(model.predict_proba(padded[: query.n_obs]), subject.probabilities, "a view")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("csr", "csc"):
            path = Path(folder) / f"{name}.h5ad"
            anndata.AnnData(x.asformat(name), obs=query.obs, var=query.var).write_h5ad(path)
            backed = anndata.read_h5ad(path, backed="r")
            _same(model.predict_proba(backed), subject.probabilities, f"backed {name}")
            backed.file.close()


def check_batch_size_and_order_do_not_matter(subject: Subject) -> None:
    """Probabilities of a cell do not depend on its batch mates."""
    query, model = subject.query, subject.trained
    for size in (1, 7, query.n_obs):
        got = model.predict_proba(query, batch_size=size)
        _same(got, subject.probabilities, f"batch_size={size}")
    order = np.random.default_rng(0).permutation(query.n_obs)
    _same(model.predict_proba(query[order]), subject.probabilities[order], "permuted cells")


def check_save_and_load_are_exact(subject: Subject) -> None:
    """Load a folder: the same bits, with and without data, and no pickle in it."""
    model = subject.trained
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        model.save(path)
        loaded = subject.cls.load(path)
        _same(loaded.predict_proba(subject.query), subject.probabilities, "load", exact=True)
        again = subject.cls.load(path, synthetic_adata())
        _same(
            again.predict_proba(subject.query), subject.probabilities, "load with data", exact=True
        )
        _require(_labels(again).names == _labels(model).names, "the classes changed order")
        _refuses(EpisomeError, lambda: model.save(path), "saving over a folder without overwrite")
        model.save(path, overwrite=True)
        for file in path.rglob("*"):
            _require(not file.is_file() or not _is_pickle(file), f"{file.name} is a pickle")


def check_caller_is_not_modified(subject: Subject) -> None:
    """Training data keep everything but the documented keys; queries keep everything."""
    adata = synthetic_adata()
    before = fingerprint(adata)
    model = subject.train(adata)
    _require(fingerprint(adata) == before, "set-up or training changed the training data")
    query = subject.query.copy()
    untouched = fingerprint(query)
    model.predict(query)
    model.annotate(query[:, ::-1])
    _require(fingerprint(query) == untouched, "prediction changed the query")
    _require(not any(str(c).startswith("_scvi") for c in query.obs), "prediction left keys in obs")
    view = query[:10]
    model.predict(view)
    _require(view.is_view, "prediction turned the caller's view into a copy")


def check_same_seed_gives_same_model(subject: Subject) -> None:
    """Two trainings from one seed are bit-identical; the global random state is left alone."""
    state = _global_random_state()
    first = subject.train(synthetic_adata()).predict_proba(subject.query).to_numpy()
    second = subject.train(synthetic_adata()).predict_proba(subject.query)
    _same(second, first, "a second training", exact=True)
    _require(_global_random_state() == state, "numpy's global random state was changed")


def check_last_batch_of_one(subject: Subject) -> None:
    """One cell left over for the last batch harms neither training nor prediction."""
    quick = subject.quick()
    n = 33 if quick else 31
    model = subject.train(
        synthetic_adata(n), **({**quick, "train_size": 1.0, "batch_size": 32} if quick else {})
    )
    got = model.predict_proba(subject.query[:5], batch_size=4)
    _same(got, model.predict_proba(subject.query[:5]).to_numpy(), "a last batch of one")
    _require(len(model.predict(subject.query[:1])) == 1, "one cell is not one call")


def check_single_class_is_refused(subject: Subject) -> None:
    """One class, missing labels and an unknown column are refused at set-up, with a fix."""
    single = synthetic_adata(20)
    single.obs["cell_type"] = "only"
    _refuses(LabelError, lambda: subject.set_up(single), "a single class")
    missing = synthetic_adata(20)
    missing.obs.loc[missing.obs_names[:3], "cell_type"] = None
    _refuses(LabelError, lambda: subject.set_up(missing), "missing labels")
    _require("_scvi_labels" not in missing.obs, "a refused set-up left keys behind")


def check_unusable_values_are_refused(subject: Subject) -> None:
    """NaN, infinite, negative values and a matrix of zeros are refused."""
    for value in (np.nan, np.inf, -1.0):
        for adata in (synthetic_adata(), subject.query.copy()):
            adata.X = adata.X.copy()
            adata.X.data[5] = value
            call = subject.set_up if "cell_type" in adata.obs else subject.trained.predict
            _refuses(InputDataError, partial(call, adata), f"a value {value}")
    zero = subject.query.copy()
    zero.X = sparse.csr_matrix(zero.shape, dtype=np.float32)
    _refuses(InputDataError, lambda: subject.trained.predict(zero), "a matrix of zeros")
    logged = synthetic_adata()
    logged.X = logged.X.log1p()
    _refuses(
        InputDataError,
        lambda: subject.set_up(logged, input_kind="counts"),
        "log1p given as counts",
    )


def check_empty_query(subject: Subject) -> None:
    """No cells give an empty result of the right columns; an empty cell is never a type."""
    model = subject.trained
    calls = model.annotate(subject.query[:0])
    full = model.annotate(subject.query[:2])
    _require(len(calls) == 0 and list(calls.columns) == list(full.columns), "an empty query")
    _require(len(model.predict(subject.query[:0])) == 0, "an empty prediction")
    counts = subject.query.X.toarray()
    counts[0] = 0
    blank = anndata.AnnData(sparse.csr_matrix(counts), var=subject.query.var)
    row = model.annotate(blank).iloc[0]
    _require(row["label"] == _labels(model).unlabeled, "a cell without counts got a type")
    _require(bool(np.isnan(row["confidence"])), "a cell without counts got a confidence")


def check_listing_is_light(subject: Subject) -> None:
    """Neither the plugin's light module nor its core imports more than it needs."""
    spec = plugins.spec_of_class(subject.cls)
    _require(spec is not None, "the class is not registered by any plugin")
    heavy = "torch", "scvi", "lightning", "anndata"
    _imports_nothing(
        f"import episome.plugins as p; p.get_spec({spec.plugin + ':' + spec.name!r})", heavy
    )
    if "scvi" not in spec.needs:
        module = spec.core.split(":")[0]
        _imports_nothing(f"import {module}", ("scvi", "lightning"))


def check_ensemble_averages_its_members(subject: Subject) -> None:
    """Members are averaged, and the first member is the model of the seed."""
    reference = synthetic_adata()
    subject.cls.setup_anndata(reference, labels_key="cell_type")
    with settings.using_seed(0):
        ensemble = subject.cls.ensemble(reference, n_models=2)
        ensemble.train(**subject.quick())
    members = [m.predict_proba(subject.query).to_numpy() for m in ensemble.members]
    got = ensemble.predict_proba(subject.query)
    _same(got, np.mean(members, axis=0), "an ensemble against the mean of its members")
    first = subject.train(synthetic_adata()).predict_proba(subject.query)
    _same(first, members[0], "the first member against the model of its seed")


CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_genes_are_aligned_by_name,
    check_query_needs_no_labels,
    check_matrix_formats_agree,
    check_batch_size_and_order_do_not_matter,
    check_save_and_load_are_exact,
    check_caller_is_not_modified,
    check_same_seed_gives_same_model,
    check_last_batch_of_one,
    check_single_class_is_refused,
    check_unusable_values_are_refused,
    check_empty_query,
    check_listing_is_light,
    check_ensemble_averages_its_members,
)


# --- helpers ------------------------------------------------------------------------------------


class CheckFailure(AssertionError):
    """A model does not keep the contract; the message says what to do."""


def _require(condition: object, what: str) -> None:
    if not condition:
        raise CheckFailure(what)


def _labels(model: EpisomeModel) -> Labels:
    if model.labels is None:
        msg = "the model has no classes"
        raise CheckFailure(msg)
    return model.labels


def _same(got: pd.DataFrame, wanted: np.ndarray, what: str, *, exact: bool = False) -> None:
    values = got.to_numpy()
    _require(values.shape == wanted.shape, f"{what}: shape {values.shape}, not {wanted.shape}")
    if not np.isfinite(values).all():
        msg = f"{what}: probabilities are not finite"
        raise CheckFailure(msg)
    difference = float(np.abs(values - wanted).max(initial=0.0))
    limit = 0.0 if exact else TOLERANCE
    _require(
        difference <= limit,
        f"{what}: probabilities differ by {difference:.2g} (at most {limit:g})",
    )


def _refuses(cls: type[EpisomeError], call: Callable[[], object], what: str) -> None:
    try:
        call()
    except cls as error:
        _require(all(p.code and p.text for p in error.problems), f"{what}: the message is empty")
        return
    msg = f"{what} is accepted; {cls.__name__} is expected"
    raise CheckFailure(msg)


def _global_random_state() -> tuple[bytes, int]:
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - what is checked
    return state["state"]["key"].tobytes(), state["state"]["pos"]


def _is_pickle(path: Path) -> bool:
    """Whether a file parses as a pickle to its end; nothing in it is executed."""
    try:
        operations = [op.name for op, _, _ in pickletools.genops(path.read_bytes())]
    except (ValueError, IndexError, UnicodeDecodeError):
        return False
    return operations[-1:] == ["STOP"]


def _imports_nothing(code: str, modules: tuple[str, ...]) -> None:
    probe = f"{code}\nimport sys; print([m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False, timeout=300
    )
    _require(done.returncode == 0, f"{code} fails: {done.stderr.strip()[-300:]}")
    found = done.stdout.strip().splitlines()[-1]
    _require(found == "[]", f"{code} imports {found}")


def fingerprint(adata: AnnData) -> str:
    """Hash of everything in an object but scvi-tools' documented bookkeeping."""
    h = hashlib.sha256()

    def add(value: object) -> None:
        h.update(repr(value).encode() if not isinstance(value, bytes) else value)

    def matrix(x: Any) -> None:
        add((type(x).__name__, getattr(x, "dtype", None), x.shape))
        parts = (x.data, x.indices, x.indptr) if sparse.issparse(x) else (np.asarray(x),)
        for part in parts:
            add(np.ascontiguousarray(part).tobytes())

    def frame(df: pd.DataFrame) -> None:
        kept = df[[c for c in df.columns if not str(c).startswith("_scvi")]]
        add((list(kept.columns), list(map(str, kept.dtypes))))
        add(pd.util.hash_pandas_object(kept, index=True).to_numpy().tobytes())

    matrix(adata.X)
    frame(adata.obs)
    frame(adata.var)
    for name, store in (("layers", adata.layers), ("obsm", adata.obsm), ("varm", adata.varm)):
        for key in sorted(k for k in store if k is not None):
            add((name, key))
            matrix(store[key])
    add(sorted((k, repr(v)) for k, v in adata.uns.items() if not str(k).startswith("_scvi")))
    if adata.raw is not None:
        matrix(adata.raw.X)
    return h.hexdigest()
