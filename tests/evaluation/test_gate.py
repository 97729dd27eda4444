"""The gate: what is promoted, what is refused, what waits, and the reason in each case."""

from __future__ import annotations

import datetime as dt
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ecdctr.cli import app
from ecdctr.config import Config, Level
from ecdctr.doctor import examine
from ecdctr.errors import ContractError, StoreError, TryAgain
from ecdctr.evaluation import basis, gate_rule
from ecdctr.evaluation import evaluate as evaluating
from ecdctr.evaluation import gate as gates
from ecdctr.evaluation.basis import basis_now
from ecdctr.evaluation.evaluate import evaluate
from ecdctr.evaluation.gate import Outcome, Verdict, gate
from ecdctr.evaluation.stored import current, load, pair
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.store.aliases import Kind
from ecdctr.store.manifest import Ref
from ecdctr.store.retention import remove
from ecdctr.store.store import Store
from tests.conftest import DATE, REPOSITORY
from tests.make import USERS, changed, delivered_again, evaluated, manifest, write_config

DAY = dt.timedelta(days=1)
NEXT = DATE + DAY


def version(
    store: Store,
    date: dt.date = DATE,
    level: Level = "actr",
    config: Config | None = None,
    **parents: list[Ref],
) -> Ref:
    listed = {name: [str(ref) for ref in refs] for name, refs in parents.items()}
    made = manifest(date, f"{level}{date}{parents}", level=level).model_copy(
        update={"parents": listed, "config": config.relevant(level) if config else {}}
    )
    with store.staging() as folder:
        (folder / "a").write_text(level)
        return store.publish(folder, made, force=True).ref


@pytest.fixture
def store(any_store: Store) -> Store:
    """Return the gate decides in a folder and on object storage alike."""
    return any_store


@pytest.fixture
def champion(config: Config, store: Store) -> Ref:
    """Return what serves, of the day before.

    It was evaluated on the days after the challengers', too.
    """
    ref = evaluated(config, store, version(store, DATE - DAY), 0.75, DATE, NEXT, NEXT + DAY)
    assert gate(config, store, ref, DATE).outcome == Outcome.FIRST
    return ref


def test_the_first_version_serves_and_the_reason_is_recorded(config, store):
    ref = evaluated(config, store, version(store))
    assert gate(config, store, ref, NEXT).passed
    assert store.alias("serving") == ref
    (record,) = store.alias_history("serving")
    assert "first to serve, compared with nothing" in record.reason
    assert record.kind == Kind.GATE
    assert gate(config, store, ref, NEXT).outcome == Outcome.SERVES
    assert len(store.alias_history("serving")) == 1


def test_a_challenger_that_is_worse_does_not_serve_and_the_verdict_is_kept(config, store, champion):
    worse = evaluated(config, store, version(store), 0.70)
    verdict = gate(config, store, worse, NEXT)
    assert verdict.outcome == Outcome.REFUSED
    assert f"against {champion} on {NEXT}" in verdict.reason
    assert re.search(r"GAUC -0.04\d+, at least -0.0[45]\d+ \(allowed -0.0100\)", verdict.reason)
    assert store.alias("serving") == champion
    stored = store.load_evaluation(worse, NEXT)["verdict"]
    assert (stored["outcome"], stored["reason"]) == ("refused", verdict.reason)
    assert stored["examples"] == {str(NEXT): basis_now(config, worse, NEXT).examples}


def test_a_challenger_that_is_shown_to_be_as_good_serves(config, store, champion):
    other = evaluated(config, store, version(store), 0.749)
    verdict = gate(config, store, other, NEXT)
    assert verdict.outcome == Outcome.PASSED
    assert verdict.power > 0.8
    assert f"an equal version passes with {100 * verdict.power:.0f} %" in verdict.reason
    assert "harm to fewer than 1 user in 134 may not show" in verdict.reason
    assert store.alias("serving") == other


def test_a_worse_log_loss_is_refused_although_the_order_of_ads_is_as_good(config, store, champion):
    other = evaluated(config, store, version(store), 0.75, log_loss=0.31)
    verdict = gate(config, store, other, NEXT)
    assert verdict.outcome == Outcome.REFUSED
    assert re.search(r"LogLoss -0\.03\d+, at least -0\.03\d+ \(allowed -0\.0100\)", verdict.reason)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"calibration": 3.0}, r"calibration .* within \[0.5, 2.0\], found 3.00"),
        ({"calibration": None}, "found none"),
        ({"spread": 0.0}, "they are all alike"),
        ({"spread": float("nan")}, "they are all alike"),
    ],
)
def test_what_an_evaluation_says_against_a_version_is_the_reason(config, store, values, reason):
    ref = evaluated(config, store, version(store), **values)
    verdict = gate(config, store, ref, NEXT)
    assert not verdict.passed
    assert store.alias("serving") is None
    assert re.search(reason, verdict.reason), verdict.reason


