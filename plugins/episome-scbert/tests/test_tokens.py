"""From values to levels, and which genes are hidden."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from episome.nn import CSRParts, host_batch, log_normalize
from episome_scbert.masking import ask_unexpressed, mask_expressed, masked_loss
from episome_scbert.tokens import (
    Sequences,
    at_most,
    expressed_sequences,
    level_tokens,
    whole_sequences,
)


def levels_of(values: list[float], n_bins: int = 5, binning: str = "log2") -> list[int]:
    x = torch.log1p(torch.tensor([values], dtype=torch.float32))
    return level_tokens(CSRParts.from_dense(x), n_bins, binning).tolist()


def test_levels_of_known_counts_per_ten_thousand():
    assert levels_of([0.9, 1, 2.9, 3, 7, 15, 30.9, 31, 4000]) == [0, 1, 1, 2, 3, 4, 4, 5, 5]
    assert levels_of([31, 63, 4000], n_bins=7) == [5, 6, 7]


def test_recorded_levels_come_out(golden):
    case = golden("07a_scbert_preprocess_binning")
    columns = [
        case.meta["query_genes"].index(g) if g in case.meta["query_genes"] else -1
        for g in case.meta["reference_genes"]
    ]
    counts = case.tensor("counts").numpy()
    aligned = np.where(np.array(columns) >= 0, counts[:, columns], 0)
    kept = case.tensor("kept_cells").numpy()
    # The published filter: at least 200 expressed genes of the model.
    assert np.array_equal(np.flatnonzero((aligned > 0).sum(1) >= 200), kept)
    parts = host_batch({"X": sparse.csr_matrix(aligned[kept])})["X"]
    library = torch.from_numpy(aligned[kept].sum(1))

    values = log_normalize(parts, library, 1e4)
    found = whole_sequences(values, 420, 5, "log2", appended=True)

    case.check("normalised", values.to_dense(420) / math.log(2))
    tokens = found.tokens.view(len(kept), 421)[case.tensor("row_order")]
    case.check("tokens", tokens)


@settings(derandomize=True, database=None, max_examples=60)
@given(st.lists(st.floats(0, 9000, width=32), min_size=1, max_size=30), st.integers(1, 9))
def test_levels_agree_with_the_formula_and_are_monotone(values, n_bins):
    x = torch.log1p(torch.tensor([values]))
    stored = CSRParts.from_dense(x)

    found = level_tokens(stored, n_bins).numpy()

    exact = stored.values.double().numpy() / math.log(2)
    wanted = np.minimum(np.floor(exact + 1e-5), n_bins)
    assert np.array_equal(found, wanted)
    order = np.argsort(stored.values.numpy())
    assert (np.diff(found[order]) >= 0).all()


def test_rank_levels_are_groups_of_one_size_whatever_the_depth():
    values = torch.tensor([[0.0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 1, 1, 2, 0, 0, 0]])

    found = expressed_sequences(CSRParts.from_dense(values), 4, "rank")

    assert found.tokens[:8].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    # Equal values are equal levels: the middle of their ranks.
    assert found.tokens[8:].tolist() == [2, 2, 4]
    deeper = expressed_sequences(CSRParts.from_dense(values * 3), 4, "rank")
    assert torch.equal(deeper.tokens, found.tokens)


@pytest.mark.parametrize("binning", ["log2", "rank"])
def test_zero_stays_zero(binning):
    found = whole_sequences(CSRParts.from_dense(torch.zeros(2, 7)), 7, 5, binning)

    assert found.tokens.tolist() == [0] * 14


def test_recorded_masks_come_out(golden):
    case = golden("07b_scbert_mlm_masking")
    tokens = case.tensor("tokens")
    n, length = tokens.shape
    whole = Sequences(tokens.flatten(), torch.arange(length).repeat(n), torch.full((n,), length))
    scores = (case.tensor("rank_score").flatten(), case.tensor("replace_score").flatten())

    found = mask_expressed(whole, 6, rate=0.15, scores=scores)

    labels = torch.full_like(whole.tokens, 6)
    labels[found.at] = found.truth
    case.check("masked_input", found.sequences.tokens.view(n, length))
    case.check("labels", labels.view(n, length))


def test_only_expressed_genes_are_hidden_as_many_as_the_rate_says():
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 6, (40 * 500,), generator=rng)
    whole = Sequences(tokens, torch.arange(500).repeat(40), torch.full((40,), 500))

    found = mask_expressed(whole, 6, rate=0.15, generator=rng)

    chosen = torch.bincount(whole.cells[found.at], minlength=40)
    expressed = torch.bincount(whole.cells[tokens > 0], minlength=40)
    assert torch.equal(chosen, ((15 * expressed + 99) // 100).clamp(max=75))
    assert (tokens[found.at] > 0).all()
    replaced = found.sequences.tokens[found.at] == 6
    n = len(replaced)
    assert abs(int(replaced.sum()) - 0.9 * n) < 3 * (n * 0.09) ** 0.5
    kept = found.sequences.tokens[found.at][~replaced]
    assert torch.equal(kept, found.truth[~replaced])
    others = torch.ones(len(tokens), dtype=torch.bool)
    others[found.at] = False
    assert torch.equal(found.sequences.tokens[others], tokens[others])


def test_a_cell_without_expression_gives_no_nan():
    whole = Sequences(torch.zeros(8, dtype=torch.int64), torch.arange(8), torch.tensor([8]))

    found = mask_expressed(whole, 6, rate=0.15)
    logits = torch.randn(8, 7, requires_grad=True)
    loss = masked_loss(logits[found.at], found.truth)
    loss.backward()

    assert len(found.at) == 0
    assert loss == 0
    assert logits.grad.abs().max() == 0


def test_the_loss_has_no_gradient_where_nothing_was_hidden():
    whole = Sequences(torch.arange(12) % 6, torch.arange(12), torch.tensor([12]))
    found = mask_expressed(whole, 6, rate=0.3, generator=torch.Generator().manual_seed(1))
    logits = torch.randn(12, 7, requires_grad=True)

    masked_loss(logits[found.at], found.truth).backward()

    others = torch.ones(12, dtype=torch.bool)
    others[found.at] = False
    assert logits.grad[others].abs().max() == 0
    assert (logits.grad[found.at].abs().sum(1) > 0).all()


@pytest.mark.parametrize("insert", [True, False])
def test_unexpressed_genes_are_asked_for_and_never_expressed_or_unmeasured_ones(cells, insert):
    x = cells(6, 30)
    whole = expressed_sequences(x, 5, "log2") if insert else whole_sequences(x, 30, 5, "log2")
    rng = torch.Generator().manual_seed(3)
    masked = mask_expressed(whole, 6, rate=0.5, generator=rng, hide_keys=insert)
    measured = torch.ones(6, 30, dtype=torch.bool)
    measured[:, 20:] = False

    found = ask_unexpressed(
        masked,
        whole,
        whole,
        n_genes=30,
        mask_token=6,
        generator=rng,
        insert=insert,
        measured=measured,
    )

    asked = found.at[found.truth == 0]
    genes, of = found.sequences.genes[asked], found.sequences.cells[asked]
    dense = x.to_dense(30)
    assert len(asked) > 0
    assert (dense[of, genes] == 0).all()
    assert (genes < 20).all()
    assert (found.sequences.tokens[asked] == 6).all()
    assert not found.pooled[asked].any()
    if insert:
        assert not found.sequences.keys[asked].any()
    expressed = found.at[found.truth > 0]
    wanted = level_tokens(CSRParts.from_dense(dense), 5)
    table = torch.zeros(6, 30, dtype=torch.int64)
    table[dense > 0] = wanted
    at = found.sequences.cells[expressed], found.sequences.genes[expressed]
    assert torch.equal(found.truth[found.truth > 0], table[at])


def test_longer_cells_are_shortened_by_draws_without_replacement(cells):
    whole = expressed_sequences(cells(6, 30), 5, "log2")

    found = at_most(whole, 5, torch.Generator().manual_seed(0))

    assert torch.equal(found.lengths, whole.lengths.clamp(max=5))
    known = set(zip(whole.cells.tolist(), whole.genes.tolist(), strict=True))
    drawn = list(zip(found.cells.tolist(), found.genes.tolist(), strict=True))
    assert set(drawn) <= known
    assert len(set(drawn)) == len(drawn)
    assert at_most(whole, None) is whole
