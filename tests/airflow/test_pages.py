"""The plugin's pages: what they show, that they escape it, who may read.

And how fast they are with many versions.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import re
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st

from ecdctr.airflow.pages import views
from ecdctr.airflow.pages.app import build_app
from ecdctr.airflow.pages.chart import BOTTOM, LEFT, RIGHT, TOP, chart
from ecdctr.config.terms import LEVELS
from ecdctr.demo.page import Row, write_page
from ecdctr.errors import ConfigError, OutOfReach
from ecdctr.evaluation.gate import Outcome, Verdict
from ecdctr.report.lineage import lineage
from ecdctr.store.manifest import Manifest, Ref
from ecdctr.store.retention import remove
from ecdctr.store.store import Store
from ecdctr.studies.ablation.stored import save_ablation
from ecdctr.studies.forgetting.measures import Matrix
from ecdctr.studies.forgetting.page import About, write_study
from tests.conftest import REPOSITORY
from tests.make import manifest as bare_manifest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

DAY = dt.date(2026, 3, 10)
NASTY = "<script>alert(1)</script>"


def publish(store: Store, level: str, date: dt.date, **values) -> Ref:
    made = bare_manifest(date, f"{level}{date}", values.pop("experiment", "production"), level)
    with store.staging() as folder:
        (folder / "a").write_text(level)
        return store.publish(folder, made.model_copy(update=values)).ref


def evaluate(store: Store, ref: Ref, gauc: float, impressions: str = "same") -> None:
    date = ref.date + dt.timedelta(days=1)
    folder = (
        store.root
        / ref.experiment
        / "evaluations"
        / ref.level
        / str(date)
        / f"{ref.date}.{ref.version}"
    )
    folder.mkdir(parents=True)
    metrics = {"all": {"gauc": gauc, "impressions": 10.0}, "oracle": {"gauc": 0.9}}
    content = {
        "ref": str(ref), "date": str(date), "metrics": metrics, "calibration_curve": [],
        "judged_on": impressions,
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(content))


@pytest.fixture
def client(store: Store) -> TestClient:
    return TestClient(build_app(lambda: store, lambda: None, lambda: {"tpm", "cpm", "actr"}))


@pytest.fixture
def chain(store: Store) -> dict[str, Ref]:
    """Two TPMs, CPM, two A-CTR of which the second serves, and an experiment."""
    refs = {"old": publish(store, "tpm", DAY - dt.timedelta(days=7))}
    refs["tpm"] = publish(store, "tpm", DAY, parents={"tpm": [str(refs["old"])]})
    snapshots = [str(refs["tpm"]), str(refs["old"])]
    refs["cpm"] = publish(store, "cpm", DAY, parents={"tpm": snapshots})
    refs["first"] = publish(store, "actr", DAY - dt.timedelta(days=1))
    refs["actr"] = publish(
        store,
        "actr",
        DAY,
        parents={"cpm": [str(refs["cpm"])], "tpm": snapshots},
        airflow_run="ecdctr_actr/manual 1",
    )
    store.create_experiment("other")
    refs["other"] = publish(store, "actr", DAY, experiment="other")
    for name, gauc in (("first", 0.6), ("actr", 0.7123), ("other", 0.5)):
        evaluate(store, refs[name], gauc)
    store.set_alias("serving", refs["actr"], f"better {NASTY}")
    return refs


def test_the_overview_shows_levels_the_champion_and_why_it_serves_escaped(client, chain):
    page = client.get("/overview").text
    for name in ("tpm", "cpm", "actr", "first"):
        assert str(chain[name]) in page
    assert "0.7123" in page
    assert "served" in page
    assert "behind its schedule" in page
    assert NASTY not in page
    assert "&lt;script&gt;" in page


def test_a_store_that_does_not_answer_is_a_503(chain):
    def out_of_reach() -> Store:
        raise OutOfReach("s3://bucket does not answer")

    client = TestClient(build_app(out_of_reach, lambda: None, set))
    answer = client.get("/overview")
    assert (answer.status_code, answer.json()) == (503, {"detail": "s3://bucket does not answer"})


def test_all_pages_are_of_one_form_with_one_stylesheet():
    pages = list((REPOSITORY / "ecdctr").rglob("*.html"))
    assert [path.name for path in pages if "<style>" in path.read_text()] == ["file.html"]
    assert [path.name for path in pages if "<!doctype" in path.read_text()] == ["file.html"]


def test_an_old_version_is_no_alarm_where_nothing_is_scheduled(store, chain):
    client = TestClient(build_app(lambda: store, lambda: None, set))
    page = client.get("/overview").text
    assert "not scheduled" in page
    assert "behind its schedule" not in page
    today = DAY + dt.timedelta(days=100)
    states = views.level_states(store, "production", today, {"tpm", "cpm"})
    assert [state.late for state in states] == [True, True, False]
    states = views.level_states(store, "other", today, {"tpm", "cpm", "actr"})
    assert not any(state.late for state in states), "only production is scheduled"


def test_a_long_chain_is_drawn_as_one_box_behind_its_newest_version(store):
    tpm = publish(store, "tpm", DAY - dt.timedelta(days=9))
    before: list[str] = []
    for k in range(6):
        date = DAY + dt.timedelta(days=k)
        cpm = publish(store, "cpm", date, parents={"cpm": before, "tpm": [str(tpm)]})
        before = [str(cpm)]
    actr = publish(store, "actr", DAY + dt.timedelta(days=5), parents={"cpm": before})
    drawn = lineage(store, actr)
    assert sorted(len(node.versions) for node in drawn.nodes) == [1, 1, 1, 5]
    assert (
        len(drawn.edges) == 3
    )  # TPM into the newest CPM, the earlier ones into it, CPM into A-CTR
    page = TestClient(build_app(lambda: store, lambda: None)).get(f"/lineage/{actr}").text
    assert "5 earlier CPM" in page
    assert (
        page.count("/version/production/cpm/") == 6 + 1
    )  # in the table each, the newest in its box


def test_a_chart_has_round_ticks_all_its_days_and_values_to_read():
    days = [DAY + dt.timedelta(days=k) for k in range(3)]
    drawn = chart({"a": list(zip(days, (0.7672, 0.8449, 0.80), strict=True))})
    assert [text for _, text in drawn.values] == ["0.76", "0.78", "0.80", "0.82", "0.84", "0.86"]
    assert sorted(text for _, text in drawn.days) == ["03-10", "03-11", "03-12"]
    assert [mark.label for mark in drawn.lines[0].marks] == ["0.767", "0.845", "0.800"]


@given(st.lists(st.floats(0.3, 1.0), min_size=1, max_size=6, unique=True))
def test_no_value_of_a_chart_lies_on_another_one_or_on_a_point(values):
    drawn = chart({str(value): [(DAY, value)] for value in values})
    marks = [line.marks[0] for line in drawn.lines]
    labelled = [mark for mark in marks if mark.label]
    assert labelled
    assert len(values) > 2 or labelled == marks
    for mark in labelled:  # a text of 12 pixels, a point of 6
        top, foot = mark.label_y - 10, mark.label_y + 2
        others = [other for other in marks if abs(other.y - mark.y) > 1]
        assert all(other.y + 3 <= top or other.y - 3 >= foot for other in others)
        texts = [other.label_y for other in others if other.label]
        assert all(abs(other - mark.label_y) >= 12 for other in texts)


@given(
    st.lists(st.floats(0.3, 1.0), min_size=1, max_size=40),
    st.lists(st.floats(0.3, 1.0), max_size=40),
)
def test_every_point_of_a_chart_lies_inside_it(first, second):
    curves = {
        name: [(DAY + dt.timedelta(days=k), value) for k, value in enumerate(values)]
        for name, values in (("a", first), ("b", second))
    }
    drawn = chart(curves)
    for line in drawn.lines:
        for mark in line.marks:
            assert LEFT <= mark.x <= RIGHT
            assert TOP <= mark.y <= BOTTOM


def test_means_of_experiments_are_over_the_days_that_all_have(client, chain):
    """Production has two days, of which the other experiment has the second one only."""
    page = client.get("/experiments").text
    assert "mean GAUC (1 d)" in page
    assert page.count("0.7123") == 2 + 1  # mean and day, and the point's title
    assert "Means are over the days that all of them have" in page


def test_the_overview_of_an_empty_store_says_what_to_do(client):
    assert "Trigger" in client.get("/overview").text


def test_the_lineage_has_every_version_behind_the_serving_one(client, chain, store):
    page = client.get(f"/lineage/{chain['actr']}").text
    for name in ("actr", "cpm", "tpm", "old"):
        assert f"/version/{chain[name]}" in page
    assert f"/version/{chain['first']}" not in page
    assert "/dags/ecdctr_actr/runs/manual%201" in page
    assert "by hand" in page
    drawn = lineage(store, chain["actr"])
    assert len(drawn.nodes) == 4
    # two snapshots into CPM, CPM into A-CTR, TPM into TPM; A-CTR's snapshots are those of its CPM
    assert len(drawn.edges) == 4
    assert len({(node.x, node.y) for node in drawn.nodes}) == 4


def test_a_lineage_whose_older_versions_retention_removed_is_drawn_as_far_as_it_goes(
    store, tmp_path
):
    """The shipped schedule: a weekly TPM, a CPM that goes on from the day before, A-CTR from it."""
    tpms: list[str] = []
    cpm: list[str] = []
    for n in range(30):
        date = DAY + dt.timedelta(days=n)
        if n % 7 == 0:
            tpms.insert(0, str(publish(store, "tpm", date, parents={"tpm": tpms[:1]})))
        cpm = [str(publish(store, "cpm", date, parents={"tpm": tpms[:2], "cpm": cpm}))]
        actr = publish(store, "actr", date, parents={"cpm": cpm, "tpm": tpms[:2]})
    store.set_alias("serving", actr, "passed")
    remove(store, 3, 7, "test")
    drawn = lineage(store, actr)
    assert {m.ref for m in drawn.versions} == set(store.lineage(actr))
    assert drawn.removed == 2  # the CPM and the TPM before the last that is left
    page = TestClient(build_app(lambda: store, lambda: None)).get(f"/lineage/{actr}").text
    assert "2 parents that retention (ecdctr store gc) has removed" in page
    report = tmp_path / "report.html"
    metrics = {"all": {"gauc": 0.7, "log_loss": 0.2}}
    write_page(store, [Row("production", "2026-04-10", str(actr), metrics, [[0.1, 0.1]])], report)
    drawing = report.read_text().split("Lineage of the serving model")[1]
    assert "earlier CPM" in drawing
    assert "2 parents that retention (ecdctr store gc) has removed" in drawing


def test_a_version_links_to_its_airflow_run(client, chain):
    assert "/dags/ecdctr_actr/runs/manual%201" in client.get(f"/version/{chain['actr']}").text


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_version_shows_the_gates_verdict(client, chain, store, outcome):
    date = DAY + dt.timedelta(days=1)
    verdict = Verdict(outcome, f"why {NASTY}", examples={str(date): ""})
    store.add_verdict(chain["actr"], {"date": date, **verdict._asdict()})
    page = client.get(f"/version/{chain['actr']}").text
    assert f">{outcome}</span>, why" in page
    assert NASTY not in page


def test_experiments_stand_side_by_side_and_come_as_csv(client, chain):
    page = client.get("/experiments").text
    assert "other" in page
    assert "0.5000" in page
    rows = list(csv.DictReader(io.StringIO(client.get("/experiments.csv").text)))
    assert [(row["experiment"], row["gauc"]) for row in rows] == [
        ("production", "0.6"), ("production", "0.7123"), ("other", "0.5"),
    ]  # fmt: skip
    assert {row["impressions"] for row in rows} == {"same"}


def test_experiments_are_not_compared_on_days_that_were_delivered_again_between(
    client, store, chain
):
    """Neither in means nor in the chart; the table of all evaluations says what each rests on."""
    refs = []
    for experiment in ("production", "other"):
        refs.append(publish(store, "actr", DAY + dt.timedelta(days=1), experiment=experiment))
        evaluate(store, refs[-1], 0.83, experiment)
    page = client.get("/experiments").text
    day = DAY + dt.timedelta(days=2)
    assert f"{refs[0]} and {refs[1]} were evaluated on other impressions of {day}" in page
    assert "mean GAUC (1 d)" in page
    assert "0.8300" not in page
    rows = list(csv.DictReader(io.StringIO(client.get("/experiments.csv").text)))
    assert [row["impressions"] for row in rows if row["date"] == str(day)] == [
        "production", "other",
    ]  # fmt: skip


def test_an_evaluation_that_does_not_say_what_it_rests_on_is_like_no_other(client, store, chain):
    ref = publish(store, "actr", DAY + dt.timedelta(days=1))
    evaluate(store, ref, 0.83, "")
    rows = list(csv.DictReader(io.StringIO(client.get("/experiments.csv").text)))
    assert [row["impressions"] for row in rows if row["version"] == str(ref)] == [str(ref)]


@pytest.fixture
def study(store: Store) -> str:
    """Return a forgetting study of two variants, one of which failed."""
    rng = np.random.default_rng(1)
    days = [DAY + dt.timedelta(days=k) for k in range(3)]
    day, user = np.repeat(days, 20), np.tile(np.arange(20), 3)
    rows = [
        pa.table({"day": day, "user": user, "impressions": np.full(60, 4), "auc": rng.random(60)})
        for _ in days
    ]
    about = About("week", f"a world {NASTY}", days, (1,), 5, 2)
    write_study(
        store,
        about,
        {"continue": Matrix.stack([Matrix.of_rows(rows, days)])},
        {"broken": f"why {NASTY}"},
    )
    return "week"


def test_a_version_shows_its_newest_verdict_and_how_many_users_are_behind_a_gauc(
    client, store, chain
):
    ref, date = chain["actr"], DAY + dt.timedelta(days=1)
    path = store.evaluation(ref, date) / "evaluation.json"
    content = json.loads(path.read_text()) | {"examples": "abc"}
    content["metrics"]["new_users"] = {"gauc": 1.0, "gauc_users": 2.0}
    with store.staging() as folder:
        (folder / "evaluation.json").write_text(json.dumps(content))
        store.save_evaluation(folder, ref, date)
    for examples, reason in (("abc", f"small {NASTY}"), ("of another delivery", "unseen")):
        verdict = Verdict(Outcome.WAITING, reason, None, {str(date): examples})
        store.add_verdict(ref, {"date": str(date), "passed": False, **verdict._asdict()})
    page = client.get(f"/version/{ref}").text
    assert "not judged yet</span>, small" in page
    assert "unseen" not in page
    assert NASTY not in page
    assert "users behind it" in page
    assert '<td class="n">1.0000</td><td class="n">2</td>' in page


def test_a_study_shows_its_advice_figures_and_what_failed_escaped(client, chain, study):
    assert f"/study/{study}" in client.get("/experiments").text
    page = client.get(f"/study/{study}").text
    assert "nothing to compare it with" in page
    assert "a curve over the age of a day needs four days" in page
    assert "curves.png" not in page
    assert "failed: why" in page
    assert NASTY not in page
    assert "next-day GAUC" in page
    for name, kind in (
        ("heat.png", "image/png"),
        ("matrix.csv", "text/csv"),
    ):
        answer = client.get(f"/study/{study}/{name}")
        assert answer.headers["content-type"].startswith(kind)
    assert len(client.get(f"/study/{study}/matrix.csv").text.splitlines()) == 1 + 9
    whole = client.get(f"/study/{study}/study.html")
    assert NASTY not in whole.text
    assert 'src="data:image/png;base64,' in whole.text
    policy = whole.headers["Content-Security-Policy"]
    assert "img-src data:;" in policy, "or the browser shows no picture"
    assert "script-src" not in policy
    assert "default-src 'none'" in policy


def test_an_ablations_page_stands_among_the_experiments_with_its_picture(client, store, chain):
    about = {"date": str(DAY), "cohort": "all", "gauc": 0.7, "auc": 0.7, "log_loss": 0.3}
    about |= {"calibration": 1.0, "daily_samples": 10, "daily_seconds": 1.0, "daily_bytes": 5}
    records = [
        about | {"row": row, "seed": seed} for row in ("ads_only", "full") for seed in (1, 2)
    ]
    text = f"# Results\n\n{NASTY}\n\n| row | GAUC |\n| --- | --- |\n| full | 0.7 |\n"
    save_ablation(store, "rows", "demo", records, lambda picture: text + f"\n![cost]({picture})\n")
    assert "full 0.7000" in client.get("/experiments").text
    page = client.get("/study/rows").text
    assert "<td>full</td>" in page
    assert NASTY not in page
    (source,) = re.findall(r'<img src="([^"]+)"', page)
    assert client.get(source).headers["content-type"] == "image/png"
    assert "data:image/png;base64," in client.get("/study/rows/study.html").text


@pytest.mark.parametrize(
    "path",
    [
        "/study/nothing",
        "/study/..",
        "/study/week/study.json",
        "/study/week/..%2F..%2Fexperiment.json",
        "/study/%2e%2e/x",
    ],
)
def test_what_is_no_study_is_a_404(client, chain, study, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/version/production/actr/2026-03-10/v9999",
        "/version/production/actr/2026-03-10/..",
        "/version/%2e%2e/actr/2026-03-10/v0001",
        "/version/production/actr/yesterday/v0001",
        "/lineage/nobody/actr/2026-03-10/v0001",
        "/overview?experiment=%3Cb%3E",
        "/manifest.json",
    ],
)
def test_what_is_not_there_is_a_404(client, chain, path):
    assert client.get(path).status_code == 404


def test_pages_are_read_only_and_closed_to_who_is_not_logged_in(store, chain, client):
    assert client.post("/overview").status_code == 405

    def refuse() -> None:
        raise HTTPException(401, "Not authenticated")

    closed = TestClient(build_app(lambda: store, refuse))
    for path in (
        "/overview",
        "/experiments",
        "/experiments.csv",
        "/study/x",
        f"/version/{chain['actr']}",
    ):
        assert closed.get(path).status_code == 401


def test_pages_allow_no_script(client, chain):
    assert "default-src 'none'" in client.get("/overview").headers["content-security-policy"]


def test_pages_are_fast_with_five_thousand_versions(client, store, chain, study):
    """None reads each version's manifest: that takes sixteen times as long as the slowest of them.

    Versions are copied in place: publishing them one by one would take longer than the test.
    """
    source: Manifest = store.manifest(chain["actr"])
    for i in range(5000):
        date = DAY - dt.timedelta(days=2 + i % 1000)
        ref = Ref(
            "production" if i % 5 else "other",
            ("tpm", "cpm", "actr")[i % 3],
            date,
            f"v{2 + i // 1000:04d}",
        )
        folder: Path = store.path(ref)
        folder.mkdir(parents=True, exist_ok=True)
        made = source.model_copy(
            update={"experiment": ref.experiment, "level": ref.level, "data_date": date}
        )
        (folder / "manifest.json").write_text(
            made.model_copy(update={"version": ref.version}).model_dump_json()
        )
    experiments = store.experiments()
    every = [r for name in experiments for level in LEVELS for r in store.versions(name, level)]
    reading = seconds_of(lambda: [store.manifest(ref) for ref in every])
    for path in ("/overview", "/experiments", f"/lineage/{chain['actr']}", f"/study/{study}"):
        assert client.get(path).status_code == 200
        assert seconds_of(lambda path=path: client.get(path)) < reading / 4, path


def seconds_of(work: Callable[[], object]) -> float:
    """Return the median of three times."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"kind": "ablation"}', None])