@pytest.mark.parametrize(
    ("level", "days", "passes"),
    [("cpm", 3, True), ("cpm", 4, False), ("tpm", 21, True), ("tpm", 22, False)],
)
def test_stale_parents_are_refused_with_the_dag_to_look_at(config, store, level, days, passes):
    parent = version(store, DATE - dt.timedelta(days=days), level)
    ref = evaluated(config, store, version(store, **{level: [parent]}))
    verdict = gate(config, store, ref, NEXT)
    assert verdict.passed is passes
    if not passes:
        assert f"its {level} {parent} is {days} days older" in verdict.reason
        assert f"ecdctr_{level} did not run" in verdict.reason


def test_a_chain_keeps_the_parents_of_its_first_day(config, store):
    yesterday = version(store, DATE - DAY)
    snapshot = version(store, DATE - dt.timedelta(days=60), "tpm")
    ref = evaluated(config, store, version(store, actr=[yesterday], tpm=[snapshot]))
    assert gate(config, store, ref, NEXT).passed


def test_an_older_version_does_not_replace_a_newer_one(config, store):
    newer = evaluated(config, store, version(store))
    gate(config, store, newer, NEXT)
    older = evaluated(config, store, version(store, DATE - DAY))
    verdict = gate(config, store, older, NEXT)
    assert not verdict.passed
    assert f"older than the serving {newer}" in verdict.reason


def test_a_version_without_an_evaluation_cannot_pass(config, store):
    with pytest.raises(StoreError, match="was not evaluated on"):
        gate(config, store, version(store), NEXT)


# -- little traffic --------------------------------------------------------------------------------


def test_too_few_users_is_not_judged_and_says_how_many_are_missing(config, store):
    first = evaluated(config, store, version(store, DATE - DAY), 0.75, DATE, NEXT, users=63)
    gate(config, store, first, DATE)
    better = evaluated(config, store, version(store), 0.9, users=63)
    verdict = gate(config, store, better, NEXT)
    assert verdict.outcome == Outcome.WAITING
    assert "63 users with a click and a non-click, 37 fewer than evaluation.gate_min_users" in (
        verdict.reason
    )
    assert store.alias("serving") == first
    last = changed(config, "evaluation", gate_days=1)
    verdict = gate(last, store, better, NEXT)
    assert verdict.outcome == Outcome.REFUSED
    assert "37 fewer" in verdict.reason


def test_users_without_both_labels_do_not_count(config, store, champion):
    other = evaluated(config, store, version(store))
    for ref in (champion, other):
        folder = store.evaluation(ref, NEXT)
        table = pq.read_table(folder / "users.parquet", partitioning=None)
        nothing = pa.nulls(table.num_rows, pa.float64())
        table = table.set_column(table.column_names.index("auc"), "auc", nothing)
        with store.staging() as target:
            pq.write_table(table, target / "users.parquet")
            shutil.copy(folder / "evaluation.json", target)
            store.save_evaluation(target, ref, NEXT)
    verdict = gate(changed(config, "evaluation", gate_days=1), store, other, NEXT)
    assert verdict.outcome == Outcome.REFUSED
    assert "GAUC +nan" in verdict.reason
    assert "0 users with a click and a non-click, 100 fewer" in verdict.reason


def test_a_version_waits_until_the_days_after_it_say_enough_and_then_serves(config, store):
    """Users so noisy that an equal version passes with 60 % on one day and with 94 % on two."""
    noise = 0.17
    loose = changed(config, "evaluation", gate_max_gauc_drop=0.03, gate_max_log_loss_rise=0.03)
    days = (NEXT, NEXT + DAY)
    first = evaluated(loose, store, version(store, DATE - DAY), 0.75, DATE, *days, noise=noise)
    gate(loose, store, first, DATE)
    pending = evaluated(loose, store, version(store), 0.77, *days, noise=noise)
    verdict = gate(loose, store, pending, NEXT)
    assert verdict.outcome == Outcome.WAITING
    assert 0.05 < verdict.power < 0.8
    assert "80 % need about 2 days of this traffic" in verdict.reason
    assert store.alias("serving") == first
    newer = evaluated(loose, store, version(store, NEXT), 0.77, NEXT + DAY, noise=noise)
    verdict = gate(loose, store, newer, NEXT + DAY)
    assert verdict.outcome == Outcome.WAITING
    assert f"{pending}, which waited, has passed meanwhile and serves" in verdict.reason
    assert store.alias("serving") == pending
    rests_on = store.verdicts(pending)[-1]
    assert rests_on["outcome"] == "passed"
    assert list(rests_on["examples"]) == [str(day) for day in days]


