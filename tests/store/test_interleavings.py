"""Publish, promote, roll back, gate, gc, evaluate and deliver again.

In any order and in the middle of each other. A day is delivered again also while its examples are
prepared, by the code that keeps them.

Whatever happens, no alias points at a version that is not there, and every verdict is what the data
that it names says: it is computed again from that data alone. ECDCTR_INTERLEAVINGS=2000 runs as
many on a folder and on a bucket; the default is few. Versions and evaluations are made up (a model
would take seconds), what stores and judges them is real.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ecdctr.config import Config
from ecdctr.errors import StoreError, TryAgain
from ecdctr.evaluation import basis, gate_rule
from ecdctr.evaluation import evaluate as evaluating
from ecdctr.evaluation.gate import Outcome, gate
from ecdctr.evaluation.noninferiority import Paired, noninferiority
from ecdctr.examples.prepare import Prepared
from ecdctr.files import durable
from ecdctr.impressions.reading import keep, settled
from ecdctr.store import bucket
from ecdctr.store.aliases import Kind
from ecdctr.store.local import LocalStorage
from ecdctr.store.manifest import Ref
from ecdctr.store.objects import ObjectStorage
from ecdctr.store.retention import remove
from ecdctr.store.store import Store
from tests.make import changed, manifest

EXAMPLES = int(os.environ.get("ECDCTR_INTERLEAVINGS", "20"))
FIRST, DAYS, USERS = dt.date(2026, 1, 10), 4, 40
DATES = [FIRST + dt.timedelta(days=n) for n in range(1, DAYS + 2)]

PART = st.tuples(
    st.sampled_from(
        [
            "day",
            "day",
            "publish",
            "evaluate",
            "gate",
            "promote",
            "rollback",
            "gc",
            "deliver",
            "deliver_late",
        ]
    ),
    st.integers(0, DAYS - 1),
)
STEP = st.tuples(PART, st.lists(st.tuples(st.integers(0, 25), PART), max_size=2))


def seen_by(ref: Ref, date: dt.date, delivery: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, their AUC and their loss, as a version would have them on a delivery of a day."""
    drawn = np.random.default_rng([date.toordinal(), delivery])
    users = drawn.permutation(10 * USERS)[:USERS]
    of_version = np.random.default_rng(
        [date.toordinal(), delivery, ref.date.toordinal(), int(ref.version[1:])]
    )
    shift, noise = of_version.choice([-0.05, 0.0, 0.05]), drawn.choice([0.005, 0.1])
    auc = 0.7 + shift + of_version.normal(0, noise, USERS)
    return users, auc, 3.0 * np.exp(of_version.normal(-shift / 5, noise / 20, USERS))


