"""Airflow's web UI as a person uses it, in a real browser.

Trigger, backfill, study, the E-CDCTR pages, links. Screenshots go to build/screenshots/.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from ecdctr.airflow.params import MORE
from ecdctr.airflow.standalone import Airflow
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from tests.conftest import DATE, REPOSITORY
from tests.make import end_backfills, failed_logs, until

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
SCREENSHOTS = REPOSITORY / "build" / "screenshots"
DAYS = [DATE + dt.timedelta(days=k) for k in (1, 2, 3)]
VARIANTS = ("continue_no_tpm", "continue")  # of a forgetting study, as its form proposes

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


class Ui:
    """A page of the running Airflow, and what tests do on it."""

    def __init__(self, airflow: Airflow, page: Any) -> None:
        self.airflow, self.page = airflow, page
        self.store = Store(airflow.environment["ECDCTR_STORE"])

    def open(self, path: str) -> None:
        self.page.goto(self.airflow.url + path)

    def shot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def dialog(self, dag_id: str) -> Any:
        """Return the form behind the button Trigger."""
        self.open(f"/dags/{dag_id}")
        self.page.get_by_role("button", name="Trigger").first.click()
        dialog = self.page.locator("[role=dialog][data-state=open]")
        dialog.locator("[id^=element_]").first.wait_for()
        return dialog

    def backfill_dialog(self, dag_id: str, first: dt.date, last: dt.date) -> Any:
        end_backfills(self.airflow, dag_id)  # of whatever test was before
        dialog = self.dialog(dag_id)
        dialog.get_by_text("Backfill", exact=True).click()
        for date in (first, last):
            dialog.get_by_text("Select date and time").first.click()
            self.page.get_by_placeholder("YYYY/MM/DD").last.fill(f"{date:%Y/%m/%d}")
            self.page.get_by_placeholder("HH:mm").last.fill("00:00")
            self.page.keyboard.press("Escape")
        return dialog

    def fill(self, dialog: Any, fields: dict[str, str]) -> None:
        for name, value in fields.items():
            if name == "variant":
                dialog.locator("[role=combobox]").last.fill(value)
                self.page.get_by_role("option", name=value, exact=True).click()
                continue
            places = f"[name=element_{name}], [id='number-input:element_{name}'] input"
            field = dialog.locator(places).first
            if not field.is_visible():
                dialog.get_by_text(MORE, exact=True).click()
            field.fill(value)

    def trigger(self, dag_id: str, **fields: str) -> str:
        """Fill the form, send it, wait until the run has ended; returns its id."""
        before = self.run_ids(dag_id)
        dialog = self.dialog(dag_id)
        self.fill(dialog, fields)
        self.shot(f"trigger-{dag_id}")
        self.send(dialog, dialog.get_by_test_id("trigger-dag-submit"))
        self.wait_for(dag_id, before, 1)
        return (self.run_ids(dag_id) - before).pop()

    def send(self, dialog: Any, button: Any) -> None:
        """Press the button; the form goes away when Airflow has taken it.

        And so do we: a page of Airflow draws and asks as long as it is open.
        """
        button.click()
        dialog.wait_for(state="hidden")
        self.page.goto("about:blank")

    def run_ids(self, dag_id: str) -> set[str]:
        return {run["dag_run_id"] for run in self.runs(dag_id)}

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        return list(self.airflow.api.runs(dag_id).values())

    def wait_for(self, dag_id: str, before: set[str], count: int) -> None:
        """Wait for `count` new runs to succeed."""

        def succeeded() -> bool:
            new = [run for run in self.runs(dag_id) if run["dag_run_id"] not in before]
            failed = [run["dag_run_id"] for run in new if run["state"] == "failed"]
            if failed:
                pytest.fail(f"{failed} failed:\n" + failed_logs(self.airflow, dag_id, failed[0]))
            return sum(run["state"] == "success" for run in new) == count

        until(succeeded, f"{dag_id}: {count} runs did not succeed", pause=1)

    def frame(self) -> Any:
        """Return the E-CDCTR pages inside the UI."""
        return self.page.frame_locator("iframe")


@pytest.fixture(scope="module")
def ui(live: Airflow) -> Iterator[Ui]:
    """Yield a browser on the running Airflow; A-CTR of one day was triggered there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
        page.set_default_timeout(600_000)  # a busy machine must not fail a test
        opened = Ui(live, page)
        opened.trigger("ecdctr_actr", data_date=str(DATE))
        yield opened
        browser.close()


@pytest.fixture(scope="module")
def study(ui: Ui) -> str:
    """Return a forgetting study over three days, triggered in the UI."""
    fields = {
        "study": "browser",
        "from_date": str(DAYS[0]),
        "to_date": str(DAYS[-1]),
        "hold_out_every": "2",
    }
    ui.trigger("ecdctr_forgetting", **fields)
    return "browser"