def test_a_version_that_was_refused_is_not_judged_again_as_days_come(config, store, champion):
    worse = evaluated(config, store, version(store), 0.70, NEXT, NEXT + DAY)
    assert gate(config, store, worse, NEXT).outcome == Outcome.REFUSED
    next_one = evaluated(config, store, version(store, NEXT), 0.75, NEXT + DAY, users=50)
    evaluated(config, store, champion, 0.75, NEXT + DAY, users=50)
    assert gate(config, store, next_one, NEXT + DAY).outcome == Outcome.WAITING
    assert len(store.verdicts(worse)) == 1


def test_days_that_were_not_delivered_are_no_common_days(config, store, champion, tmp_path):
    """A gap: the day after the challenger is lost, the gate is asked for the one after that."""
    root = tmp_path / "world"
    shutil.copytree(config.data.root, root)
    shutil.rmtree(root / "domain=ads" / f"date={NEXT}")
    gap = changed(config, "data", root=root, prepared=tmp_path / "prepared")
    other = evaluated(gap, store, version(store), 0.75, NEXT + DAY)
    evaluated(gap, store, champion, 0.75, NEXT + DAY)
    verdict = gate(gap, store, other, NEXT + DAY)
    assert verdict.passed
    assert list(verdict.examples) == [str(NEXT + DAY)]


def test_a_champion_that_cannot_be_evaluated_any_more_serves_on_and_the_reason_says_so(
    config, store
):
    lost = evaluated(config, store, version(store, DATE - DAY), 0.75, DATE)
    gate(config, store, lost, DATE)
    other = evaluated(config, store, version(store), 0.9)
    verdict = gate(config, store, other, NEXT)  # its files are no network
    assert verdict.outcome == Outcome.WAITING
    assert f"the serving {lost} cannot be evaluated on {NEXT}" in verdict.reason
    assert f"ecdctr store promote {other}" in verdict.reason
    assert store.alias("serving") == lost


def test_a_promotion_between_verdict_and_record_is_not_overwritten(
    config, store, champion, monkeypatch
):
    by_hand, other = version(store), evaluated(config, store, version(store), 0.75)
    judge = gates.judge

    def promoted_meanwhile(*judged: Any) -> Verdict:
        verdict = judge(*judged)
        if store.alias("serving") == champion:
            assert verdict.passed
            store.set_alias("serving", by_hand, "by hand")
        return verdict

    monkeypatch.setattr(gates, "judge", promoted_meanwhile)
    verdict = gate(config, store, other, NEXT)  # judged again: by_hand's files are no network
    assert verdict.outcome == Outcome.WAITING
    assert f"the serving {by_hand} cannot be evaluated" in verdict.reason
    assert store.alias("serving") == by_hand
    assert [one["passed"] for one in store.verdicts(other)] == [False]


def test_others_who_promote_all_the_time_end_the_gate_with_a_sentence(
    config, store, champion, monkeypatch
):
    other = evaluated(config, store, version(store), 0.75)
    judge = gates.judge

    def promoted_meanwhile(*judged: Any) -> Verdict:
        store.set_alias("serving", champion, "again")
        return judge(*judged)

    monkeypatch.setattr(gates, "judge", promoted_meanwhile)
    with pytest.raises(TryAgain, match=r"was set to .* meanwhile \(again\)"):
        gate(config, store, other, NEXT)
    (said,) = store.verdicts(other)
    assert said["outcome"] == Outcome.WAITING, "the next gate judges it"


def test_doctor_repeats_how_much_the_gate_can_see_with_this_traffic(config, store, waits):
    """The newest comparison of production; without any it says so."""
    said = store.verdicts(waits)[-1]
    (line,) = [
        one.text for one in examine(REPOSITORY / "none.yaml", store.root) if "gate: " in one.text
    ]
    power = f"a version as good as the champion passed with {100 * said['power']:.0f} %"
    assert f"gate: on {NEXT} {power}, on 1 days of traffic" in line
    assert f"evaluation.gate_power needs {math.ceil(said['needed_days'])} days" in line


# -- judged once, and each in its turn -------------------------------------------------------------


def little(config: Config, **settings: Any) -> Config:
    """Return a gate that waits for a second day of users as noisy as those of `noisy`."""
    margins = {"gate_max_gauc_drop": 0.03, "gate_max_log_loss_rise": 0.03}
    return changed(config, "evaluation", **margins | settings)


NOISE = 0.17  # with it an equal version passes with 60 % on one day and with 94 % on two


@pytest.fixture
def waits(config: Config, store: Store) -> Ref:
    """Return a version that waits after one day, and what serves."""
    loose, days = little(config), (NEXT, NEXT + DAY)
    first = evaluated(loose, store, version(store, DATE - DAY), 0.75, DATE, *days, noise=NOISE)
    gate(loose, store, first, DATE)
    pending = evaluated(loose, store, version(store), 0.77, *days, noise=NOISE)
    assert gate(loose, store, pending, NEXT).outcome == Outcome.WAITING
    return pending


