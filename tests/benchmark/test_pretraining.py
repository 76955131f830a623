"""Studies whose models are pretrained: on other cells, once, and on none that are tested on."""

from __future__ import annotations

import dataclasses

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from _studies import entry, study

from episome.benchmark import (
    DataEntry,
    ModelEntry,
    Pretraining,
    SplitEntry,
    Study,
    perform,
    plan,
    run_study,
    task_named,
)
from episome.benchmark import _pretrain as module
from episome.data import simulate_cells
from episome.errors import UsageError

SSL = {"init": {"hidden": [16], "n_latent": 4}}
FEW = {"train": {"max_epochs": 2, "accelerator": "cpu"}}
ATLAS = DataEntry("atlas", "atlas.h5ad", donor_key="donor_id")
QUICK_TASK = {"options": {"fractions": [0.5], "cells_per_class": [5]}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of its own, or a folder of another test would be found."""
    monkeypatch.setenv("EPISOME_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def base(cells, tmp_path_factory):
    """The cells of the studies, and an atlas of other cells of other donors."""
    place = tmp_path_factory.mktemp("pretraining")
    cells.write_h5ad(place / "cells.h5ad")
    write_atlas(place / "atlas.h5ad")
    return place


def write_atlas(path, *, seed=9, donors="atlas", n=240):
    found = simulate_cells(n, 60, n_types=4, n_donors=6, fold_change=2.5, seed=seed)
    found.obs["donor_id"] = [f"{donors} {str(d)[-1]}" for d in found.obs["donor_id"]]
    found.obs_names = [f"atlas-{i}" for i in range(n)]
    found.write_h5ad(path)
    return found


@pytest.fixture
def trainings(monkeypatch):
    """What was pretrained: for every training the cells and what the model is told of them."""
    from episome.models import SSLEncoder

    seen = []
    real = SSLEncoder.train

    def train(self, *args, **kwargs):
        seen.append(self)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(SSLEncoder, "train", train)
    return seen


def zero_shot(**more) -> ModelEntry:
    return ModelEntry("ssl", "pretrained", pretrain=Pretraining(**{**SSL, **FEW, **more}))


def started(**more) -> ModelEntry:
    asked = Pretraining(**{"model": "ssl", **SSL, **FEW, **more})
    train = {"max_epochs": 3, "accelerator": "cpu"}
    return ModelEntry("ssl-classifier", "started", init=SSL["init"], train=train, pretrain=asked)


def runs_of(base, task, models, **kwargs):
    return plan(study(task, models, **kwargs), task_named(task), base).runs


def performed(base, task, model, **kwargs):
    found = [perform(run) for run in runs_of(base, task, (model,), **kwargs)]
    assert [r.reason for r in found] == [""] * len(found)
    return found


# --- declared ----------------------------------------------------------------------------------

TABLE = {
    "name": "small",
    "task": "embedding",
    "data": [{"name": "cells", "source": "cells.h5ad", "labels_key": "cell_type"}],
    "models": [
        "pca",
        {
            "model": "ssl-classifier",
            "name": "started",
            "pretrain": {
                "model": "ssl",
                "init": {"n_latent": 4, "hidden": [16, 8]},
                "train": {"max_epochs": 2},
                "setup": {"layer": "counts"},
                "data": [{"name": "atlas", "source": "atlas.h5ad"}],
                "donor_fraction": 0.5,
                "allow": ["donor"],
            },
        },
        {"model": "ssl", "pretrain": {}},
    ],
}


def table(**pretrain):
    """The plain study, with one table of pretraining."""
    entry = {"model": "ssl", "pretrain": {"train": {"max_epochs": 1}, **pretrain}}
    return {**TABLE, "models": [entry]}


def test_a_table_of_pretraining_comes_back_from_plain_data():
    read = Study.from_dict(TABLE)

    asked = read.models[1].pretrain
    assert isinstance(asked, Pretraining)
    assert asked.data == (DataEntry("atlas", "atlas.h5ad"),)
    assert (asked.model, asked.donor_fraction, asked.allow) == ("ssl", 0.5, ("donor",))
    assert asked.init == {"n_latent": 4, "hidden": [16, 8]}
    assert read.models[0].pretrain is None
    assert read.models[2].pretrain == Pretraining()
    again = Study.from_dict(read.to_dict())
    assert again.to_dict() == read.to_dict()
    assert again.models[1].pretrain.data == asked.data
    assert again.models[1].pretrain.allow == asked.allow


def test_a_table_of_one_data_set_may_stand_without_a_list(tmp_path):
    (tmp_path / "s.toml").write_text(
        """
task = "embedding"
[[data]]
name = "cells"
source = "cells.h5ad"
[[models]]
model = "ssl"
[models.pretrain]
donor_fraction = 0.25
[models.pretrain.data]
name = "atlas"
source = "atlas.h5ad"
""",
        encoding="utf-8",
    )

    read = Study.from_toml(tmp_path / "s.toml")

    assert read.models[0].pretrain == Pretraining(
        data=(DataEntry("atlas", "atlas.h5ad"),), donor_fraction=0.25
    )


@pytest.mark.parametrize(
    ("pretrain", "text"),
    [
        ({"donor_fraction": 0}, r"donor_fraction=0.*E-B07"),
        ({"donor_fraction": 1.5}, r"donor_fraction=1\.5.*E-B07"),
        ({"donor_fraction": -0.1}, "E-B07"),
        ({"donor_fraction": "half"}, r"donor_fraction='half'.*E-B07"),
        ({"donor_fraction": True}, r"donor_fraction=True.*E-B07"),
        ({"genes": "few"}, r"genes='few'.*E-B07"),
        ({"mdl": "ssl"}, r"models\.pretrain knows no 'mdl'.*model.*E-B07"),
        ({"data": ["atlas.h5ad"]}, r"models\.pretrain\.data holds 'atlas\.h5ad'.*E-B07"),
        (
            {"data": [{"name": "atlas", "sorrce": "x"}]},
            r"models\.pretrain\.data knows no 'sorrce'",
        ),
    ],
)
def test_tables_that_cannot_be_are_refused(pretrain, text):
    with pytest.raises(UsageError, match=text):
        Study.from_dict(table(**pretrain))


@pytest.mark.parametrize("given", ["ssl", 3, ["ssl"], True])
def test_pretraining_that_is_no_table_is_refused(given):
    models = [{"model": "ssl-classifier", "pretrain": given}]

    with pytest.raises(UsageError, match="E-B07"):
        Study.from_dict({**TABLE, "models": models})


# --- zero-shot ---------------------------------------------------------------------------------


def test_an_encoder_is_pretrained_on_other_cells_and_used_as_it_is(base, trainings):
    (found,) = performed(base, "embedding", zero_shot(data=(ATLAS,)))

    assert found.status == "ok"
    assert found.scores["kNN", "n_latent"] == 4
    assert found.scores["kNN", "saw_labels"] == 0
    (model,) = trainings
    source = model.training_source()
    assert source.n_obs == 240
    assert all(str(n).startswith("atlas/atlas-") for n in source.obs_names)
    # Labels are not even there to be seen.
    with pytest.raises(UsageError, match="E-U04"):
        source.obs_column("cell_type")
    assert model.leaked_donors([f"atlas/atlas {i}" for i in range(6)])


def test_without_data_the_training_cells_of_the_run_are_pretrained_on(base, trainings, cells):
    run = runs_of(base, "embedding", (zero_shot(),))[0]

    found = perform(run)

    assert found.status == "ok"
    (model,) = trainings
    donors = cells.obs["donor_id"].astype(str)
    tested = set(found.predictions["donor"])
    assert tested
    assert model.leaked_donors(sorted(set(donors) - tested)) == sorted(set(donors) - tested)
    assert model.leaked_donors(sorted(tested)) == []


# --- started -----------------------------------------------------------------------------------


def test_few_labels_start_from_an_encoder_of_all_training_cells(base, trainings, monkeypatch):
    from episome.models import SSLClassifier

    starts = []
    real = SSLClassifier.init_from

    def init_from(self, given, **kwargs):
        report = real(self, given, **kwargs)
        starts.append((given, self.module.net.first.detach().clone(), report))
        return report

    monkeypatch.setattr(SSLClassifier, "init_from", init_from)

    found = performed(base, "label-efficiency", started(), **QUICK_TASK)

    assert {r.key["condition"] for r in found} == {
        "50 % of the training cells",
        "5 cells a type",
    }
    # One pretraining, on all training cells, for both conditions.
    assert len(trainings) == 1
    assert trainings[0].training_source().n_obs == found[0].facts["n_train"]
    assert len(starts) == 2
    assert torch.equal(starts[0][0].tensors["first"], starts[1][0].tensors["first"])
    by_gene = dict(
        zip(trainings[0].features.ids, trainings[0].module.net.first.detach(), strict=True)
    )
    for _, first, report in starts:
        assert report.n_known == report.n_genes == 60
        assert any(np.array_equal(first[0], row) for row in by_gene.values())
    scores = {k: v for r in found for k, v in r.scores.items()}
    assert scores["5 cells a type", "n_labelled"] == 20


def test_every_member_of_an_ensemble_starts_from_the_encoder(base, trainings):
    model = dataclasses.replace(started(), ensemble=2)

    (found,) = performed(base, "annotation", model)

    assert found.status == "ok"
    assert len(trainings) == 1


# --- the cache ---------------------------------------------------------------------------------


def test_a_second_run_finds_the_folder_and_does_not_train(base, trainings):
    (run,) = runs_of(base, "embedding", (zero_shot(data=(ATLAS,)),))

    first, second = perform(run), perform(run)

    assert len(trainings) == 1
    assert first.scores == second.scores
    assert first.predictions.equals(second.predictions)
    # What it took is said of both, whichever of them trained.
    assert first.facts["pretrain_seconds"] == second.facts["pretrain_seconds"] > 0


def test_gene_sets_that_change_in_their_file_are_pretrained_on_anew(base, trainings, tmp_path):
    for name in ("cells.h5ad", "atlas.h5ad"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    genes = list(anndata.read_h5ad(tmp_path / "atlas.h5ad", backed="r").var_names)
    init = {**SSL["init"], "pretext": "programme_mask", "programmes": "sets.gmt"}
    model = zero_shot(data=(ATLAS,), init=init)
    digests = set()

    for first in (0, 5):
        of = (genes[first + 10 * i : first + 10 * i + 8] for i in range(4))
        lines = ["\t".join([f"set {i}", "", *names]) for i, names in enumerate(of)]
        (tmp_path / "sets.gmt").write_text("\n".join(lines))
        (run,) = runs_of(tmp_path, "embedding", (model,))
        assert perform(run).reason == ""
        digests.add(run.digest)

    assert len(trainings) == len(digests) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"init": {"hidden": [16], "n_latent": 5}},
        {"train": {"max_epochs": 1, "accelerator": "cpu"}},
        {"donor_fraction": 0.5},
        {"data": (dataclasses.replace(ATLAS, name="other"),)},
    ],
)
def test_another_pretraining_is_trained_anew(base, trainings, change):
    for model in (zero_shot(data=(ATLAS,)), zero_shot(**{"data": (ATLAS,), **change})):
        (run,) = runs_of(base, "embedding", (model,))
        assert perform(run).status == "ok"

    assert len(trainings) == 2


def test_another_seed_and_other_cells_are_trained_anew(base, trainings, tmp_path):
    model = zero_shot(data=(ATLAS,))
    for run in runs_of(base, "embedding", (model,), seeds=(0, 1)):
        assert perform(run).status == "ok"
    assert len(trainings) == 2

    for name in ("cells.h5ad", "atlas.h5ad"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    write_atlas(tmp_path / "atlas.h5ad", seed=10)
    (run,) = runs_of(tmp_path, "embedding", (model,))
    assert perform(run).status == "ok"
    assert len(trainings) == 3


def test_values_of_another_layer_are_other_cells(base, trainings, tmp_path):
    """The data set names the layer: its values are what is read, and what the cache goes by."""
    (tmp_path / "cells.h5ad").write_bytes((base / "cells.h5ad").read_bytes())
    atlas = anndata.read_h5ad(base / "atlas.h5ad")
    model = zero_shot(data=(dataclasses.replace(ATLAS, layer="counts"),))
    for factor in (1, 2):
        atlas.layers["counts"] = atlas.X * factor
        atlas.write_h5ad(tmp_path / "atlas.h5ad")
        (run,) = runs_of(tmp_path, "embedding", (model,))
        assert perform(run).reason == ""

    assert len(trainings) == 2
    assert trainings[1].training_source().read(slice(0, 9)).sum() == (
        2 * trainings[0].training_source().read(slice(0, 9)).sum()
    )


def test_a_training_that_fails_leaves_no_folder(base, monkeypatch):
    from episome import settings
    from episome.models import SSLEncoder

    def fails(self, *args, **kwargs):
        msg = "the machine is gone"
        raise RuntimeError(msg)

    (run,) = runs_of(base, "embedding", (zero_shot(data=(ATLAS,)),))
    with monkeypatch.context() as patch:
        patch.setattr(SSLEncoder, "train", fails)
        assert perform(run).status == "failed"

    folder = settings.cache_folder("pretrained")
    assert not folder.exists() or not list(folder.iterdir())
    assert perform(run).status == "ok"


# --- leaks -------------------------------------------------------------------------------------


def planted(base, tmp_path, change):
    """The atlas with something of the cells of the study."""
    cells, atlas = (anndata.read_h5ad(base / f"{n}.h5ad") for n in ("cells", "atlas"))
    change(cells, atlas)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    atlas.write_h5ad(tmp_path / "atlas.h5ad")
    return tmp_path


def same_donors(cells, atlas):
    atlas.obs["donor_id"] = cells.obs["donor_id"].astype(str).to_numpy()[: atlas.n_obs]


def same_cells(cells, atlas):
    atlas.X[:] = 0
    atlas.X = cells.X[: atlas.n_obs].copy()


def same_cells_of_other_genes(cells, atlas):
    atlas.X = cells.X[: atlas.n_obs].copy()
    atlas.var_names = [*atlas.var_names[:57], "OTHERX", "OTHERY", "OTHERZ"]


def same_names(cells, atlas):
    atlas.obs_names = [f"AAC{n}" for n in range(atlas.n_obs)]
    cells.obs_names = [f"AAC{n}" for n in range(cells.n_obs)]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (same_donors, "donor"),
        (same_cells, "cell"),
        (same_cells_of_other_genes, "cell"),
        (same_names, "barcode"),
    ],
)
@pytest.mark.parametrize("make", [zero_shot, started])
def test_what_is_tested_on_must_not_be_pretrained_on(
    base, tmp_path, trainings, change, kind, make
):
    place = planted(base, tmp_path, change)
    task = "embedding" if make is zero_shot else "annotation"

    (refused,) = [perform(r) for r in runs_of(place, task, (make(data=(ATLAS,)),))]
    (allowed,) = [perform(r) for r in runs_of(place, task, (make(data=(ATLAS,), allow=(kind,)),))]

    assert refused.status == "refused"
    assert f"share: {kind}" in refused.reason
    assert "pretraining on atlas" in refused.reason
    assert "E-L20" in refused.reason
    assert not refused.scores
    assert allowed.status == "ok", allowed.reason
    assert len(trainings) == 1


def test_other_cells_of_the_file_of_the_study_are_no_leak(base, trainings):
    """Sets may lie in one file: what is kept of it for pretraining are other donors."""
    atlas = DataEntry("rest", "cells.h5ad", donor_key="donor_id", keep=("donor_id == donor 0",))
    data = (entry(keep=("donor_id != donor 0",)),)

    runs = runs_of(base, "embedding", (zero_shot(data=(atlas,)),), data=data)

    assert [perform(r).reason for r in runs] == [""]


# --- which models ------------------------------------------------------------------------------


def test_a_model_that_does_not_learn_without_labels_cannot_be_pretrained(base):
    wrong = dataclasses.replace(started(), pretrain=Pretraining(model="pca"))
    (run,) = runs_of(base, "annotation", (wrong,))

    found = perform(run)

    assert found.status in {"failed", "refused"}
    assert "pca cannot be pretrained" in found.reason
    assert "E-B15" in found.reason


# --- shares of donors --------------------------------------------------------------------------


def test_more_donors_hold_those_of_fewer():
    adata = simulate_cells(300, 20, n_donors=6, seed=0)
    adata.obs["episome_donor"] = adata.obs["donor_id"].astype(object)

    def donors(fraction, seed=0):
        found = module._fewer_donors(adata, fraction, seed)
        names = set(found.obs["episome_donor"])
        # Whole donors: all of their cells.
        assert found.n_obs == adata.obs["donor_id"].isin(names).sum()
        return names

    shares = [donors(f) for f in (0.01, 0.34, 0.5, 0.84, 1.0)]

    assert [len(s) for s in shares] == [1, 2, 3, 5, 6]
    assert all(a < b for a, b in zip(shares, shares[1:], strict=False))
    assert donors(0.5) == shares[2]
    assert any(donors(0.5, seed) != shares[2] for seed in range(1, 5))


def test_cells_without_a_donor_are_in_no_share_but_the_whole():
    adata = simulate_cells(60, 20, n_donors=2, seed=0)
    donors = adata.obs["donor_id"].astype(object).to_numpy(copy=True)
    donors[:10] = None
    adata.obs["episome_donor"] = donors

    assert module._fewer_donors(adata, 0.99, 0).n_obs == 50
    assert module._fewer_donors(adata, 1.0, 0).n_obs == 60


def test_a_share_of_unknown_donors_is_refused(base):
    entry_without = DataEntry("atlas", "atlas.h5ad", labels_key="cell_type")
    atlas = anndata.read_h5ad(base / "atlas.h5ad")
    del atlas.obs["donor_id"]
    atlas.write_h5ad(base / "nobody.h5ad")
    model = zero_shot(
        data=(dataclasses.replace(entry_without, source="nobody.h5ad"),), donor_fraction=0.5
    )
    (run,) = runs_of(base, "embedding", (model,))

    found = perform(run)

    assert "no donors are known" in found.reason
    assert "E-B05" in found.reason


# --- digests -----------------------------------------------------------------------------------


def digest(base, model, **kwargs):
    (run,) = runs_of(base, "embedding", (model,), **kwargs)
    return run.digest


def test_runs_of_other_pretraining_are_other_runs(base, tmp_path):
    plain = ModelEntry("ssl", "pretrained", **SSL)
    asked = zero_shot(data=(ATLAS,))
    changed = [
        zero_shot(),
        zero_shot(data=(ATLAS,), donor_fraction=0.5),
        zero_shot(data=(ATLAS,), allow=("donor",)),
        zero_shot(data=(ATLAS,), init={"hidden": [16], "n_latent": 5}),
        zero_shot(data=(ATLAS,), train={"max_epochs": 1, "accelerator": "cpu"}),
        zero_shot(data=(ATLAS,), setup={"input_kind": "counts"}),
        zero_shot(data=(dataclasses.replace(ATLAS, name="other"),)),
        plain,
    ]

    found = [digest(base, m) for m in (asked, *changed)]

    assert len(set(found)) == len(found)
    assert digest(base, asked) == found[0]
    # Other cells under the same name.
    for name in ("cells.h5ad", "atlas.h5ad"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    assert digest(tmp_path, asked) == found[0]
    write_atlas(tmp_path / "atlas.h5ad", seed=10)
    assert digest(tmp_path, asked) != found[0]
    assert digest(tmp_path, plain) == found[-1]


def test_runs_without_pretraining_stay_what_they_were(base, monkeypatch):
    """Results of before are found again: nothing of pretraining is part of their names."""
    import json

    from episome.benchmark import _runs

    (run,) = runs_of(base, "embedding", (ModelEntry("pca"),))
    named = []
    real = json.dumps

    def dumps(value, **kwargs):
        named.append(value)
        return real(value, **kwargs)

    monkeypatch.setattr(_runs.json, "dumps", dumps)
    assert run.digest

    assert "pretrain" not in named[0]
    assert len(named[0]["model"]) == 7


# --- whole studies -----------------------------------------------------------------------------


def test_a_study_from_plain_data_is_run_and_gone_on_with(base, tmp_path, trainings):
    small = {
        **TABLE,
        "data": [
            {
                "name": "cells",
                "source": "cells.h5ad",
                "labels_key": "cell_type",
                "donor_key": "donor_id",
            }
        ],
        "splits": [{"by": "group"}],
        "seeds": [0],
        "floor": False,
        "accelerator": "cpu",
        "models": [
            {
                "model": "ssl",
                "pretrain": {
                    "init": {"hidden": [16], "n_latent": 4},
                    "train": {"max_epochs": 1},
                    "data": {"name": "atlas", "source": "atlas.h5ad", "donor_key": "donor_id"},
                },
            }
        ],
    }
    asked = Study.from_dict(small)

    (run,) = plan(asked, task_named("embedding"), base).runs
    first = perform(run)
    second = run_study(asked, tmp_path, base=base)

    assert first.status == "ok", first.reason
    assert second.counts == {"ok": 1}
    table = second.store.table().set_index(["condition", "metric"])["value"]
    assert table["kNN", "accuracy"] == first.scores["kNN", "accuracy"]
    assert len(trainings) == 1
    again = run_study(Study.from_dict(asked.to_dict()), tmp_path, base=base)
    assert again.counts == {"ok": 1}


def test_splits_that_are_random_refuse_nothing_that_was_not_pretrained_on(base):
    """The guard of pretraining asks for its own cells; a split says for itself what it allows."""
    (found,) = performed(
        base,
        "embedding",
        zero_shot(data=(ATLAS,)),
        splits=(SplitEntry("random", allow=("donor",)),),
    )

    assert found.status == "ok"


def test_a_model_that_is_used_as_it_is_may_know_the_genes_of_the_run_alone(base, trainings):
    atlas = anndata.read_h5ad(base / "atlas.h5ad")
    more = anndata.AnnData(
        np.ones((atlas.n_obs, 90), dtype=np.float32),
        obs=pd.DataFrame(index=atlas.obs_names),
        var=pd.DataFrame(index=[f"OTHER{i}" for i in range(90)]),
    )
    wide = anndata.concat([atlas, more], axis=1, merge="first")
    wide.write_h5ad(base / "wide.h5ad")
    wide = DataEntry("wide", "wide.h5ad", donor_key="donor_id")

    few = runs_of(base, "embedding", (zero_shot(data=(wide,)),))[0]
    own = runs_of(base, "embedding", (zero_shot(data=(wide,), genes="run"),))[0]

    assert "too few of the model's genes" in perform(few).reason
    assert perform(own).status == "ok"
    assert [len(m.features) for m in trainings] == [150, 60]
    assert few.digest != own.digest


def test_genes_of_one_symbol_are_summed_for_a_model_that_knows_symbols(base, tmp_path):
    cells = anndata.read_h5ad(base / "cells.h5ad")
    symbols = list(cells.var_names)
    symbols[-1] = symbols[-2]
    cells.var = pd.DataFrame(
        {"feature_name": symbols}, index=[f"ENSG{i:011d}" for i in range(cells.n_vars)]
    )
    cells.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "atlas.h5ad").write_bytes((base / "atlas.h5ad").read_bytes())

    (run, *_) = runs_of(tmp_path, "embedding", (zero_shot(data=(ATLAS,)),))

    found = perform(run)
    assert found.status == "ok", found.reason
