"""Model folders, result files and the writing that survives a crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.io._atomic import ensure_free, write_file, write_folder
    from episome.io._corpus import is_corpus, read_corpus_manifest
    from episome.io._ensemble import (
        EnsembleFolder,
        read_ensemble_folder,
        write_ensemble_folder,
    )
    from episome.io._folder import (
        ModelFolder,
        check_model_output,
        is_ensemble,
        read_manifest,
        read_model_folder,
        write_model_folder,
    )
    from episome.io._json import decode, encode
    from episome.io._results import (
        SCHEMA_COLUMNS,
        check_columns,
        check_output,
        prefixed,
        write_calls,
        write_calls_in_parts,
    )

_HOME = {
    "EnsembleFolder": "_ensemble",
    "ModelFolder": "_folder",
    "SCHEMA_COLUMNS": "_results",
    "check_columns": "_results",
    "check_model_output": "_folder",
    "check_output": "_results",
    "decode": "_json",
    "encode": "_json",
    "ensure_free": "_atomic",
    "is_corpus": "_corpus",
    "is_ensemble": "_folder",
    "read_corpus_manifest": "_corpus",
    "prefixed": "_results",
    "read_ensemble_folder": "_ensemble",
    "read_manifest": "_folder",
    "read_model_folder": "_folder",
    "write_calls": "_results",
    "write_calls_in_parts": "_results",
    "write_ensemble_folder": "_ensemble",
    "write_file": "_atomic",
    "write_folder": "_atomic",
    "write_model_folder": "_folder",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