def test_what_waits_is_judged_also_when_the_newest_is_refused(config, store, waits):
    newest = evaluated(config, store, version(store, NEXT), 0.75, NEXT + DAY, calibration=9.0)
    verdict = gate(little(config), store, newest, NEXT + DAY)
    assert verdict.outcome == Outcome.REFUSED
    assert f"{waits}, which waited, has passed meanwhile and serves" in verdict.reason
    assert store.alias("serving") == waits


def test_a_damaged_version_that_waits_keeps_nobody_from_being_judged(config, store, waits):
    damaged = evaluated(config, store, version(store, NEXT), 0.77, NEXT + DAY, noise=NOISE)
    assert gate(little(config, gate_days=2, gate_power=0.99), store, damaged, NEXT + DAY)
    store.add_verdict(damaged, {**store.verdicts(damaged)[-1], "outcome": "not judged yet"})
    (store.evaluation(damaged, NEXT + DAY) / "users.parquet").write_bytes(b"PAR1")
    newest = version(store, NEXT + DAY)
    evaluated(config, store, newest, 0.75, NEXT + 2 * DAY, calibration=9.0)
    evaluated(config, store, waits, 0.77, NEXT + 2 * DAY, noise=NOISE)
    evaluated(config, store, store.alias("serving"), 0.75, NEXT + 2 * DAY, noise=NOISE)
    verdict = gate(little(config), store, newest, NEXT + 2 * DAY)
    assert f"{damaged}, which waits, cannot be judged" in verdict.reason
    assert store.verdicts(waits)[-1]["outcome"] != Outcome.WAITING


def test_a_manifest_that_is_not_what_was_published_is_no_ground_to_decide_on(config, tmp_path):
    """A parent's date that a disk or somebody changed would hide that it is stale."""
    store = Store(tmp_path / "store")
    stale = version(store, DATE - 40 * DAY, "cpm")
    ref = evaluated(config, store, version(store, cpm=[stale]))
    path = store.path(ref) / "manifest.json"
    path.write_text(path.read_text().replace(str(stale.date), str(DATE)))
    words = rf"{ref}: manifest.json differs from its digest; train it again: ecdctr train actr"
    with pytest.raises(StoreError, match=words):
        gate(config, store, ref, NEXT)
    assert store.alias("serving") is None
    assert store.verdicts(ref)[-1]["outcome"] == Outcome.WAITING


@pytest.mark.parametrize("name", ["evaluation.json", "users.parquet", "digests.json"])
@pytest.mark.parametrize("whose", ["challenger", "champion"])
def test_an_evaluation_that_is_not_what_was_kept_is_no_ground_to_decide_on(
    config, tmp_path, name, whose
):
    store = Store(tmp_path / "store")
    champion = evaluated(config, store, version(store, DATE - DAY), 0.75, DATE, NEXT)
    gate(config, store, champion, DATE)
    other = evaluated(config, store, version(store), 0.76, noise=NOISE)
    ref = other if whose == "challenger" else champion
    path = store.evaluation(ref, NEXT) / name
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0.7", b"0.9") if name != "users.parquet" else content[:-1])
    if name == "digests.json":
        path.write_bytes(content[:-9])
    words = f"The evaluation of {ref} on {NEXT}.*{name}.*make it again: ecdctr evaluate --date"
    if whose == "challenger":
        with pytest.raises(StoreError, match=words):
            gate(config, store, other, NEXT)
    else:
        assert re.search(words, gate(config, store, other, NEXT).reason)
    assert store.alias("serving") == champion
    if name != "users.parquet":
        with pytest.raises(StoreError, match=words):
            store.load_evaluation(ref, NEXT)


def test_a_version_that_waits_is_judged_when_days_are_missing_between(
    config, store, waits, tmp_path
):
    """Three calendar days later there are two days after it.

    Which are all that the gate would wait for.
    """
    root = tmp_path / "world"
    shutil.copytree(config.data.root, root)
    last = DATE + 4 * DAY
    for gone in (NEXT + DAY, NEXT + 2 * DAY):
        shutil.rmtree(root / "domain=ads" / f"date={gone}", ignore_errors=True)
    gap = changed(little(config, gate_days=2), "data", root=root, prepared=tmp_path / "prepared")
    for ref, gauc in ((waits, 0.77), (store.alias("serving"), 0.75)):
        evaluated(gap, store, ref, gauc, NEXT, last, noise=NOISE)
    newest = evaluated(gap, store, version(store, last - DAY), 0.75, last, calibration=9.0)
    gate(gap, store, newest, last)
    assert store.verdicts(waits)[-1]["outcome"] != Outcome.WAITING
    assert list(store.verdicts(waits)[-1]["examples"]) == [str(NEXT), str(last)]


