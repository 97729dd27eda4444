"""Chains of the tiny world whose ids come and go: everything follows the owner, not the row."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from ecdctr.config import Config
from ecdctr.errors import ConfigError
from ecdctr.evaluation.evaluate import score
from ecdctr.examples.batches import Batch, Inputs, encode
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.impressions.days import window
from ecdctr.levels.actr import Actr, train_actr
from ecdctr.levels.cpm import Cpm, train_cpm
from ecdctr.levels.parents import grow_vocabularies
from ecdctr.levels.request import Request
from ecdctr.levels.restore import load_ctr_network, load_network
from ecdctr.levels.run import build, gather
from ecdctr.levels.tpm import train_tpm
from ecdctr.models import checkpoint
from ecdctr.models.network import CtrNet
from ecdctr.serving.export import export_bundle
from ecdctr.serving.scorer import Scorer
from ecdctr.store.manifest import Manifest, Ref
from ecdctr.store.store import Store
from ecdctr.training.optimizers import Optimizers
from ecdctr.training.workers import ALONE
from tests.conftest import DATE
from tests.serving.logged import logged_requests

DAY = dt.timedelta(days=1)
NEXT = DATE + DAY
LAST = NEXT + DAY  # without a CPM of its own, so that A-CTR evicts ids of its parent
USERS = {"min_impressions": 4, "evict_after_days": 1, "max_rows": 290}
BOUNDED = {"user_id": USERS, "item_id": {"evict_after_days": 1}, "tags": {"min_impressions": 30}}
CHAIN = {
    "tpm": {"window_days": 4, "vocabulary": {"user_id": {"evict_after_days": 3}, "item_id": {}}},
    "cpm": {
        "first_window_days": 3,
        "save_optimizer": True,
        "vocabulary": BOUNDED,
    },
    "actr": {"window_days": 3, "vocabulary": BOUNDED, "ewc": 0.5},
}


def changed(config: Config, overlay: dict) -> Config:
    """Return the configuration with some settings changed, validated again."""
    return config.with_overlay(overlay, "test").model_copy(update={"data": config.data})


@pytest.fixture(scope="module")
def bounded(config: Config) -> Config:
    return changed(config, CHAIN)


@pytest.fixture(scope="module")
def chain(bounded: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[Ref]]:
    """A TPM, CPM of two days, the second from the first with its moments, A-CTR of the next."""
    store = Store(tmp_path_factory.mktemp("store"))
    train_tpm(Request(bounded, store, DATE - DAY))
    refs = [train_cpm(Request(bounded, store, DATE)).manifest.ref]
    carried = changed(bounded, {"cpm": {"carry_optimizer": True}})
    refs.append(train_cpm(Request(carried, store, NEXT)).manifest.ref)
    refs.append(train_actr(Request(bounded, store, LAST)).manifest.ref)
    return store, refs


def users(store: Store, ref: Ref) -> Vocabulary:
    return Vocabulary.load(store.path(ref) / "vocabulary" / "user_id.parquet")


def impressions(config: Config, dates: list[dt.date]) -> tuple[Counter, dict[int, dt.date]]:
    """Return how often each user was shown natural content on these days, and on which day last."""
    counts: Counter = Counter()
    last = {}
    for day in prepare(config, "natural", dates):
        of_day = Counter(pq.read_table(day.path, columns=["user_id"])["user_id"].to_pylist())
        counts += of_day
        last |= dict.fromkeys(of_day, day.date)
    return counts, last


def test_owners_of_rows_are_those_who_were_seen_often_and_lately(bounded, chain):
    store, (first, second, _) = chain
    counts, last = impressions(bounded, window(NEXT, 4))
    before, after = (set(users(store, ref).values.to_pylist()) for ref in (first, second))
    told = set(users(store, Ref.parse(store.manifest(second).parents["tpm"][0])).values.to_pylist())
    assert all(last[one] == NEXT for one in after)
    assert all(counts[one] >= 4 or one in before | told for one in after)
    assert {one for one, date in last.items() if date == NEXT and counts[one] >= 4} <= after
    metrics = store.manifest(second).metrics
    assert metrics["user_id.rows"] == len(after) == store.manifest(second).rows["user_id"] - 1
    assert metrics["user_id.admitted"] == len(after - before)
    assert metrics["user_id.evicted"] == len(before - after)
    assert before - after
    assert after - before
    assert metrics["user_id.staleness_days"] == 0
    assert store.verify() == []


def started(
    steps: Cpm | Actr,
) -> tuple[CtrNet, dict[str, Vocabulary], checkpoint.Moments | None]:
    made = build(steps, gather(steps, ALONE))
    return made.start.model, made.vocabularies, made.start.optimizer


def test_vectors_and_moments_follow_their_owner_and_new_owners_start_anew(bounded, chain):
    store, (first, _, _) = chain
    carried = changed(bounded, {"cpm": {"carry_optimizer": True}})
    model, vocabularies, moments = started(Cpm(Request(carried, store, NEXT)))
    optimizers = Optimizers(model, carried.cpm)
    optimizers.load(moments)
    parent = checkpoint.load(store.path(first))
    anew, _, _ = started(Cpm(Request(bounded, store, NEXT, restart=True)))
    moved = 0
    for name in ("user_id", "item_id"):
        rows = vocabularies[name].rows_in(parent.vocabularies[name])
        table = model.embeddings.field(name)
        assert torch.equal(table[rows > 0], parent.tables[name][rows[rows > 0]])
        assert torch.equal(table[0], parent.tables[name][0])
        saved = parent.optimizer[f"tables/{name}/exp_avg_sq"]
        carried_moments = optimizers.state()[f"tables/{name}/exp_avg_sq"]
        assert torch.equal(carried_moments[rows > 0], saved[rows[rows > 0]])
        new = np.flatnonzero(rows[1:] == 0) + 1
        assert not carried_moments[new].any()
        assert (table[new].abs() < 0.06).all(), "as a fresh row, not as whoever had it before"
        moved += len(new[new < len(parent.tables[name])])
    assert moved > 0, "rows were re-used"
    assert anew.embeddings.table.weight.shape[1] == model.embeddings.table.weight.shape[1]


def test_the_ads_model_takes_cpms_vectors_by_id(bounded, chain):
    store, (_, second, ads) = chain
    model, vocabularies, _ = started(Actr(Request(bounded, store, LAST)))
    parent = checkpoint.load(store.path(second))
    rows = vocabularies["user_id"].rows_in(parent.vocabularies["user_id"])
    assert ((rows > 0) & (rows != np.arange(len(rows)))).any(), "the test sees moved rows"
    vectors = model.embeddings.field("user_id")[rows > 0]
    assert torch.equal(vectors, parent.tables["user_id"][rows[rows > 0]])
    assert store.manifest(ads).metrics["user_id.evicted"] > 0


def test_a_teacher_is_asked_about_ids_not_rows_and_so_is_the_bundle(bounded, chain, tmp_path):
    store, (_, second, _) = chain
    overlay = {"actr": {"init": "none", "source": "keep", "ewc": 0}}
    request = Request(changed(bounded, overlay), store, LAST, "taught", "taught")
    ref = train_actr(request).manifest.ref
    child, inputs, vocabularies = load_network(store, ref)
    teacher, of_teacher = load_ctr_network(store, second)
    rows = vocabularies["user_id"].rows_in(of_teacher["user_id"])
    assert ((rows > 0) & (rows != np.arange(len(rows)))).any(), "the test sees moved rows"
    batch, for_teacher = (batch_of(bounded, ids, inputs) for ids in (vocabularies, of_teacher))
    asked = child.source.translated(batch)
    for part in ("ids", "multi", "history"):
        seen_by_child, expected = getattr(batch, part) > 0, getattr(for_teacher, part)
        assert torch.equal(getattr(asked, part), torch.where(seen_by_child, expected, 0)), part
    with torch.inference_mode():
        torch.testing.assert_close(child.source(batch), teacher.knowledge(asked))
    export_bundle(store, ref, tmp_path / "bundle")
    scorer = Scorer(tmp_path / "bundle")
    after = LAST + DAY
    expected = score(bounded, store, ref, "ads", after).scores
    scores = [scorer.score(request)[0] for request in logged_requests(bounded, after)]
    assert np.abs(np.array(scores) - expected).max() < 1e-5


def test_a_taught_chain_gives_rows_to_whom_its_teacher_knows(bounded, chain):
    """Most of them have not been shown an ad; a teacher is asked by the child's rows."""
    store, (first, second, _) = chain
    overlay = {
        "init": "none", "source": "ctnet", "policy": "continue", "ewc": 0,
        "vocabulary": {"user_id": {}, "item_id": {}, "tags": {}},
    }  # fmt: skip
    taught = changed(bounded, {"actr": overlay})
    for date, teacher in ((DATE, first), (NEXT, second)):
        manifest = train_actr(Request(taught, store, date, "chain", "chain")).manifest
        assert manifest.parents["cpm"] == [str(teacher)]
        ids = set(users(store, manifest.ref).values.to_pylist())
        assert ids >= set(users(store, teacher).values.to_pylist())


