"""The network: recorded numbers, a float64 formula, sizes, and what does not depend on what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from episome.nn import CSRParts
from episome_scbert.checkpoint import our_name
from episome_scbert.core import SCBERTCore
from episome_scbert.favor import EPSILON
from episome_scbert.gene_attention import gene_scores
from episome_scbert.heads import pooled_mean
from episome_scbert.masking import masked_loss
from episome_scbert.plan import published_rate
from episome_scbert.presets import PAPER
from episome_scbert.tokens import Sequences, expressed_sequences


def sequences_of(tokens: torch.Tensor) -> Sequences:
    n, length = tokens.shape
    genes = torch.arange(length).repeat(n)
    return Sequences(tokens.flatten(), genes, torch.full((n,), length))


def recorded_core(case, n_classes: int) -> SCBERTCore:
    """A core with recorded weights, attending to the appended token as the original does."""
    c = case.config
    core = SCBERTCore(
        c["length"] - 1,
        n_classes,
        dim=c["dim"],
        depth=c["depth"],
        heads=c["heads"],
        dim_head=c["dim_head"],
        ff_mult=c["ff_mult"],
        nb_features=c["nb_features"],
        attention="favor",
        stabilizer="cell",
        appended=True,
        attend_appended=True,
        head="position",
        hidden=(c.get("fc1", 512), c.get("h_dim", 128)),
    )
    for layer in core.encoder.layers:
        # The recorded runs took it over the whole batch.
        layer.attention.stabilizer = "batch"
    state = {our_name(k): v.float() for k, v in case.state().items() if our_name(k)}
    if "head.reduce.weight" in state:
        state["head.reduce.weight"] = state["head.reduce.weight"].reshape(1, -1)
    missing = set(core.state_dict()) - set(state)
    known = {"encoder.levels", "encoder.n_asked", "n_drawn"}
    assert missing - known <= {"encoder.to_tokens.weight", "encoder.to_tokens.bias"}
    core.load_state_dict({**core.state_dict(), **state})
    return core.eval()


def test_recorded_pretraining_comes_out(golden):
    case = golden("07d_scbert_masked_lm")
    core = recorded_core(case, 0)
    masked, labels = case.tensor("masked_input"), case.tensor("labels")

    h = core.encoder(sequences_of(masked))
    logits = core.encoder.to_tokens(h)
    at = (labels.flatten() != 6).nonzero()[:, 0]
    loss = masked_loss(logits[at], labels.flatten()[at])
    loss.backward()

    case.check("encodings", h.view(*masked.shape, -1))
    case.check("logits", logits.view(*masked.shape, -1))
    case.check("loss", loss)
    best = logits[:, 1:6].argmax(1) + 1
    case.check("predicted_token", best.view(masked.shape))
    check_gradients(core, case)


def check_gradients(core, case):
    named = dict(core.named_parameters())
    checked = 0
    for key in case.arrays:
        if not key.startswith("grad/"):
            continue
        gradient = named[our_name(key.removeprefix("grad/"))].grad
        case.check(key, gradient.reshape(case.arrays[key].shape))
        checked += 1
    assert checked > 10


def test_recorded_classifier_comes_out(golden):
    case = golden("07e_scbert_classifier_finetune")
    core = recorded_core(case, case.config["n_classes"])
    tokens = case.tensor("tokens")
    sequences = sequences_of(tokens)

    h = core.encoder(sequences)
    logits = core.head(h, sequences, sequences.tokens > 0)
    loss = F.cross_entropy(logits, case.tensor("labels"))
    loss.backward()

    case.check("encodings", h.view(*tokens.shape, -1))
    case.check("logits", logits)
    case.check("loss", loss)
    check_gradients(core, case)


def test_the_recorded_rule_for_unassigned_cells_is_the_threshold(golden):
    case = golden("07e_scbert_classifier_finetune")

    best = case.tensor("scaled_probs").max(1).values

    assert torch.equal(best < case.config["unassigned_threshold"], case.tensor("unassigned"))


def test_recorded_rates_come_out(golden):
    case = golden("07e_scbert_classifier_finetune")

    case.check("lr_schedule", np.array([published_rate(e) for e in range(71)]))


def test_rates_rise_for_five_epochs_and_fall_in_ever_longer_cycles():
    rates = [published_rate(e, 1.0) for e in range(90)]

    assert rates[5] == 1.0
    assert rates[20] == pytest.approx(0.9)
    assert rates[45] == pytest.approx(0.81)
    for start in (0, 15, 40, 85):
        assert rates[start] == pytest.approx(1e-6)
    assert all(a < b for a, b in zip(rates[15:20], rates[16:21], strict=True))
    assert all(a > b for a, b in zip(rates[20:39], rates[21:40], strict=True))


def formula(core: SCBERTCore, sequences: Sequences) -> torch.Tensor:
    """The network in float64, as one reads it, for cells of one length."""
    state = {k: v.double() for k, v in core.state_dict().items()}
    c = core.config
    n = len(sequences.lengths)
    tokens, genes = (t.view(n, -1) for t in (sequences.tokens, sequences.genes))
    h = state["encoder.token_embedding.weight"][tokens] + state["encoder.genes.weight"][genes]

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, keepdim=True, unbiased=False) + 1e-5
        ).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    for i in range(c["depth"]):
        at = f"encoder.layers.{i}"
        x = norm(h, f"{at}.attention_norm")
        q, k, v = (
            (x @ state[f"{at}.attention.to_{m}.weight"].T)
            .view(n, -1, c["heads"], c["dim_head"])
            .transpose(1, 2)
            for m in "qkv"
        )
        if c["attention"] == "favor":
            d = c["dim_head"]
            a, b = (t * d**-0.25 @ state[f"{at}.attention.projection"].T for t in (q, k))
            a = (
                torch.exp(
                    a - q.square().sum(-1, keepdim=True) / (2 * d**0.5) - a.amax(-1, keepdim=True)
                )
                + EPSILON
            )
            b = (
                torch.exp(
                    b
                    - k.square().sum(-1, keepdim=True) / (2 * d**0.5)
                    - b.amax((-1, -2), keepdim=True)
                )
                + EPSILON
            )
            weights = a @ b.transpose(-1, -2)
            weights = weights / weights.sum(-1, keepdim=True)
        else:
            weights = (q @ k.transpose(-1, -2) / c["dim_head"] ** 0.5).softmax(-1)
        out = (weights @ v).transpose(1, 2).reshape(n, tokens.shape[1], -1)
        h = (
            h
            + out @ state[f"{at}.attention.to_out.weight"].T
            + state[f"{at}.attention.to_out.bias"]
        )
        x = norm(h, f"{at}.ff_norm") @ state[f"{at}.ff_in.weight"].T + state[f"{at}.ff_in.bias"]
        x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
        h = h + x @ state[f"{at}.ff_out.weight"].T + state[f"{at}.ff_out.bias"]
    return norm(h, "encoder.norm").flatten(0, 1)


@pytest.mark.parametrize("attention", ["exact_nonzero", "favor"])
def test_the_encoder_agrees_with_the_formula_in_float64(core, attention):
    network = core(attention=attention)
    rng = torch.Generator().manual_seed(0)
    sequences = sequences_of(torch.randint(0, 7, (4, 30), generator=rng))

    got = network.encoder(sequences)

    torch.testing.assert_close(got.double(), formula(network, sequences), rtol=1e-4, atol=1e-5)


def test_parameters_are_as_many_as_stated():
    core = SCBERTCore(16_906, 11, **PAPER)
    encoder = {k: v.numel() for k, v in core.encoder.named_parameters()}

    layer = sum(p.numel() for p in core.encoder.layers[0].parameters())
    genes = encoder.pop("genes.weight")
    assert layer == 834_000
    assert genes == 3_381_400
    assert not core.encoder.genes.weight.requires_grad
    assert sum(encoder.values()) == 5_007_207
    assert sum(p.numel() for p in core.head.parameters()) == 8_724_180
    assert core.encoder.layers[0].attention.projection.shape == (266, 64)


@pytest.mark.parametrize("attention", ["exact_nonzero", "favor"])
def test_genes_in_another_order_give_the_same_vectors_in_that_order(core, attention):
    network = core(attention=attention)
    rng = torch.Generator().manual_seed(0)
    sequences = sequences_of(torch.randint(1, 6, (3, 30), generator=rng))
    order = torch.randperm(30, generator=rng)
    at = (torch.arange(3)[:, None] * 30 + order).flatten()
    turned = Sequences(sequences.tokens[at], sequences.genes[at], sequences.lengths)

    h, other = network.encoder(sequences), network.encoder(turned)

    torch.testing.assert_close(other, h[at], rtol=1e-5, atol=1e-5)
    pooled = [network.head(x, s, s.tokens > 0) for x, s in ((h, sequences), (other, turned))]
    torch.testing.assert_close(*pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["exact_nonzero", "favor"])
@pytest.mark.parametrize("head", ["pooled", "position"])
def test_a_cell_does_not_depend_on_the_cells_beside_it(core, cells, attention, head):
    network, x = core(attention=attention, head=head), cells(6, 30)

    with torch.no_grad():
        whole = network({"X": x})
        alone = [network({"X": x.take(torch.tensor([i]))}) for i in range(6)]

    for key in ("logits", "latent"):
        torch.testing.assert_close(
            torch.cat([a[key] for a in alone]), whole[key], rtol=1e-6, atol=1e-6
        )


def test_parts_of_a_batch_change_nothing(core, cells, monkeypatch):
    network, x = core(), cells(6, 30)
    with torch.no_grad():
        whole = network({"X": x})
        monkeypatch.setattr("episome_scbert.core.TOKENS", 15)
        parts = network({"X": x})
        expected = network({"X": x, "outputs": {"mean"}})["mean"]

    for key in ("logits", "latent"):
        torch.testing.assert_close(parts[key], whole[key], rtol=1e-6, atol=1e-6)
    assert expected.shape == (6, 30)


def test_long_and_short_cells_are_computed_alike(core, cells, monkeypatch):
    network, x = core(), cells(6, 30)
    with torch.no_grad():
        padded = network({"X": x})["logits"]
        monkeypatch.setattr("episome_scbert.exact._SHORT", 0)
        single = network({"X": x})["logits"]

    torch.testing.assert_close(single, padded, rtol=1e-5, atol=1e-6)


def test_the_appended_token_is_no_key_and_gets_no_attention(core, cells):
    with_token, x = core(attention="favor", appended=True), cells(4, 30)
    without = core(attention="favor")
    state = with_token.state_dict()
    mine = {k: v[:30] if k == "encoder.genes.weight" else v for k, v in state.items()}
    without.load_state_dict(mine)

    sequences = with_token.sequences(x)
    with torch.no_grad():
        h = with_token.encoder(sequences).view(4, 31, -1)
        bare = without.encoder(without.sequences(x)).view(4, 30, -1)
    score = gene_scores(with_token.encoder, sequences, 30).view(4, 31)

    torch.testing.assert_close(h[:, :30], bare, rtol=1e-5, atol=1e-6)
    assert (score[:, 30] == 0).all()
    torch.testing.assert_close(score.sum(1), torch.ones(4))
    masked = with_token.hidden(sequences, {}, known=sequences)
    assert (masked.sequences.genes[masked.at] < 30).all()


@pytest.mark.parametrize("attention", ["exact_nonzero", "favor"])
def test_scores_are_the_column_means_of_the_attention_matrices(core, cells, attention):
    network, x = core(attention=attention), cells(1, 30)
    sequences = network.sequences(x)
    n = len(sequences.tokens)
    collected = []

    def look(part, q, k, seen):
        values = torch.eye(n).expand(1, 2, n, n)
        if part.kind == "favor":
            from episome_scbert.favor import favor_attention

            split = (part.by_cell(q, seen), part.by_cell(k, seen))
            collected.append(favor_attention(*split, values, part.projection)[0])
        else:
            scores = torch.einsum("qhd,khd->hqk", q, k) / 8**0.5
            collected.append(scores.softmax(-1))

    with torch.no_grad():
        network.encoder(sequences, look)
    found = gene_scores(network.encoder, sequences, 30)

    matrix = torch.stack(collected).mean((0, 1))
    torch.testing.assert_close(found, matrix.mean(0), rtol=1e-5, atol=1e-6)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-5)
    given = network.explaining()({"X": x})
    torch.testing.assert_close(given.values, found)


def test_features_are_redrawn_in_pretraining_alone(core, cells):
    network = core(attention="favor", redraw_every=3, mask_weight=1.0)
    batch = {"X": cells(), "ind_x": torch.arange(6)}
    before = network.encoder.layers[0].attention.projection.clone()

    network.train()
    for _ in range(5):
        network(batch)
    still = network.encoder.layers[0].attention.projection.clone()
    network.encoder.n_asked.zero_()
    for _ in range(4):
        network.loss(batch)
    drawn = network.encoder.layers[0].attention.projection.clone()
    network.eval()
    for _ in range(5):
        network.loss(batch)

    assert torch.equal(still, before)
    assert not torch.equal(drawn, before)
    assert torch.equal(network.encoder.layers[0].attention.projection, drawn)
    assert "encoder.layers.0.attention.projection" in network.state()[0]


def test_validation_hides_the_same_genes_in_every_epoch_and_training_others(core, cells):
    network = core()
    batch = {"X": cells(), "ind_x": torch.arange(6)}

    with torch.no_grad():
        first, again = (float(network.loss(batch)["loss"]) for _ in range(2))
        network.train()
        others = {float(network.loss(batch)["loss"]) for _ in range(4)}

    assert first == again
    assert len(others) > 1


@pytest.mark.parametrize("what", ["head", "last", "all"])
def test_what_is_trained_is_what_was_asked_for_and_the_rest_stays_bit_by_bit(core, cells, what):
    network = core(mask_weight=1.0, gene_embedding="table", train_genes=False)
    network.set_trainable(what)
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    before = {n: p.clone() for n, p in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)

    network.train()
    out = network({"X": cells(), "ind_x": torch.arange(6)})
    (out["logits"].square().sum() + out["penalty"]).backward()
    optimizer.step()

    moved = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    heads = {n for n in before if n.startswith(("head.", "encoder.to_tokens."))}
    last = {n for n in before if n.startswith(("encoder.layers.1.", "encoder.norm."))}
    everything = set(before) - {"encoder.genes.weight"}
    wanted = {"head": heads, "last": heads | last, "all": everything}[what]
    assert trained == wanted
    assert moved <= wanted
    assert {n for n in heads if "score" not in n} <= moved


def test_another_word_for_what_is_trained_is_refused(core):
    with pytest.raises(ValueError, match="trainable is 'first'"):
        core().set_trainable("first")


@pytest.mark.parametrize("attention", ["exact_nonzero", "favor"])
def test_checkpointing_changes_no_gradient(core, cells, attention):
    batch = {"X": cells(), "ind_x": torch.arange(6)}
    found = []
    for checkpointing in (False, True):
        network = core(attention=attention, checkpointing=checkpointing).train()
        network(batch)["logits"].square().sum().backward()
        found.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})

    assert set(found[0]) == set(found[1])
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_hidden_genes_are_not_seen_by_others(core, cells):
    network, x = core(), cells(1, 30)
    whole = expressed_sequences(x, 5, "log2")
    keys = torch.ones(len(whole.tokens), dtype=torch.bool)
    keys[2] = False
    hidden = whole._replace(tokens=whole.tokens.clone(), keys=keys)
    hidden.tokens[2] = 6
    other = hidden._replace(genes=hidden.genes.clone())
    other.genes[2] = (other.genes[2] + 1) % 30

    a, b = network.encoder(hidden), network.encoder(other)

    others = keys.nonzero()[:, 0]
    torch.testing.assert_close(a[others], b[others])
    assert not torch.allclose(a[2], b[2])


def test_expected_levels_know_how_many_genes_are_unexpressed(core, cells):
    # A head that finds expressed and not expressed alike: only the odds of the draws are left.
    network, x = core(mask_zeros=True), cells(2, 30)
    with torch.no_grad():
        network.encoder.to_tokens.weight.zero_()
        network.encoder.to_tokens.bias.copy_(torch.tensor([0.0, 0, -90, -90, -90, -90, -90]))
        network.encoder.levels.copy_(torch.tensor([0.0, 1, 2, 3, 4, 5]))
        mean = network({"X": x, "outputs": {"mean"}})["mean"]

    n = x.indptr.diff().float()
    wanted = 1 / (1 + 30 / n)
    torch.testing.assert_close(mean, wanted[:, None].expand(-1, 30), rtol=1e-5, atol=1e-6)


def test_without_unexpressed_genes_in_pretraining_expected_is_the_level_if_expressed(core, cells):
    network = core(mask_zeros=False)
    with torch.no_grad():
        network.encoder.to_tokens.weight.zero_()
        network.encoder.to_tokens.bias.copy_(torch.tensor([50.0, 0, -90, -90, -90, -90, 90]))
        mean = network({"X": cells(), "outputs": {"mean"}})["mean"]

    torch.testing.assert_close(mean, network.encoder.levels[1].expand_as(mean))


def test_pooled_means_have_weights_and_leave_cells_without_genes_zero():
    h = torch.tensor([[1.0, 0], [3, 0], [5, 2]])
    cells = Sequences(torch.ones(3).long(), torch.arange(3), torch.tensor([2, 0, 1]))
    pooled = torch.tensor([True, True, True])

    plain = pooled_mean(h, cells, pooled)
    weighted = pooled_mean(h, cells, pooled, torch.tensor([0.0, np.log(3.0), 7.0]))

    torch.testing.assert_close(plain, torch.tensor([[2.0, 0], [0, 0], [5, 2]]))
    torch.testing.assert_close(weighted, torch.tensor([[2.5, 0], [0, 0], [5, 2]]))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dim": 0}, "dim is 0"),
        ({"depth": True}, "depth is True"),
        ({"attention": "flash"}, "attention is 'flash'"),
        ({"binning": "log"}, "binning is 'log'"),
        ({"head": "mean"}, "head is 'mean'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"mask_rate": 0.0}, "mask_rate is 0.0"),
        ({"mask_weight": -1.0}, "mask_weight is -1.0"),
        ({"hidden": (3,)}, "name two widths"),
        ({"hidden": (3, 0)}, "hidden is 0"),
        ({"appended": True}, "appended token only"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"stabilizer": "batch"}, "stabilizer is 'batch'"),
    ],
)
def test_impossible_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        SCBERTCore(10, 2, **options)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="no option layers"):
        SCBERTCore(10, 2, layers=3)


def test_gradients_by_expression_follow_the_line_between_levels(core):
    network = core()
    x = torch.zeros(1, 30)
    x[0, :8] = torch.log1p(torch.tensor([1.2, 2.5, 4.0, 5.0, 9.0, 20.0, 50.0, 3.3]))
    x.requires_grad_()

    (gradient,) = torch.autograd.grad(network({"X": x})["logits"][0, 0], x)

    assert (gradient[0, :8] != 0).all()
    assert (gradient[0, 8:] == 0).all()
    same = network({"X": CSRParts.from_dense(x.detach())})["logits"]
    torch.testing.assert_close(network({"X": x})["logits"], same)