def test_a_version_of_the_champions_own_date_trained_again_and_waiting_is_judged(
    config, store, champion
):
    again = evaluated(config, store, version(store, DATE - DAY), 0.75, DATE, NEXT, NEXT + DAY)
    assert again.age > champion.age
    few = changed(config, "evaluation", gate_min_users=10**6, gate_days=2)
    assert gate(few, store, again, DATE).outcome == Outcome.WAITING
    newest = evaluated(config, store, version(store), 0.75, NEXT, calibration=9.0)
    gate(config, store, newest, NEXT)
    assert store.alias("serving") == again


def test_an_earlier_version_of_the_champions_date_is_older_than_it(config, store):
    first, again = version(store), evaluated(config, store, version(store))
    assert gate(config, store, again, NEXT).passed
    evaluated(config, store, first)
    assert f"older than the serving {again}" in gate(config, store, first, NEXT).reason


def test_a_refusal_by_the_data_stands_on_later_days_until_data_champion_or_rule_change(
    config, store, champion, tmp_path
):
    """Worse on the day after it.

    So much better on the next one that both days together would let it pass.
    """
    days = (NEXT, NEXT + DAY)
    lucky = evaluated(config, store, version(store), 0.72, NEXT)
    evaluated(config, store, lucky, 0.80, NEXT + DAY)
    first = gate(config, store, lucky, NEXT)
    assert first.outcome == Outcome.REFUSED
    second = gate(config, store, lucky, NEXT + DAY)
    assert second.outcome == Outcome.REFUSED
    assert second.reason == f"{first.reason} (so judged on {NEXT}; a version is judged once)"
    assert second.examples == first.examples
    assert len(store.verdicts(lucky)) == 1
    assert store.alias("serving") == champion

    again = delivered_again(config, tmp_path, NEXT)
    for ref, gauc in ((lucky, 0.72), (champion, 0.75)):
        evaluated(again, store, ref, gauc, *days)
    evaluated(again, store, lucky, 0.80, NEXT + DAY)
    assert gate(again, store, lucky, NEXT + DAY).passed


def test_a_refusal_stands_also_behind_another_verdict_that_the_data_did_not_give(
    config, store, champion
):
    """Refused; another version is promoted by hand, the gate asked, and that rolled back."""
    lucky = evaluated(config, store, version(store), 0.72, NEXT)
    evaluated(config, store, lucky, 0.80, NEXT + DAY)
    first = gate(config, store, lucky, NEXT)
    store.set_alias("serving", version(store, NEXT + DAY), "by hand")
    assert "older than the serving" in gate(config, store, lucky, NEXT).reason
    store.rollback()
    second = gate(config, store, lucky, NEXT + DAY)
    assert second.reason.startswith(first.reason)
    assert store.alias("serving") == champion


def test_a_refusal_does_not_stand_when_the_rule_was_loosened(config, store, champion):
    worse = evaluated(config, store, version(store), 0.73)
    assert gate(config, store, worse, NEXT).outcome == Outcome.REFUSED
    loose = changed(config, "evaluation", gate_max_gauc_drop=0.05)
    assert gate(loose, store, worse, NEXT).passed


def test_what_could_not_be_compared_is_asked_again(config, store):
    lost = evaluated(config, store, version(store, DATE - DAY), 0.75, DATE)
    gate(config, store, lost, DATE)
    other = evaluated(config, store, version(store), 0.75)
    assert "cannot be evaluated" in gate(config, store, other, NEXT).reason
    evaluated(config, store, lost, 0.75)
    assert gate(config, store, other, NEXT).passed


def test_what_could_not_be_compared_is_judged_with_the_days_that_come(config, store):
    lost = evaluated(config, store, version(store, DATE - DAY), 0.75, DATE)
    gate(config, store, lost, DATE)
    other = evaluated(config, store, version(store), 0.75, NEXT, NEXT + DAY)
    assert not gate(config, store, other, NEXT).passed
    evaluated(config, store, lost, 0.75, NEXT, NEXT + DAY)
    newest = evaluated(config, store, version(store, NEXT), 0.75, NEXT + DAY, calibration=9.0)
    verdict = gate(config, store, newest, NEXT + DAY)
    assert f"{other}, which waited, has passed meanwhile and serves" in verdict.reason


def test_a_day_that_is_away_for_a_moment_is_no_reason_against_a_version(
    config, store, champion, tmp_path, monkeypatch
):
    """Taken away before the champion is looked at, and back for the next attempt."""
    root, away = tmp_path / "world", tmp_path / "away"
    shutil.copytree(config.data.root, root)
    elsewhere = changed(config, "data", root=root, prepared=tmp_path / "prepared")
    other = evaluated(elsewhere, store, version(store), 0.75)
    evaluated(elsewhere, store, champion, 0.75)
    folder, now, moved = root / "domain=ads" / f"date={NEXT}", gate_rule.current, []
    judge = gates.judge

    def read(config: Config, store: Store, ref: Ref, date: dt.date) -> Any:
        if ref == champion and not moved:
            moved.append(shutil.move(folder, away))
        return now(config, store, ref, date)

    def back(*judged: Any) -> Verdict:
        if away.exists():
            shutil.move(away, folder)
        return judge(*judged)

    monkeypatch.setattr(gate_rule, "current", read)
    monkeypatch.setattr(gates, "judge", back)
    assert gate(elsewhere, store, other, NEXT).passed
    assert moved
    assert [said["passed"] for said in store.verdicts(other)] == [True]


