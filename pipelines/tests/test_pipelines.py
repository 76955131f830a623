"""Snakemake, Nextflow and WDL: linted, and run on small folders where the engine is there."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from pipelines.tests.engines import engine, run

HERE = Path(__file__).resolve().parents[1]
CELLS = {
    "one": "cell ranger/filtered_feature_bc_matrix",
    "two": "Solo.out/Gene/filtered",
}
SNAKEFILE, NEXTFLOW, WDL = (
    HERE / "snakemake/Snakefile",
    HERE / "nextflow",
    HERE / "wdl/episome.wdl",
)


def complete(folder: Path, sample: str) -> None:
    """All that a sample should have is there, and says the same."""
    check = json.loads((folder / f"{sample}.check.json").read_text())
    calls = pd.read_csv(folder / f"{sample}.calls.csv")
    record = json.loads((folder / f"{sample}.calls.csv.run.json").read_text())
    page = (folder / f"{sample}.report.html").read_text()
    assert check["ok"]
    assert len(calls) == 50
    assert set(calls["label"].dropna()) <= {"type 0", "type 1", "type 2", "unknown"}
    assert (record["command"], record["exit_code"]) == ("annotate", 0)
    assert page.startswith("<!doctype html>")


# --- Snakemake --------------------------------------------------------------------------------


def configuration(samples: Path, place: Path, **cells: str) -> Path:
    config = {
        "samples": {n: str(samples / p) for n, p in cells.items()},
        "model": str(samples / "model"),
        "results": str(place / "results"),
        "options": "--min-confidence 0.1",
    }
    (place / "config.json").write_text(json.dumps(config))
    return place / "config.json"


def test_the_snakefile_has_nothing_to_complain_of(samples, tmp_path):
    snakemake = engine("snakemake")
    config = configuration(samples, tmp_path, **CELLS)

    said = run(snakemake, "-s", SNAKEFILE, "--configfile", config, "--lint", cwd=tmp_path)

    assert "Congratulations, your workflow is in a good condition" in said


def test_snakemake_annotates_every_sample_and_does_nothing_twice(samples, tmp_path):
    snakemake = engine("snakemake")
    config = configuration(samples, tmp_path, **CELLS)
    command = (snakemake, "-s", SNAKEFILE, "--configfile", config, "--cores", "2")

    run(*command, cwd=tmp_path)

    for sample in CELLS:
        complete(tmp_path / "results", sample)
    assert "Nothing to be done" in run(*command, cwd=tmp_path)


def test_snakemake_stops_where_a_sample_cannot_be_annotated(samples, tmp_path):
    snakemake = engine("snakemake")
    config = configuration(samples, tmp_path, bad="bad.h5ad")

    run(snakemake, "-s", SNAKEFILE, "--configfile", config, "--cores", "1", cwd=tmp_path, code=1)

    assert "E-D" in (tmp_path / "results" / "logs" / "bad.check.log").read_text()
    assert not (tmp_path / "results" / "bad.calls.csv").exists()


def test_snakemake_refuses_a_configuration_without_a_model(samples, tmp_path):
    snakemake = engine("snakemake")
    config = configuration(samples, tmp_path, **CELLS)
    config.write_text(json.dumps({"samples": {"one": "x"}, "results": "results"}))

    said = run(
        snakemake, "-s", SNAKEFILE, "--configfile", config, "--cores", "1", cwd=tmp_path, code=1
    )

    assert "'model' is a required property" in said


# --- WDL --------------------------------------------------------------------------------------


def test_the_workflow_description_has_nothing_to_complain_of(tmp_path):
    run(engine("miniwdl"), "check", "--strict", WDL, cwd=tmp_path)


@pytest.mark.parametrize("sample", sorted(CELLS))
def test_the_task_annotates_the_files_of_a_folder(samples, tmp_path, sample):
    python = Path(engine("miniwdl")).resolve().parent / "python"
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(samples / "model", arcname=".")
    inputs = {
        "sample": sample,
        "matrix": sorted(str(p) for p in (samples / CELLS[sample]).iterdir()),
        "model": str(tmp_path / "model.tar.gz"),
        "memory_gb": 1,
        "cpu": 1,
    }
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    script = Path(__file__).with_name("run_wdl.py")

    said = run(python, script, tmp_path / "inputs.json", tmp_path / "run", cwd=tmp_path)

    found = json.loads(said.splitlines()[0])
    assert set(found) == {"check", "calls", "record", "report"}
    complete(Path(found["calls"]).resolve().parent, sample)


# --- Nextflow ---------------------------------------------------------------------------------


def test_the_module_has_nothing_to_complain_of(tmp_path):
    run(engine("nextflow"), "lint", NEXTFLOW, cwd=tmp_path)


def test_nextflow_annotates_every_sample(samples, tmp_path):
    nextflow = engine("nextflow")
    rows = "".join(f"{n},{samples / p}\n" for n, p in CELLS.items())
    (tmp_path / "samples.csv").write_text(f"sample,path\n{rows}")
    options = ["--samples", "samples.csv", "--model", samples / "model", "--outdir", "results"]

    run(nextflow, "run", NEXTFLOW, *options, cwd=tmp_path)

    for sample in CELLS:
        complete(tmp_path / "results", sample)