@pytest.mark.parametrize("file", ["study.json", "study.md"])
def test_a_damaged_study_is_told_and_hides_no_other(client, store, chain, study, file, damage):
    """None is a folder in the place of the file; a picture that is gone is no error either."""
    rows = [{"row": "full", "seed": 1, "date": str(DAY), "cohort": "all", "gauc": 0.7, "auc": 0.7}]
    rows[0] |= {"log_loss": 0.3, "daily_samples": 1, "daily_seconds": 1.0, "daily_bytes": 5}
    save_ablation(store, "rows", "demo", rows, lambda _: "# Results\n")
    path = store.study("rows") / file
    path.unlink()
    path.mkdir() if damage is None else path.write_bytes(damage)
    (store.study("rows") / "cost.png").unlink()
    page = client.get("/experiments")
    assert f"/study/{study}" in page.text
    if file == "study.json":
        assert "The study rows: study.json " in page.text
        assert "make it again with the command of the study" in page.text
    if file == "study.json" or damage in (None, b"\xff\xfe"):
        answer = client.get("/study/rows")
        assert (answer.status_code, f"The study rows: {file} " in answer.json()["detail"]) == (
            404,
            True,
        )
    answer = client.get("/study/rows/cost.png")
    assert answer.status_code == 404
    assert "has no file cost.png; make it again" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ConfigError("c.yaml is not valid."), 500, "c.yaml is not valid."),
        (IsADirectoryError(21, "Is a directory", "/x"), 503, "at /x: expected a file there; take"),
        (PermissionError(13, "Permission denied", "/x"), 503, "at /x: give this user the right"),
    ],
)
def test_a_page_that_cannot_be_made_says_why(error, status, words):
    def store() -> Store:
        raise error

    answer = TestClient(build_app(store, lambda: None, set)).get("/overview")
    assert answer.status_code == status
    assert words in answer.json()["detail"]