@pytest.mark.parametrize("allowed", [0, 1])
@pytest.mark.parametrize("looking", ["current", "_compare"])
def test_a_day_that_is_back_at_once_is_no_reason_to_blame_the_champion(
    store, champion, away, tmp_path, monkeypatch, looking, allowed
):
    """Away while the champion is looked at, or the days are listed, and back right after."""
    elsewhere, other, folder = away
    elsewhere = changed(elsewhere, "data", allowed_missing_days=allowed)
    for ref in (other, champion):
        evaluated(elsewhere, store, ref, 0.75, NEXT, NEXT + DAY)
    look, moved = getattr(gate_rule, looking), []

    def gone(*given: Any) -> Any:
        if moved or (looking == "current" and given[2] != champion):
            return look(*given)
        moved.append(shutil.move(folder, tmp_path / "away"))
        try:
            return look(*given)
        finally:
            shutil.move(tmp_path / "away", folder)

    monkeypatch.setattr(gate_rule, looking, gone)
    assert gate(elsewhere, store, other, NEXT).passed
    assert moved
    assert [said["outcome"] for said in store.verdicts(other)] == [Outcome.PASSED]


@pytest.fixture
def away(config: Config, store: Store, champion: Ref, tmp_path: Path) -> tuple[Config, Ref, Path]:
    """Return a log of its own, a version, and the folder of the day after it, which is away."""
    root = tmp_path / "world"
    shutil.copytree(config.data.root, root)
    elsewhere = changed(config, "data", root=root, prepared=tmp_path / "prepared")
    other = evaluated(elsewhere, store, version(store), 0.75, NEXT, NEXT + DAY)
    evaluated(elsewhere, store, champion, 0.75, NEXT, NEXT + DAY)
    return elsewhere, other, root / "domain=ads" / f"date={NEXT}"


@pytest.mark.parametrize("when", ["before it is read", "before the champion is"])
def test_a_version_whose_day_is_away_all_the_time_waits_and_the_next_gate_judges_it(
    store, champion, away, tmp_path, monkeypatch, when
):
    """Each attempt finds the day gone, then it comes back."""
    elsewhere, other, folder = away
    now = gate_rule.current

    def read(config: Config, store: Store, ref: Ref, date: dt.date) -> Any:
        if folder.exists() and (ref == champion or when == "before it is read"):
            shutil.move(folder, tmp_path / "away")
        elif not folder.exists() and when == "before the champion is":
            shutil.move(tmp_path / "away", folder)
        return now(config, store, ref, date)

    with monkeypatch.context() as patch:
        patch.setattr(gate_rule, "current", read)
        with pytest.raises((TryAgain, ContractError)):
            gate(elsewhere, store, other, NEXT)
    shutil.move(tmp_path / "away", folder)
    (said,) = store.verdicts(other)
    assert said["outcome"] == Outcome.WAITING
    assert said["reason"].startswith(f"{other} could not be judged on {NEXT}: ")
    assert store.alias("serving") == champion

    newest = evaluated(elsewhere, store, version(store, NEXT), 0.75, NEXT + DAY, calibration=9.0)
    verdict = gate(elsewhere, store, newest, NEXT + DAY)
    assert f"{other}, which waited, has passed meanwhile and serves" in verdict.reason
    assert store.alias("serving") == other


def test_a_version_whose_day_is_away_while_it_is_evaluated_waits_for_the_next_gate(
    store, champion, away, tmp_path
):
    elsewhere, other, folder = away
    shutil.move(folder, tmp_path / "away")
    path = write_config(tmp_path / "c.yaml", Path(elsewhere.data.root))
    root = str(store.root)
    arguments = ["--config", str(path), "--store", root, "evaluate", "--date", str(NEXT)]
    ended = CliRunner().invoke(app, [*arguments, "--version", str(other)])
    assert ended.exit_code == 1
    assert store.verdicts(other) == []
    assert CliRunner().invoke(app, [*arguments, "--version", str(other), "--gate"]).exit_code == 1
    (said,) = store.verdicts(other)
    assert said["outcome"] == Outcome.WAITING