class World:
    """Days that are delivered again, and processes that work on one store.

    One in the middle of another.
    """

    def __init__(self, config: Config, open_store: Callable[[], Store], prepared: Path) -> None:
        self.config, self.open, self.prepared = config, open_store, prepared
        self.delivered = dict.fromkeys(DATES, 0)
        self.late: list[dt.date] = []  # delivered again when they are next read
        self.numbers = 0

    def fingerprint(self, *where: Any) -> Prepared:
        """In place of example_path."""
        date = where[2]
        return Prepared(date, Path("nowhere"), f"{date}#{self.delivered[date]}")

    @settled
    def examples(self, date: dt.date) -> tuple[str, int]:
        """Return a day's examples, kept as preparation keeps them.

        Their name, and the delivery that was read.
        """
        name = self.fingerprint(None, None, date).fingerprint

        def read(target: Path) -> None:
            if date in self.late:
                self.late.remove(date)
                self.delivered[date] += 1
            target.write_text(str(self.delivered[date]))

        def still() -> bool:
            return self.fingerprint(None, None, date).fingerprint == name

        keep(self.prepared / name, read, still, str(date))
        return name, int((self.prepared / name).read_text())

    def evaluate(self, config: Config, store: Store, ref: Ref, date: dt.date) -> None:
        """In place of a model on the day's examples.

        Raises StoreError for a version that is not there.
        """
        if date <= ref.date:
            raise StoreError("leakage")
        name, delivery = self.examples(date)
        with store.in_use():
            store.manifest(ref)
            users, auc, loss = seen_by(ref, date, delivery)
            content = {
                "ref": str(ref),
                "date": str(date),
                **basis.basis_of(config, name, None)._asdict(),
                "metrics": {"all": {"calibration": 1.0, "impressions": 10.0 * USERS}},
                "score_spread": 0.1,
            }
            ones = np.ones(USERS, np.int64)
            table = {
                "user": users,
                "impressions": 10 * ones,
                "clicks": ones,
                "auc": auc,
                "loss": loss,
            }
            with store.staging() as folder:
                pq.write_table(pa.table(table), folder / "users.parquet")
                (folder / "evaluation.json").write_text(json.dumps(content))
                store.save_evaluation(folder, ref, date)

    def do(self, store: Store, what: str, day: int) -> None:
        """One command of one process; a refusal is a fine end."""
        with contextlib.suppress(StoreError, TryAgain):
            getattr(self, f"_{what}")(store, FIRST + dt.timedelta(days=day))

    def _publish(self, store: Store, date: dt.date) -> None:
        self.numbers += 1
        with store.staging() as folder:
            (folder / "a").write_text(str(self.numbers))
            store.publish(folder, manifest(date, f"f{self.numbers}", level="actr"))

    def _day(self, store: Store, date: dt.date) -> None:
        """What a DAG's run does."""
        for what in (self._publish, self._evaluate, self._gate):
            what(store, date)

    def _version(self, store: Store, date: dt.date) -> Ref:
        ref = store.newest("production", "actr", date)
        if ref is None:
            raise StoreError("nothing is left")
        return ref

    def _evaluate(self, store: Store, date: dt.date) -> None:
        ref = self._version(store, date)
        self.evaluate(self.config, store, ref, ref.date + dt.timedelta(days=1))

    def _gate(self, store: Store, date: dt.date) -> None:
        ref = self._version(store, date)
        gate(self.config, store, ref, ref.date + dt.timedelta(days=1))

    def _promote(self, store: Store, date: dt.date) -> None:
        store.set_alias("serving", self._version(store, date), "by hand", Kind.PROMOTE)

    def _rollback(self, store: Store, _: dt.date) -> None:
        store.rollback()

    def _gc(self, store: Store, date: dt.date) -> None:
        remove(store, 1 + (date - FIRST).days % 2, 0, "test")

    def _deliver(self, _: Store, date: dt.date) -> None:
        self.delivered[date + dt.timedelta(days=1)] += 1

    def _deliver_late(self, _: Store, date: dt.date) -> None:
        """Delivered again when it is read the next time, after it was named."""
        self.late.append(date + dt.timedelta(days=1))


def all_days(_: Config, __: str, after: dt.date, until: dt.date, most: int) -> list[dt.date]:
    """Return all days are there; in place of whole_days."""
    return [date for date in DATES if after < date <= until][-most:]


class Interrupted:
    """A process's storage, in whose calls others get in between.

    Not while it is alone by the store's own lock.
    """

    def __init__(self, storage: Any, interrupts: dict[int, Callable[[], None]]) -> None:
        self._storage, self._interrupts, self._calls, self._alone = storage, interrupts, 0, False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)
        if name not in (
            "append",
            "records",
            "replace",
            "folder",
            "file",
            "add",
            "listing",
            "in_use",
        ):
            return method

        def call(*arguments: Any) -> Any:
            self._calls += 1
            if self._calls in self._interrupts and not self._alone:
                self._interrupts.pop(self._calls)()
            if name != "add":
                return method(*arguments)
            alone, self._alone = self._alone, True  # in a folder others wait for the number
            try:
                return method(*arguments)
            finally:
                self._alone = alone

        return call

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        for number in [one for one in self._interrupts if one <= self._calls + 3]:
            self._interrupts.pop(number)()  # just before the lock is taken
        with self._storage.exclusively():
            self._alone = True
            try:
                yield
            finally:
                self._alone = False


