r"""The pictures of Airflow's web UI in docs/, taken anew of what `./run demo` has left.

python -m benchmarks.pictures [HOME]

It triggers a run in the form, and one that is refused. With a study in the demo's store, its page,
too: docs/study.png is of

    ./run ecdctr --config configs/forgetting.yaml --store demo/store forgetting --world forgetting \
        --seeds 1,2 --days 30 --hold-out-every 2 --rows no_tpm,vectors,memory,full

Needs Chromium.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from ecdctr.airflow.standalone import Airflow, free_port
from ecdctr.config import load_config
from ecdctr.demo.run import HOME, ROOT, SLOTS, write_config
from ecdctr.store.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

DOCS = ROOT / "docs"
SIZE = {"width": 1280, "height": 900}
STUDY = "forgetting"  # as `ecdctr forgetting` calls it
DRAWN = 2500  # milliseconds until Airflow's pages stand still
ADS_ONLY = {"data_date": "2026-04-20", "experiment": "ads_only", "variant": "ads_only"}
REFUSED = {"data_date": "2026-04-20", "experiment": "x"}  # no CPM is that old
FORGETTING = {"from_date": "2026-04-27", "to_date": "2026-04-29"}


def form(page: Page, url: str, dag_id: str, fields: dict[str, str]) -> Locator:
    """Open a DAG's form and fill it."""
    page.goto(f"{url}/dags/{dag_id}")
    page.get_by_role("button", name="Trigger").first.click()
    dialog = page.locator("[role=dialog][data-state=open]")
    dialog.locator("[id^=element_]").first.wait_for()
    for name, value in fields.items():
        if name == "variant":
            dialog.locator("[role=combobox]").last.fill(value)
            page.get_by_role("option", name=value, exact=True).click()
        else:
            dialog.locator(f"[name=element_{name}]").first.fill(value)
    return dialog


def triggered(page: Page, airflow: Airflow, fields: dict[str, str]) -> str:
    """Trigger a run of A-CTR in its form, wait until it has ended; return its id."""
    before = airflow.api.runs("ecdctr_actr").keys()
    form(page, airflow.url, "ecdctr_actr", fields).get_by_test_id("trigger-dag-submit").click()
    while not (new := airflow.api.runs("ecdctr_actr").keys() - before):
        page.wait_for_timeout(500)
    page.goto("about:blank")
    (run,) = new
    airflow.wait_for_run("ecdctr_actr", run)
    return run


def take(page: Page, airflow: Airflow, store: Store) -> None:
    """Take every picture."""

    def shot(name: str) -> None:
        page.wait_for_timeout(DRAWN)
        page.screenshot(path=DOCS / f"{name}.png")
        print(f"docs/{name}.png")

    page.goto(f"{airflow.url}/plugin/ecdctr")
    page.frame_locator("iframe").get_by_text("GAUC on next-day ads").wait_for()
    shot("overview")
    if STUDY in store.studies():
        page.frame_locator("iframe").get_by_role("link", name="Experiments").click()
        page.frame_locator("iframe").get_by_role("link", name=STUDY, exact=True).click()
        shot("study")
    form(page, airflow.url, "ecdctr_forgetting", FORGETTING)
    shot("forgetting-form")
    page.goto(f"{airflow.url}/dags/ecdctr_actr/runs/{triggered(page, airflow, ADS_ONLY)}")
    shot("airflow")
    run = triggered(page, airflow, REFUSED)
    page.goto(f"{airflow.url}/dags/ecdctr_actr/runs/{run}/tasks/wait_for_data")
    page.get_by_text("Refused:").wait_for()
    shot("refusal")


def main() -> None:
    """Start the demo's Airflow and take its pictures."""
    home = Path(sys.argv[1] if len(sys.argv) > 1 else HOME).resolve()
    config, store = write_config(home), home / "store"
    airflow = Airflow(home / "airflow", config, store, free_port(), scheduled=False)
    with airflow.running(), sync_playwright() as playwright:
        airflow.api.pool(load_config(config).airflow.pool, SLOTS)
        airflow.wait_for_dags()
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce")
        page.set_default_timeout(120_000)
        take(page, airflow, Store(store))
        browser.close()


if __name__ == "__main__":
    main()
