"""Cells: where they come from, what they hold, how they are aligned, split and read in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.data._alignment import Alignment, AlignmentReport
    from episome.data._augment import DonorShifts, donor_shifts
    from episome.data._cell_columns import cell_columns
    from episome.data._census import CensusSource
    from episome.data._corpus_build import build_corpus, check_corpus_output, unfinished_corpus
    from episome.data._corpus_curate import Curation, curation_of
    from episome.data._corpus_inputs import (
        Condition,
        CorpusInput,
        cells_where,
        check_corpus_inputs,
    )
    from episome.data._corpus_plan import CorpusOptions, CorpusPlan, plan_corpus
    from episome.data._corpus_source import CorpusSource
    from episome.data._corpus_split import (
        nested_subsets,
        read_split,
        split_by_groups,
        split_columns,
    )
    from episome.data._corpus_verify import verify_corpus
    from episome.data._digest import cells_digest, names_bytes
    from episome.data._features import FeatureSpace
    from episome.data._folds import folds
    from episome.data._gene_names import transposed
    from episome.data._genes import variable_genes
    from episome.data._importance import GeneImportance
    from episome.data._inspect import inspect
    from episome.data._inspection import Finding, Inspection, MuInspection
    from episome.data._keys import SIZE_FACTOR_KEY
    from episome.data._labels import (
        Labels,
        check_classes,
        class_terms,
        clean_labels,
        definite_donors,
        labels_with_terms,
        require_all_classes,
        term_column,
    )
    from episome.data._loader import CellLoader
    from episome.data._logs import log_counts
    from episome.data._many import ManyCells
    from episome.data._match_features import FeatureMatch, MatchedSource, match_features
    from episome.data._modalities import (
        PairedCells,
        pair_modalities,
        pair_sources,
        parts_of,
    )
    from episome.data._name_tables import NameTable, read_gene_list, read_label_list
    from episome.data._obsm import ObsmSource, align_dimensions, require_finite
    from episome.data._order import BlockOrder
    from episome.data._organisms import Organisms, organisms_of, shown_organism
    from episome.data._own_sources import has_own_source, own_source
    from episome.data._panels import GenePanels, measured_features, measured_genes
    from episome.data._parquet import ParquetSource
    from episome.data._peaks import PeakMap, PeakReport, Peaks, map_peaks, read_peaks
    from episome.data._prepared import PreparedCells, ScannedSource, in_memory
    from episome.data._programmes import GeneProgrammes, MatchedProgrammes, Programmes, read_gmt
    from episome.data._proteins import ProteinNames, modality_kind, protein_names
    from episome.data._query import (
        Query,
        listed,
        open_source,
        prepare_query,
        refuse_matrix,
        require_choice,
        scan_values,
    )
    from episome.data._read import read_any, read_cells, rna_among
    from episome.data._read_kind import (
        FileKind,
        cell_files,
        check_inputs,
        check_readable,
        kind_of,
    )
    from episome.data._read_modality import file_modalities, read_modality
    from episome.data._read_tenx import as_mudata
    from episome.data._reduced import ReducedCells, ThinnedSource
    from episome.data._references import merge_references
    from episome.data._rule import InputRule, QueryKind, unlog
    from episome.data._schema import SchemaChoice, cellxgene_choice, cellxgene_source
    from episome.data._simulate import simulate_cells
    from episome.data._soma import SomaSource
    from episome.data._source import (
        AnnDataSource,
        CellSource,
        ChosenCells,
        NanAsZero,
        cells_name,
        combined_column,
        existing_columns,
        missing_column,
        name_cells,
        obs_column,
    )
    from episome.data._splits import Split, given_split, split_cells, stratified_halves
    from episome.data._target_scale import ScaledSource, ScaleName, TargetScale
    from episome.data._values import (
        ValueReport,
        check_values,
        doubtful_values,
        inspect_values,
        row_sums,
        unusable_values,
    )

_HOME = {
    "merge_references": "_references",
    "unlog": "_rule",
    "row_sums": "_values",
    "SIZE_FACTOR_KEY": "_keys",
    "Alignment": "_alignment",
    "AlignmentReport": "_alignment",
    "AnnDataSource": "_source",
    "NanAsZero": "_source",
    "BlockOrder": "_order",
    "CellLoader": "_loader",
    "CensusSource": "_census",
    "cells_digest": "_digest",
    "names_bytes": "_digest",
    "CellSource": "_source",
    "ChosenCells": "_source",
    "Condition": "_corpus_inputs",
    "cells_where": "_corpus_inputs",
    "CorpusInput": "_corpus_inputs",
    "Curation": "_corpus_curate",
    "curation_of": "_corpus_curate",
    "CorpusOptions": "_corpus_plan",
    "CorpusPlan": "_corpus_plan",
    "CorpusSource": "_corpus_source",
    "build_corpus": "_corpus_build",
    "check_corpus_inputs": "_corpus_inputs",
    "check_corpus_output": "_corpus_build",
    "plan_corpus": "_corpus_plan",
    "nested_subsets": "_corpus_split",
    "read_split": "_corpus_split",
    "split_by_groups": "_corpus_split",
    "split_columns": "_corpus_split",
    "unfinished_corpus": "_corpus_build",
    "verify_corpus": "_corpus_verify",
    "DonorShifts": "_augment",
    "FeatureMatch": "_match_features",
    "FeatureSpace": "_features",
    "Finding": "_inspection",
    "FileKind": "_read_kind",
    "GeneImportance": "_importance",
    "GenePanels": "_panels",
    "GeneProgrammes": "_programmes",
    "measured_features": "_panels",
    "measured_genes": "_panels",
    "MatchedSource": "_match_features",
    "match_features": "_match_features",
    "MatchedProgrammes": "_programmes",
    "InputRule": "_rule",
    "Inspection": "_inspection",
    "Labels": "_labels",
    "ManyCells": "_many",
    "MuInspection": "_inspection",
    "NameTable": "_name_tables",
    "PairedCells": "_modalities",
    "ParquetSource": "_parquet",
    "PeakMap": "_peaks",
    "PeakReport": "_peaks",
    "Peaks": "_peaks",
    "map_peaks": "_peaks",
    "read_peaks": "_peaks",
    "PreparedCells": "_prepared",
    "Programmes": "_programmes",
    "ProteinNames": "_proteins",
    "Query": "_query",
    "QueryKind": "_rule",
    "ScaleName": "_target_scale",
    "ScaledSource": "_target_scale",
    "ScannedSource": "_prepared",
    "SchemaChoice": "_schema",
    "SomaSource": "_soma",
    "Split": "_splits",
    "TargetScale": "_target_scale",
    "ValueReport": "_values",
    "cell_columns": "_cell_columns",
    "as_mudata": "_read_tenx",
    "cell_files": "_read_kind",
    "cells_name": "_source",
    "cellxgene_choice": "_schema",
    "cellxgene_source": "_schema",
    "check_classes": "_labels",
    "check_inputs": "_read_kind",
    "check_readable": "_read_kind",
    "check_values": "_values",
    "class_terms": "_labels",
    "clean_labels": "_labels",
    "combined_column": "_source",
    "definite_donors": "_labels",
    "donor_shifts": "_augment",
    "doubtful_values": "_values",
    "existing_columns": "_source",
    "given_split": "_splits",
    "has_own_source": "_own_sources",
    "in_memory": "_prepared",
    "inspect": "_inspect",
    "inspect_values": "_values",
    "kind_of": "_read_kind",
    "labels_with_terms": "_labels",
    "listed": "_query",
    "missing_column": "_source",
    "modalities_of": "_query",
    "modality_kind": "_proteins",
    "name_cells": "_source",
    "not_cells": "_query",
    "obs_column": "_source",
    "open_source": "_query",
    "Organisms": "_organisms",
    "organisms_of": "_organisms",
    "shown_organism": "_organisms",
    "own_source": "_own_sources",
    "pair_modalities": "_modalities",
    "pair_sources": "_modalities",
    "parts_of": "_modalities",
    "ObsmSource": "_obsm",
    "ReducedCells": "_reduced",
    "ThinnedSource": "_reduced",
    "folds": "_folds",
    "align_dimensions": "_obsm",
    "prepare_query": "_query",
    "refuse_matrix": "_query",
    "require_finite": "_obsm",
    "protein_names": "_proteins",
    "read_any": "_read",
    "rna_among": "_read",
    "read_cells": "_read",
    "read_gmt": "_programmes",
    "read_gene_list": "_name_tables",
    "read_label_list": "_name_tables",
    "file_modalities": "_read_modality",
    "read_modality": "_read_modality",
    "require_all_classes": "_labels",
    "require_choice": "_query",
    "scan_values": "_query",
    "simulate_cells": "_simulate",
    "split_cells": "_splits",
    "stratified_halves": "_splits",
    "term_column": "_labels",
    "transposed": "_gene_names",
    "unusable_values": "_values",
    "log_counts": "_logs",
    "variable_genes": "_genes",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