def check(world: World, store: Store) -> None:
    """No alias on a missing version.

    Examples, evaluations and verdicts are of the data that they name.
    """
    for path in world.prepared.iterdir():
        if path.suffix == ".sha256":
            assert path.read_text() == durable.sha256(path.with_suffix(""))
        else:
            assert path.name.endswith(f"#{path.read_text()}")
    for record in store.alias_history("serving")[-1:]:
        store.manifest(record.ref)
        if record.kind == Kind.GATE:
            assert any(
                one["outcome"] in ("passed", "first to serve") for one in store.verdicts(record.ref)
            )
    for ref in store.versions("production", "actr"):
        for verdict in store.verdicts(ref):
            assert verdict["outcome"] == again(world.config, ref, verdict), verdict
    for date, ref in store.evaluated("production"):
        evaluation = store.load_evaluation(ref, date)
        assert evaluation is not None
        _, _, delivery = evaluation["examples"].rpartition("#")
        folder = store.evaluation(ref, date)
        assert folder is not None
        table = pq.read_table(folder / "users.parquet", partitioning=None)
        users, auc, _ = seen_by(ref, date, int(delivery))
        assert table["user"].to_pylist() == users.tolist()
        assert table["auc"].to_pylist() == auc.tolist()
        if evaluation["verdict"]:
            assert evaluation["verdict"]["examples"][str(date)] == evaluation["examples"]


def again(config: Config, ref: Ref, verdict: dict[str, Any]) -> Outcome:
    """Return the verdict from the deliveries that it names.

    By numpy alone where the gate uses what is stored.
    """
    if " could not be judged on " in verdict["reason"]:  # others were faster each time
        return Outcome.WAITING
    if verdict["champion"] is None:
        return Outcome.FIRST
    champion = Ref(
        *verdict["champion"][:2],
        dt.date.fromisoformat(verdict["champion"][2]),
        verdict["champion"][3],
    )
    by_hand = ("cannot be evaluated", "served before and does not any more")
    if champion.age > ref.age or any(text in verdict["reason"] for text in by_hand):
        return Outcome.REFUSED
    sums: dict[int, np.ndarray] = {}
    for name in verdict["examples"].values():
        day, delivery = name.split("#")
        of = (dt.date.fromisoformat(day), int(delivery))
        users, auc, loss = seen_by(ref, *of)
        _, other, other_loss = seen_by(champion, *of)
        for i, user in enumerate(users):
            one = np.array([10 * (auc[i] - other[i]), 10, loss[i], other_loss[i]])
            sums[int(user)] = sums.get(int(user), 0) + one
    settings = config.evaluation
    result = noninferiority(
        Paired(*np.stack(list(sums.values())).T),
        settings.gate_max_gauc_drop,
        settings.gate_max_log_loss_rise,
        settings.gate_power,
        settings.bootstrap_samples,
        config.seed,
    )
    if result.power < settings.gate_power and len(verdict["examples"]) < settings.gate_days:
        return Outcome.WAITING
    return Outcome.PASSED if result.holds else Outcome.REFUSED


@pytest.fixture
def cheap(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return a gate that needs few users; a disk that need not be waited for."""
    monkeypatch.setattr(durable, "sync", lambda _: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(gate_rule, "whole_days", all_days)
    return changed(config, "evaluation", bootstrap_samples=50, gate_min_users=10, gate_days=2)


def interleave(config: Config, open_store: Callable[[], Store], steps: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as prepared:
        world = World(config, open_store, Path(prepared))
        patch.setattr(basis, "example_path", world.fingerprint)
        patch.setattr(evaluating, "evaluate", world.evaluate)
        for (what, day), between in [(("day", 0), []), *steps]:
            store = open_store()
            others = {
                at + 1: (lambda part=part: world.do(open_store(), *part)) for at, part in between
            }
            store.storage = Interrupted(store.storage, others)
            world.do(store, what, day)
            check(world, open_store())


MANY = settings(
    max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
)
STEPS = st.lists(STEP, min_size=4, max_size=12)


def on(storage: Any) -> Store:
    """Return a store as a process of its own has it."""
    store = Store.__new__(Store)
    store.storage = storage
    return store


@MANY
@given(STEPS)
def test_no_interleaving_on_a_folder_leaves_an_alias_alone_or_a_verdict_on_other_data(cheap, steps):
    with tempfile.TemporaryDirectory() as root:
        interleave(cheap, lambda: on(LocalStorage(Path(root))), steps)


@MANY
@given(STEPS)
def test_no_interleaving_on_a_bucket_leaves_an_alias_alone_or_a_verdict_on_other_data(cheap, steps):
    """Obstore's own bucket in memory, which has conditional writes as S3 has."""
    objects = obstore.store.MemoryStore()
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECDCTR_CACHE", cache)
        patch.setattr(bucket, "from_url", lambda *_, **__: objects)
        interleave(cheap, lambda: on(ObjectStorage("s3://bucket/store")), steps)