def test_runs_triggered_in_the_ui_are_green_called_by_their_day_and_serve(ui):
    ui.open("/dags/ecdctr_actr")
    ui.page.get_by_text("wait_for_data").first.wait_for()
    ui.page.wait_for_timeout(1000)  # the grid's bars are drawn after its names
    ui.shot("actr")
    assert ui.store.alias("serving") == Ref("production", "actr", DATE, "v0001")
    assert any(
        run.startswith(f"manual__{DATE}_production_default__") for run in ui.run_ids("ecdctr_actr")
    )


def test_a_variant_that_is_not_declared_is_refused_when_it_is_triggered(ui):
    before = ui.run_ids("ecdctr_actr")
    dialog = ui.dialog("ecdctr_actr")
    ui.fill(dialog, {"experiment": "Not A Name"})
    dialog.get_by_test_id("trigger-dag-submit").click()
    message = ui.page.get_by_text("expected lower-case letters").first
    message.wait_for()
    assert "Failed validating" not in ui.page.content()
    ui.page.wait_for_timeout(500)  # the form grows by the message
    box = message.bounding_box()
    assert box is not None
    assert 0 <= box["y"] <= 900 - box["height"], "the sentence is out of sight"
    ui.shot("refused")
    assert ui.run_ids("ecdctr_actr") == before


def test_a_backfill_whose_params_the_form_drops_trains_nothing_and_says_why(ui):
    """Without the tick at 'Override parameters' Airflow sends none of what the form shows."""
    before, versions = ui.run_ids("ecdctr_actr"), ui.store.versions("production", "actr")
    day = DATE - dt.timedelta(days=2)
    dialog = ui.backfill_dialog("ecdctr_actr", day, day)
    ui.send(dialog, dialog.get_by_role("button", name="Run Backfill"))
    until(lambda: ui.run_ids("ecdctr_actr") - before, "no run of the backfill appeared", pause=0.5)
    (run,) = ui.run_ids("ecdctr_actr") - before
    assert ui.airflow.wait_for_run("ecdctr_actr", run) == "failed"
    assert "tick 'Override parameters on existing runs'" in failed_logs(
        ui.airflow, "ecdctr_actr", run
    )
    assert ui.store.versions("production", "actr") == versions
    end_backfills(ui.airflow, "ecdctr_actr")


def test_a_backfill_started_in_the_ui_keeps_a_chain_in_order(ui):
    before = ui.run_ids("ecdctr_actr")
    days = [DAYS[-1] + dt.timedelta(days=k) for k in (1, 2)]  # no other test backfills these
    dialog = ui.backfill_dialog("ecdctr_actr", *days)
    dialog.locator("[name=max_active_runs]").fill("3")
    # Airflow 3.3 sends the form's params with a backfill only when this is ticked, whether runs
    # exist or not
    dialog.get_by_text("Override parameters on existing runs", exact=True).click()
    ui.fill(dialog, {"experiment": "ui-chain", "variant": "continue"})
    ui.shot("backfill")
    ui.send(dialog, dialog.get_by_role("button", name="Run Backfill"))
    ui.wait_for("ecdctr_actr", before, 2)
    named = sorted(ui.run_ids("ecdctr_actr") - before)
    assert named == [f"backfill__{day}T00:00:00+00:00" for day in days]
    versions = ui.store.versions("ui-chain", "actr")
    assert [ref.date for ref in versions] == days
    parents = [ui.store.manifest(ref).parents.get("actr") for ref in versions]
    assert parents == [None, [str(versions[0])]]


def test_the_pages_lead_from_the_overview_to_the_lineage_and_a_version(ui):
    ui.open("/")
    ui.page.get_by_text("E-CDCTR").first.click()
    frame = ui.frame()
    frame.get_by_text("GAUC on next-day ads").wait_for()
    ui.shot("overview")
    serving = ui.store.alias("serving")
    frame.locator(f"a[href$='/lineage/{serving}']").first.click()
    frame.get_by_text("Lineage").first.wait_for()
    ui.shot("lineage")
    cpm = ui.store.manifest(serving).parents["cpm"][0]
    frame.locator(f"a[href$='/version/{cpm}']").first.click()
    frame.get_by_text("samples").first.wait_for()
    ui.shot("version")