def test_a_day_whose_natural_impressions_are_away_is_no_day_to_judge_by(store, champion, away):
    """Refused where no gap is tolerated; where one is, judged by the other day alone."""
    elsewhere, other, folder = away
    shutil.rmtree(folder.parent.parent / "domain=natural" / f"date={NEXT}")
    with pytest.raises(ContractError, match=f"natural of {NEXT}"):
        gate(elsewhere, store, other, NEXT + DAY)
    assert store.verdicts(other)[-1]["outcome"] == Outcome.WAITING
    tolerant = changed(elsewhere, "data", allowed_missing_days=1)
    for ref in (other, champion):
        evaluated(tolerant, store, ref, 0.75, NEXT, NEXT + DAY)
    assert list(gate(tolerant, store, other, NEXT + DAY).examples) == [str(NEXT + DAY)]


def test_the_first_version_is_not_judged_by_a_day_of_one_domain_though_gaps_are_tolerated(
    config, any_store, tmp_path
):
    root = tmp_path / "world"
    shutil.copytree(config.data.root, root)
    shutil.rmtree(root / "domain=natural" / f"date={NEXT}")
    elsewhere = changed(
        config, "data", root=root, prepared=tmp_path / "prepared", allowed_missing_days=1
    )
    first = evaluated(elsewhere, any_store, version(any_store))
    with pytest.raises(ContractError, match=f"ads of {NEXT} is not delivered whole in both"):
        gate(elsewhere, any_store, first, NEXT)
    assert any_store.alias("serving") is None
    assert any_store.verdicts(first)[-1]["outcome"] == Outcome.WAITING


def test_a_version_that_was_rolled_back_does_not_return_by_the_gate(config, store, champion):
    other = evaluated(config, store, version(store), 0.75)
    assert gate(config, store, other, NEXT).passed
    store.rollback()
    verdict = gate(config, store, other, NEXT)
    assert verdict.outcome == Outcome.REFUSED
    assert f"served before and does not any more, since rollback from {other}" in verdict.reason
    assert store.alias("serving") == champion


def test_a_day_that_is_not_delivered_whole_is_no_day_to_judge_by(config, store, champion, tmp_path):
    """With data.ready: marker, the day after the challenger has files and no marker.

    Then one, which is a folder.
    """
    root = tmp_path / "world"
    shutil.copytree(config.data.root, root)
    for folder in root.glob("domain=*/date=*"):
        (folder / "_SUCCESS").touch()
    half = root / "domain=ads" / f"date={NEXT}"
    marked = changed(config, "data", root=root, prepared=tmp_path / "prepared", ready="marker")
    other = evaluated(marked, store, version(store), 0.75, NEXT, NEXT + DAY)
    evaluated(marked, store, champion, 0.75, NEXT, NEXT + DAY)
    (half / "_SUCCESS").unlink()
    verdict = gate(marked, store, other, NEXT + DAY)
    assert list(verdict.examples) == [str(NEXT + DAY)]
    (half / "_SUCCESS").mkdir()
    strict = changed(marked, "evaluation", gate_max_gauc_drop=0.02)
    third = evaluated(marked, store, version(store), 0.75, NEXT, NEXT + DAY)
    evaluated(marked, store, other, 0.75, NEXT, NEXT + DAY)
    assert list(gate(strict, store, third, NEXT + DAY).examples) == [str(NEXT + DAY)]


def test_a_day_delivered_again_between_the_two_evaluations_is_judged_again(
    config, store, champion, monkeypatch
):
    """Ours is read, then the day is delivered again and the champion evaluated on that."""
    other = evaluated(config, store, version(store), 0.75)
    changes, now = [0], gate_rule.current

    def read(config: Config, store: Store, ref: Ref, date: dt.date) -> Any:
        stored = now(config, store, ref, date)
        if ref == champion and not changes[0]:
            changes[0] = 1
            return stored._replace(content=stored.content | {"examples": "f" * 64})
        return stored

    monkeypatch.setattr(gate_rule, "current", read)
    assert gate(config, store, other, NEXT).passed
    assert changes == [1]


def test_nothing_is_removed_while_a_version_is_evaluated_or_judged(
    config, store, champion, monkeypatch
):
    other = evaluated(config, store, version(store, config=config), 0.75)
    tried = []

    def remove_before(work: Any) -> Any:
        def tries(*given: Any) -> Any:
            with pytest.raises(StoreError, match="Cannot remove versions"):
                remove(store, 1, 0, "test")
            tried.append(work.__name__)
            return work(*given)

        return tries

    monkeypatch.setattr(gates, "judge", remove_before(gates.judge))
    assert gate(config, store, other, NEXT).passed
    monkeypatch.setattr(evaluating, "score", remove_before(evaluating.score))
    with pytest.raises(StoreError):
        evaluate(config, store, other, NEXT)  # its files are no network
    assert tried == ["judge", "score"]


# -- what a verdict rests on -----------------------------------------------------------------------


