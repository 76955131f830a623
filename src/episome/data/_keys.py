"""Names used in batches, registries and AnnData objects, in one place.

The batch keys are scvi-tools' ``REGISTRY_KEYS`` strings, copied because importing scvi-tools costs
seconds; a test compares the two.
"""

from __future__ import annotations

from typing import Final

X_KEY: Final = "X"
LABELS_KEY: Final = "labels"
BATCH_KEY: Final = "batch"
INDICES_KEY: Final = "ind_x"
SIZE_FACTOR_KEY: Final = "size_factor"

# CELLxGENE schema columns that the host reads; the first that exists wins.
CELLXGENE_LABELS: Final = "cell_type"
ONTOLOGY_SUFFIX: Final = "_ontology_term_id"
CELLXGENE_DONOR: Final = "donor_id"
CELLXGENE_DATASET: Final = "dataset_id"
# Values that name no donor: such cells never enter an evaluation split.
INDEFINITE_DONORS: Final = frozenset(
    {"", "nan", "none", "na", "n/a", "unknown", "unassigned", "pooled", "ambiguous", "doublet"}
)
UNLABELED: Final = "unknown"
# In `uns`: the name of the file that an object was read from, for messages.
FILE_KEY: Final = "_episome_file"
# Labels that usually mean that there is none.
EMPTY_LABELS: Final = frozenset({"", "nan", "na", "n/a", "none", "null", "unknown", "-", "?"})

# Columns of `var` that may hold the symbol of a gene, and any other name, tried in this order.
SYMBOL_COLUMNS: Final = (
    "feature_name",
    "gene_symbols",
    "gene_symbol",
    "gene_name",
    "gene_names",
    "symbol",
    "original_gene_symbols",
)
GENE_ID_COLUMNS: Final = (
    "feature_id",
    "ensembl_id",
    "ensembl_ids",
    "gene_ids",
    "gene_id",
    *SYMBOL_COLUMNS,
)

# What 10x calls the kinds of features; only the first are genes.
GENE_EXPRESSION: Final = "Gene Expression"
FEATURE_KINDS: Final = (
    "Antibody Capture",
    "Antigen Capture",
    "CRISPR Guide Capture",
    "Custom",
    "Multiplexing Capture",
    "Peaks",
)