def test_a_study_triggered_in_the_ui_says_which_variant_to_deploy(ui, study):
    ui.open("/")
    ui.page.get_by_text("E-CDCTR").first.click()
    frame = ui.frame()
    frame.get_by_role("link", name="Experiments").click()
    frame.get_by_role("link", name=study, exact=True).click()
    frame.get_by_text("No advice").or_(frame.get_by_text("Deploy")).first.wait_for()
    frame.get_by_text("a curve over the age of a day needs four days").wait_for()
    heat = frame.get_by_alt_text("Forgetting heat maps")
    heat.scroll_into_view_if_needed()
    assert heat.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    ui.shot("study")
    (run,) = ui.runs("ecdctr_forgetting")
    tasks = f"/api/v2/dags/ecdctr_forgetting/dagRuns/{run['dag_run_id']}/taskInstances"
    links = ui.airflow.api.call("GET", f"{tasks}/report/links")["extra_links"]
    assert links["Study"] == f"/ecdctr/study/{study}"
    mapped = [one for one in ui.airflow.api.all(tasks, "task_instances") if one["map_index"] >= 0]
    days = {(f"{study}.{variant}.s1", str(day)) for variant in VARIANTS for day in DAYS}
    for task, between in (("day.backfill", "__"), ("day.row", " ")):
        named = {one["rendered_map_index"] for one in mapped if one["task_id"] == task}
        assert named == {between.join(day) for day in days}
    with ui.page.expect_download() as download:
        frame.get_by_role("link", name="matrix.csv").click()
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == 1 + 2 * 3 * 3
    for name in VARIANTS:
        assert [ref.date for ref in ui.store.versions(f"{study}.{name}.s1", "actr")] == DAYS
    assert ui.store.resolve("actr", DAYS[-1]) == Ref("production", "actr", DATE, "v0001")


def test_a_training_task_links_to_the_page_of_its_version(ui):
    run = next(run for run in ui.runs("ecdctr_actr") if run["conf"].get("data_date") == str(DATE))
    ui.open(f"/dags/ecdctr_actr/runs/{run['dag_run_id']}/tasks/train/details")
    link = ui.page.get_by_role("link", name="Version", exact=True).first
    link.wait_for()
    ui.shot("task")
    target = link.get_attribute("href")
    assert target.endswith(f"/ecdctr/version/production/actr/{DATE}/v0001")
    ui.open(target.removeprefix(ui.airflow.url))
    ui.page.get_by_text(f"production/actr/{DATE}/v0001").first.wait_for()


def test_every_link_of_the_pages_leads_somewhere_out_of_the_frame_too(ui):
    """Airflow's frame is sandboxed: a link to a run has to change the page around it."""
    serving = ui.store.alias("serving")
    for path in ("overview", "experiments", f"lineage/{serving}", f"version/{serving}"):
        ui.open(f"/ecdctr/{path}")
        links = ui.page.locator("a, svg a").evaluate_all(
            "found => found.map(a => a.href.baseVal ?? a.href)"
        )
        for link in {link.split("#")[0] for link in links}:
            target = link if link.startswith("http") else ui.airflow.url + link
            assert ui.page.request.get(target).ok, f"{path}: {link}"
    ui.open("/")
    ui.page.get_by_text("E-CDCTR").first.click()
    frame = ui.frame()
    frame.locator(f"a[href$='/lineage/{serving}']").first.click()
    run = frame.locator("a[target=_top]").first
    name = run.inner_text().split("/", 1)[1]
    run.click()
    ui.page.wait_for_url(f"**/dags/ecdctr_*/runs/{name.replace('+', '%2B').replace(':', '%3A')}**")
    ui.page.get_by_text("wait_for_data").first.wait_for()
    ui.shot("from-lineage-to-run")


def test_the_pages_follow_airflows_own_light_or_dark(ui):
    """Not the operating system's: a white page in a dark Airflow."""
    ui.open("/")
    ui.page.get_by_text("E-CDCTR").first.click()
    html = ui.frame().locator("html")
    for theme in ("dark", "light"):
        ui.page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
        ui.frame().locator(f"html[data-theme={theme}]").wait_for()
        ui.shot(f"overview-{theme}")
        colour = html.evaluate("html => getComputedStyle(html.querySelector('body')).color")
        parts = [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        assert (min(parts) > 150) == (theme == "dark"), colour


def test_a_narrow_window_scrolls_its_tables_and_breaks_no_date(ui):
    page = ui.page.context.browser.new_page(viewport={"width": 420, "height": 800})
    page.goto(f"{ui.airflow.url}/ecdctr/overview")
    page.screenshot(path=SCREENSHOTS / "overview-narrow.png")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    heights = page.locator(".date").evaluate_all(
        "all => all.map(one => one.getClientRects().length)"
    )
    page.close()
    assert set(heights) == {1}, "a date stands on several lines"


def test_screenshots_are_left_for_ci(ui):
    assert os.listdir(SCREENSHOTS)