def test_evaluations_of_other_examples_or_code_are_never_compared(config, store, champion):
    other = evaluated(config, store, version(store))
    first, second = load(store, other, NEXT), load(store, champion, NEXT)
    assert pair([(first, second)]).judges == USERS
    for name in ("examples", "code"):
        differs = second._replace(content=second.content | {name: "f" * 64})
        with pytest.raises(StoreError, match="not evaluated on the same examples by the same code"):
            pair([(first, differs)])
    shifted = second._replace(users=second.users.slice(1))
    with pytest.raises(StoreError, match="not evaluated on the same examples"):
        pair([(first, shifted)])


def test_a_day_that_is_delivered_again_makes_new_evaluations_and_the_old_verdict_is_not_shown(
    config, store, tmp_path
):
    train_tpm(Request(config, store, DATE - 2 * DAY))
    train_cpm(Request(config, store, DATE - DAY))
    small = changed(config, "evaluation", gate_calibration=(0.0, 100.0), gate_days=1)
    small = changed(small, "evaluation", gate_min_users=10)
    served = train_actr(Request(small, store, DATE - DAY)).manifest.ref
    evaluate(small, store, served, DATE)
    assert gate(small, store, served, DATE).passed
    challenger = train_actr(Request(small, store, DATE)).manifest.ref
    evaluate(small, store, challenger, NEXT)
    before = gate(small, store, challenger, NEXT)
    old = {ref: load(store, ref, NEXT) for ref in (served, challenger)}
    assert len({one.content["judged_on"] for one in old.values()}) == 1
    assert store.load_evaluation(challenger, NEXT)["verdict"]["reason"] == before.reason

    again = delivered_again(small, tmp_path, NEXT)
    evaluate(again, store, challenger, NEXT)
    assert store.load_evaluation(challenger, NEXT)["verdict"] is None
    new = {ref: current(again, store, ref, NEXT) for ref in (served, challenger)}
    for ref, one in new.items():
        assert one.basis != old[ref].basis
        assert one.content["judged_on"] != old[ref].content["judged_on"]
        users = one.users.column("user").to_pylist()
        assert users[0] == -1
        per_user = dict(zip(users, one.users.column("auc").to_pylist(), strict=True))
        was = zip(
            *(old[ref].users.column(name).to_pylist() for name in ("user", "auc")), strict=True
        )
        assert all(per_user[user] == auc for user, auc in was)
    with pytest.raises(StoreError, match="not evaluated on the same examples"):
        pair([(new[challenger], old[served])])
    after = gate(again, store, challenger, NEXT)
    if before.outcome != Outcome.PASSED:
        assert after.outcome == before.outcome
        assert after.examples != before.examples


def test_a_refusal_by_other_evaluating_code_does_not_stand(config, store, champion, monkeypatch):
    ref = evaluated(config, store, version(store), 0.60, NEXT)
    assert gate(config, store, ref, NEXT).outcome == Outcome.REFUSED
    for module in (basis, gate_rule):
        monkeypatch.setattr(module, "evaluating_code", lambda: "mended")
    evaluated(config, store, champion, 0.75, NEXT)
    evaluated(config, store, ref, 0.76, NEXT)
    assert gate(config, store, ref, NEXT).passed


def test_a_gate_killed_before_its_verdict_is_kept_keeps_it_the_next_time(
    config, store, champion, monkeypatch
):
    ref = evaluated(config, store, version(store), 0.76, NEXT)
    with monkeypatch.context() as context:
        context.setattr(Store, "add_verdict", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            gate(config, store, ref, NEXT)
    assert store.alias("serving") == ref
    for _ in range(2):
        assert gate(config, store, ref, NEXT).outcome == Outcome.SERVES
    (kept,) = store.verdicts(ref)
    assert kept["passed"]
    shown = store.load_evaluation(ref, NEXT)["verdict"]
    assert shown["reason"] == store.serving("production", "actr").reason


def test_the_verdict_of_a_killed_gate_names_the_data_it_judged_when_the_day_came_again_since(
    config, store, champion, monkeypatch, tmp_path
):
    """Whoever is judged next: the alias's record has the verdict whole."""
    ref = evaluated(config, store, version(store), 0.76, NEXT)
    judged = basis_now(config, ref, NEXT).examples
    with monkeypatch.context() as context:
        context.setattr(Store, "add_verdict", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            gate(config, store, ref, NEXT)
    again = delivered_again(config, tmp_path, NEXT)
    evaluated(again, store, ref, 0.5, NEXT, calibration=9.0)
    assert gate(again, store, ref, NEXT).outcome == Outcome.SERVES
    (kept,) = store.verdicts(ref)
    assert (
        kept["examples"] == {str(NEXT): judged} != {str(NEXT): basis_now(again, ref, NEXT).examples}
    )
    assert (kept["champion"], kept["passed"]) == ([str(part) for part in champion], True)
    assert kept["power"] > 0.8
    assert kept["rule"]
    assert store.load_evaluation(ref, NEXT)["verdict"] is None, "the new data was never judged"