def batch_of(config: Config, vocabularies: dict[str, Vocabulary], inputs: Inputs) -> Batch:
    day = prepare(config, "ads", [LAST])[0]
    return encode(next(read_chunks([Part(day.path, "ads")], None, 10_000)), inputs, vocabularies)


def test_with_nothing_to_evict_all_weights_are_those_without_a_vocabulary_section(config, tmp_path):
    fields = ("user_id", "item_id", "age_band", "category", "tags", "slot", "hour")
    keeping = {name: {} for name in fields}
    tpm = {name: {} for name in ("user_id", "item_id", "category", "slot")}
    overlay = {
        "cpm": {"first_window_days": 2},
        "actr": {"window_days": 2},
    }
    manifests: list[list[Manifest]] = []
    for vocabulary in (False, True):
        mixed = changed(config, overlay | {"tpm": {"window_days": 3}})
        if vocabulary:
            mixed = changed(mixed, {"tpm": {"vocabulary": tpm}})
            mixed = changed(mixed, {level: {"vocabulary": keeping} for level in ("cpm", "actr")})
        store = Store(tmp_path / str(vocabulary))
        trained = [train_tpm(Request(mixed, store, DATE - DAY))]
        trained += [train_cpm(Request(mixed, store, date)) for date in (DATE, NEXT)]
        trained += [train_actr(Request(mixed, store, NEXT))]
        manifests.append([one.manifest for one in trained])
    for off, on in zip(*manifests, strict=True):
        names = [name for name in off.files if not name.startswith("vocabulary/")]
        assert {name: off.files[name] for name in names} == {name: on.files[name] for name in names}
        assert "vocabulary" not in off.config[off.level]
        assert on.metrics["user_id.evicted"] == 0


