"""`episome data` and `episome completion` from end to end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import jsonschema
import numpy as np
import pytest
from _program import in_own_process, program, refused
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy import sparse

from episome.cli import _app
from episome.cli._answers import answer_schema
from episome.data import AnnDataSource, cells_digest, simulate_cells
from episome.io import cached_model

SCHEMA = answer_schema("")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cells():
    found = simulate_cells(70, 30, n_types=3, n_donors=3)
    found.layers["counts"] = found.X.copy()
    found.write_h5ad("cells.h5ad")
    return found


def answer(result):
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    jsonschema.validate(found, SCHEMA)
    assert found["ok"] is (result.exit_code == 0)
    return found


def hashed(*words) -> str:
    result = program("data", "hash", *words, "--json")
    assert result.exit_code == 0, result.output
    return answer(result)["content"]


# -- hash ----------------------------------------------------------------------------------------


def test_every_form_of_the_same_cells_has_one_digest(cells):
    known = hashed("cells.h5ad")
    forms = {
        "csc": sparse.csc_matrix(cells.X),
        "dense": cells.X.toarray(),
        "float64": cells.X.astype(np.float64),
        "stored zeros": sparse.csr_matrix(np.ones(cells.shape, dtype=np.float32)),
    }
    forms["stored zeros"].data = cells.X.toarray().ravel()
    for name, matrix in forms.items():
        other = cells.copy()
        other.X = matrix
        other.write_h5ad(f"{name}.h5ad")
        assert hashed(f"{name}.h5ad") == known
    cells[:, ::-1].copy().write_h5ad("genes.h5ad")
    cells.write_zarr("cells.zarr")
    cells.obs["more"] = "x"
    cells.write_h5ad("columns.h5ad")

    assert hashed("genes.h5ad") == hashed("cells.zarr") == hashed("columns.h5ad") == known
    assert hashed("cells.h5ad", "--layer", "counts") == known


def test_other_cells_have_another_digest(cells):
    known = hashed("cells.h5ad")
    changed = cells.copy()
    changed.X[3, 4] += 1
    names = cells.copy()
    names.obs_names = [f"x{n}" for n in names.obs_names]
    genes = cells.copy()
    genes.var_names = [f"x{n}" for n in genes.var_names]
    swapped = cells.copy()
    swapped.var_names = [*cells.var_names[1::-1], *cells.var_names[2:]]

    found = {known}
    for i, other in enumerate(
        (changed, names, genes, swapped, cells[::-1].copy(), cells[1:].copy())
    ):
        other.write_h5ad(f"{i}.h5ad")
        found.add(hashed(f"{i}.h5ad"))
    assert len(found) == 7


def test_the_digest_of_the_bytes_is_that_of_the_file(cells):
    result = program("data", "hash", "cells.h5ad")

    digest = hashlib.sha256(Path("cells.h5ad").read_bytes()).hexdigest()
    assert f"  sha256   {digest}" in result.stdout
    assert "  70 cells, 30 genes, cells.h5ad.X" in result.stdout


def test_several_files_are_hashed_in_blocks(cells):
    Path("parts").mkdir()
    cells[:30].copy().write_h5ad("parts/a.h5ad")
    cells[30:].copy().write_h5ad("parts/b.h5ad")

    assert hashed("parts") != hashed("parts/a.h5ad")
    assert answer(program("data", "hash", "parts", "--json"))["n_obs"] == 70


@examples(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from(["csr", "csc", "dense"]))
def test_the_order_of_genes_and_the_form_never_matter(seed, form):
    rng = np.random.default_rng(seed)
    values = rng.poisson(0.5, (int(rng.integers(0, 6)), 5)).astype(np.float32)
    adata = anndata.AnnData(sparse.csr_matrix(values))
    order = rng.permutation(5)
    other = adata[:, order].copy()
    if form != "dense":
        other.X = getattr(sparse, f"{form}_matrix")(other.X)
    else:
        other.X = other.X.toarray()

    assert cells_digest(AnnDataSource(other)) == cells_digest(AnnDataSource(adata))


# -- convert -------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["out.h5ad", "out.zarr"])
@pytest.mark.parametrize("form", ["as is", "csr", "csc", "dense"])
def test_conversion_keeps_the_cells(cells, output, form):
    before = Path("cells.h5ad").read_bytes()

    result = program("data", "convert", "cells.h5ad", "-o", output, "--form", form, "--json")

    assert result.exit_code == 0, result.output
    assert answer(result)["content"] == hashed("cells.h5ad") == hashed(output)
    read = anndata.read_zarr(output) if output.endswith("zarr") else anndata.read_h5ad(output)
    kind = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.ndarray}
    assert isinstance(read.X, kind.get(form, sparse.csr_matrix))
    assert isinstance(read.layers["counts"], kind.get(form, sparse.csr_matrix))
    assert list(read.obs["cell_type"]) == list(cells.obs["cell_type"])
    assert Path("cells.h5ad").read_bytes() == before
    again = program("data", "convert", "cells.h5ad", "-o", output, "--form", form, "--json")
    assert answer(again)["repeated"]


def test_tables_become_h5ad(cells):
    cells.to_df().to_csv("cells.csv")

    assert program("data", "convert", "cells.csv", "-o", "out.h5ad").exit_code == 0
    assert hashed("out.h5ad") == hashed("cells.h5ad")


def test_cells_that_come_back_as_others_are_not_written(cells, monkeypatch):
    from episome.jobs import _data

    def broken(adata, form):
        other = adata.copy()
        other.X[0, 0] += 1
        return other

    monkeypatch.setattr(_data, "_in_form", broken)

    for output in ("out.h5ad", "out.zarr"):
        refused(3, "E-D67", "data", "convert", "cells.h5ad", "-o", output)


def test_mistakes_are_refused(cells):
    refused(2, "E-U08", "data", "convert", "cells.h5ad", "-o", "out.csv", match="zarr")
    refused(3, "E-F25", "data", "convert", "cells.h5ad", "-o", "cells.h5ad")
    refused(3, "E-F07", "data", "convert", "nowhere.h5ad", "-o", "out.h5ad")
    refused(3, "E-F07", "data", "hash", "nowhere.h5ad")
    refused(3, "E-D28", "data", "hash", "cells.h5ad", "--layer", "nothing")
    Path("out.h5ad").write_text("mine")
    refused(3, "E-F26", "data", "convert", "cells.h5ad", "-o", "out.h5ad")


# -- census --------------------------------------------------------------------------------------


class Remote(AnnDataSource):
    """Cells that stand in for those of the Census."""

    obs_columns = ("cell_type", "donor_id")


@pytest.mark.parametrize("output", ["out.h5ad", "out.zarr"])
def test_cells_of_the_census_become_a_file(cells, output, monkeypatch):
    from episome.jobs import _data

    asked = []
    monkeypatch.setattr(_data, "READ", 32)
    monkeypatch.setattr(_data, "streamed_cells", lambda path: asked.append(path) or Remote(cells))
    query = "census:homo_sapiens@2025-01-30?tissue == 'lung'"

    found = answer(program("data", "census", query, "-o", output, "--json"))

    assert asked == [Path(query)]
    assert found["content"] == hashed("cells.h5ad") == hashed(output)
    read = anndata.read_zarr(output) if output.endswith("zarr") else anndata.read_h5ad(output)
    assert list(read.obs) == ["cell_type", "donor_id"]
    assert list(read.obs["cell_type"]) == list(cells.obs["cell_type"])
    refused(3, "E-F26", "data", "census", query, "-o", output)


def test_the_census_is_not_asked_in_vain(cells):
    refused(2, "E-U94", "data", "census", "lung", "-o", "out.h5ad", match="census:ORGANISM")
    refused(2, "E-U08", "data", "census", "census:homo_sapiens", "-o", "out.csv")
    words = ("data", "census", "census:homo_sapiens@2025-01-30", "-o", "out.h5ad")
    refused(7, "E-N04", *words, "--offline", match="the Census needs a connection")


# -- completion ----------------------------------------------------------------------------------

BASH = """
source script.sh
COMP_WORDS=({words}) COMP_CWORD={place}
_episome_completion episome
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(*words: str) -> set[str]:
    """What bash offers after some words."""
    Path("script.sh").write_text(program("completion", "bash").stdout)
    text = BASH.format(words=" ".join(f"'{w}'" for w in words), place=len(words) - 1)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", text],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path},
    )
    return set(ran.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_commands_options_and_models():
    folder = cached_model("my-lab/toy")
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")

    assert set(_app.COMMANDS) <= completed("episome", "")
    assert completed("episome", "evalu") == {"evaluate"}
    assert {"--labels-key", "--layer"} <= completed("episome", "train", "--la")
    assert completed("episome", "train", "--input-kind", "c") == {"counts"}
    assert completed("episome", "corpus", "ver") == {"verify"}
    assert completed("episome", "annotate", "x.h5ad", "-m", "my-") == {"my-lab/toy"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh_takes_the_script():
    Path("script.zsh").write_text(program("completion", "zsh").stdout)

    ran = subprocess.run(["zsh", "-n", "script.zsh"], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(shell):
    found = answer(program("completion", shell, "--json"))

    assert "_EPISOME_COMPLETE" in found["script"]
    assert "episome completion" in found["use"]
    refused(2, "E-U02", "completion", "tcsh", match="bash")


@pytest.mark.parametrize(
    "words", [("data", "hash"), ("data", "convert"), ("data", "census"), ("completion",)]
)
def test_help_imports_nothing_heavy(words):
    asked = in_own_process(*words, "--help")

    assert asked.returncode == 0
    assert len([li for li in asked.stdout.splitlines() if li.strip().startswith("$ ")]) >= 2
    assert "HEAVY []" in asked.stderr


def test_annotated_cells_are_written_for_other_programs():
    cells = simulate_cells(40, 20, n_types=2)
    cells.obs["episome_label"] = cells.obs["cell_type"].astype(str)
    cells.obsm["X_umap"] = np.zeros((40, 2))
    cells.write_h5ad("annotated.h5ad")
    to = ("data", "convert", "annotated.h5ad", "--to")

    cas = answer(program(*to, "cas", "--author", "A B", "-o", "a.json", "--json"))
    portal = answer(program(*to, "cellxgene", "-o", "portal.h5ad", "--json"))

    assert cas["form"] == "cas"
    assert "obs['assay_ontology_term_id']" in portal["missing"]
    assert "the portal also wants" in program(*to, "cellxgene", "-o", "again.h5ad").stdout
    refused(2, "E-U142", *to, "cas", "-o", "b.json", match="--author")
