"""Model folders, result files and the writing that survives a crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.io._atomic import ensure_free, folder_beside, write_file, write_folder
    from episome.io._blocks import (
        EMBEDDING_KINDS,
        EXPRESSION_KINDS,
        check_obsm,
        frames_of,
        latent_columns,
        require_space,
        with_layers,
        write_embedding,
        write_expression,
    )
    from episome.io._cache import cached_model, cached_models, find_model
    from episome.io._corpus import is_corpus, read_corpus_manifest
    from episome.io._ensemble import (
        EnsembleFolder,
        read_ensemble_folder,
        write_ensemble_folder,
    )
    from episome.io._folder import (
        CARD,
        EVALUATION,
        SEALED,
        ModelFolder,
        card_file,
        check_model_output,
        folder_files,
        is_ensemble,
        read_manifest,
        read_model_folder,
        write_model_folder,
    )
    from episome.io._json import decode, encode
    from episome.io._provenance import RECORD, provenance, record_beside, version_of
    from episome.io._results import (
        CELL_KINDS,
        EVALUATION_KINDS,
        SCHEMA_COLUMNS,
        TABLES,
        check_columns,
        check_output,
        ending,
        prefixed,
        records,
        report_place,
        write_calls,
        write_calls_in_parts,
    )

_HOME = {
    "CELL_KINDS": "_results",
    "CARD": "_folder",
    "EMBEDDING_KINDS": "_blocks",
    "EVALUATION": "_folder",
    "EVALUATION_KINDS": "_results",
    "EXPRESSION_KINDS": "_blocks",
    "EnsembleFolder": "_ensemble",
    "ModelFolder": "_folder",
    "RECORD": "_provenance",
    "SCHEMA_COLUMNS": "_results",
    "TABLES": "_results",
    "SEALED": "_folder",
    "cached_model": "_cache",
    "cached_models": "_cache",
    "check_columns": "_results",
    "card_file": "_folder",
    "check_obsm": "_blocks",
    "check_model_output": "_folder",
    "check_output": "_results",
    "decode": "_json",
    "encode": "_json",
    "ending": "_results",
    "ensure_free": "_atomic",
    "folder_beside": "_atomic",
    "folder_files": "_folder",
    "find_model": "_cache",
    "frames_of": "_blocks",
    "is_corpus": "_corpus",
    "is_ensemble": "_folder",
    "latent_columns": "_blocks",
    "read_corpus_manifest": "_corpus",
    "prefixed": "_results",
    "provenance": "_provenance",
    "record_beside": "_provenance",
    "records": "_results",
    "report_place": "_results",
    "read_ensemble_folder": "_ensemble",
    "require_space": "_blocks",
    "read_manifest": "_folder",
    "read_model_folder": "_folder",
    "version_of": "_provenance",
    "with_layers": "_blocks",
    "write_calls": "_results",
    "write_calls_in_parts": "_results",
    "write_embedding": "_blocks",
    "write_ensemble_folder": "_ensemble",
    "write_expression": "_blocks",
    "write_file": "_atomic",
    "write_folder": "_atomic",
    "write_model_folder": "_folder",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