def test_a_chain_that_never_evicted_can_begin_to(config, tmp_path):
    """The ids of its versions count as seen on their data dates."""
    store = Store(tmp_path)
    plain = changed(config, {"cpm": {"first_window_days": 2}})
    plain = changed(plain, {"snapshots": {"count": 0}})
    first = train_cpm(Request(plain, store, DATE)).manifest
    evicting = changed(plain, {"cpm": {"vocabulary": {"user_id": {"evict_after_days": 1}}}})
    second = train_cpm(Request(evicting, store, NEXT)).manifest
    shown, _ = impressions(config, [NEXT])
    assert set(users(store, second.ref).values.to_pylist()) == set(shown)
    assert second.metrics["user_id.evicted"] > 0
    assert first.rows["user_id"] > second.rows["user_id"] or second.metrics["user_id.admitted"]


def test_the_order_of_days_and_files_decides_nothing(bounded, chain):
    store, _ = chain
    steps = Cpm(Request(bounded, store, NEXT))
    gathered = gather(steps, ALONE)
    made = build(steps, gathered)
    backwards = dict(reversed(gathered.days.items()))
    again, _ = grow_vocabularies(steps.request, gathered.plan, made.inputs, backwards)
    for name, vocabulary in made.vocabularies.items():
        assert again[name].values.equals(vocabulary.values), name


def test_too_few_rows_are_refused_before_anything_is_published(bounded, store):
    admission = {"vocabulary": {"user_id": {"max_rows": 100}, "item_id": {}}}
    few = changed(bounded, {"tpm": admission})
    with pytest.raises(ConfigError, match=r"tpm\.vocabulary\.user_id\.max_rows is 100, but of the"):
        train_tpm(Request(few, store, DATE))
    assert store.versions("production", "tpm") == []


@pytest.mark.parametrize(
    ("level", "name", "said"),
    [
        ("tpm", "tags", "tpm.vocabulary: 'tags' is no field with ids; expected some of user_id"),
        ("cpm", "price", "cpm.vocabulary: 'price' is no field with ids"),
        ("cpm", "user_id", "ids come from tpm, which does not keep when it saw them; set tpm.voc"),
        ("actr", "tags", "ids come from cpm, which does not keep when it saw them; set cpm.voc"),
    ],
)
def test_a_vocabulary_that_cannot_be_kept_is_refused(config, level, name, said):
    raw = config.model_dump(mode="json")
    raw[level]["vocabulary"] = {name: {}}
    with pytest.raises(ValidationError, match=said):
        Config.model_validate(raw)


def test_optimizer_files_hold_a_moment_for_each_row(bounded, chain):
    store, (first, second, _) = chain
    for ref in (first, second):
        tensors = load_file(store.path(ref) / "optimizer.safetensors")
        rows = store.manifest(ref).rows["user_id"]
        assert len(tensors["tables/user_id/exp_avg"]) == rows
