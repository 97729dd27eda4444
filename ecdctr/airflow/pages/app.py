"""The FastAPI application behind the pages: GET only, whoever may log in to Airflow may read."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Callable, Collection
from importlib.resources import files
from statistics import fmean
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse

from ecdctr.airflow.pages import views
from ecdctr.airflow.pages.chart import chart, common_days
from ecdctr.config import PRODUCTION
from ecdctr.errors import EcdctrError, StoreError, TryAgain, machine_trouble
from ecdctr.report.html import rendered
from ecdctr.report.lineage import lineage
from ecdctr.report.rows import PALETTE
from ecdctr.report.templates import environment
from ecdctr.store.aliases import SERVING
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store

STUDY_FILES = {
    "heat.png": "image/png",
    "cost.png": "image/png",
    "curves.png": "image/png",
    "matrix.csv": "text/csv",
    "study.html": "text/html",
}
CSV_METRICS = ("gauc", "auc", "log_loss", "calibration")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'self'; img-src 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
# A study's own page has its pictures inside, and no script
ALONE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'self'"
}


Login = Callable[..., Any]


def build_app(
    open_store: Callable[[], Store],
    login: Login,
    scheduled: Callable[[], Collection[str]] = tuple,
) -> FastAPI:
    """Build the pages over a store.

    `login` is a FastAPI dependency that refuses who is not logged in. The store is opened per
    request, so a page shows what is there now. `scheduled` names the levels whose DAGs run by their
    schedules.
    """
    app = FastAPI(
        title="E-CDCTR",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(login)],
    )
    pages = Pages(open_store, scheduled)
    version = "{experiment}/{level}/{date}/{version}"
    app.get("/frame.js")(pages.frame)
    app.get("/overview")(pages.overview)
    app.get(f"/lineage/{version}")(pages.lineage)
    app.get(f"/version/{version}")(pages.version)
    app.get("/experiments")(pages.experiments)
    app.get("/experiments.csv")(pages.experiments_csv)
    app.get("/study/{name}")(pages.study)
    app.get("/study/{name}/{file}")(pages.study_file)
    app.exception_handler(StoreError)(_not_there)
    app.exception_handler(EcdctrError)(_refused)
    app.exception_handler(TryAgain)(_not_now)
    app.exception_handler(OSError)(_not_now)
    return app


async def _not_there(_: Request, error: Exception) -> JSONResponse:
    """Answer 404 to what the store does not have, or cannot have."""
    return JSONResponse({"detail": str(error)}, 404)


async def _not_now(_: Request, error: Exception) -> JSONResponse:
    """Answer 503 where the store does not answer, or the machine does not let it be read."""
    return JSONResponse({"detail": machine_trouble(error) or str(error)}, 503)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    """Answer 500 with the sentence: of a configuration that cannot be used, for example."""
    return JSONResponse({"detail": str(error)}, 500)


class Pages:
    """One method per address."""

    def __init__(
        self, open_store: Callable[[], Store], scheduled: Callable[[], Collection[str]]
    ) -> None:
        self.open_store, self.scheduled = open_store, scheduled
        self.templates = environment("ecdctr.airflow.pages")

    def frame(self) -> PlainTextResponse:
        """Send the script that follows Airflow's theme and links."""
        script = files("ecdctr.airflow.pages").joinpath("frame.js").read_text("utf-8")
        return PlainTextResponse(script, headers=HEADERS, media_type="text/javascript")

    def overview(self, request: Request, experiment: str = PRODUCTION) -> HTMLResponse:
        """Show levels, evaluations and promotions of an experiment; raises HTTPException (404)."""
        store = self.open_store()
        names = views.experiments_of(store)
        if names and experiment not in names:
            raise HTTPException(404, f"No experiment '{experiment}' in {store.root}.")
        today = dt.datetime.now(dt.UTC).date()
        evaluated = [e for e in views.evaluations(store, experiment) if "gauc" in e.metrics]
        points = [(e.date, e.metrics["gauc"]) for e in evaluated]
        oracle = [(e.date, e.oracle) for e in evaluated if e.oracle is not None]
        champions = [e.date for e in evaluated if e.champion]
        return self._page(
            request,
            "overview.html",
            experiment=experiment,
            names=names,
            root=str(store.root),
            states=views.level_states(store, experiment, today, self.scheduled()),
            evaluated=evaluated,
            chart=chart({experiment: points}, oracle, champions) if points else None,
            history=list(reversed(store.alias_history(SERVING, experiment)))[:20],
        )

    def lineage(
        self, request: Request, experiment: str, level: str, date: str, version: str
    ) -> HTMLResponse:
        """Show the versions behind one."""
        ref = Ref.parse(f"{experiment}/{level}/{date}/{version}")
        drawn = lineage(self.open_store(), ref)
        return self._page(request, "lineage.html", ref=ref, lineage=drawn)

    def version(
        self, request: Request, experiment: str, level: str, date: str, version: str
    ) -> HTMLResponse:
        """Show a version's manifest and evaluations."""
        store, ref = self.open_store(), Ref.parse(f"{experiment}/{level}/{date}/{version}")
        manifest = store.manifest(ref)
        evaluated = views.version_evaluations(store, ref)
        return self._page(request, "version.html", ref=ref, manifest=manifest, evaluated=evaluated)

    def experiments(self, request: Request) -> HTMLResponse:
        """Show next-day GAUC of all experiments, their means over shared days, and studies.

        Days that were delivered again between two evaluations are told and not compared.
        """
        store = self.open_store()
        studies, damaged = views.studies(store)
        compared = views.compared(store, views.experiments_of(store))
        curves = compared.curves()
        common = common_days(curves)
        by_day = {name: dict(points) for name, points in curves.items()}
        every = {one.date for days in compared.evaluated.values() for one in days}
        return self._page(
            request,
            "experiments.html",
            curves=curves,
            chart=chart(curves) if any(curves.values()) else None,
            apart=compared.apart,
            dates=sorted(every),
            common=common,
            means={name: fmean(days[d] for d in common) for name, days in by_day.items() if common},
            variants={name: views.variant_of(store, name) for name in curves},
            studies=studies,
            damaged=damaged,
        )

    def experiments_csv(self) -> PlainTextResponse:
        """Send all next-day evaluations of A-CTR.

        Those of one day may be compared where the digests in the column `impressions` are equal.
        """
        store, text = self.open_store(), io.StringIO()
        writer = csv.writer(text)
        columns = ["experiment", "date", "version", *CSV_METRICS, "oracle_gauc", "impressions"]
        writer.writerow(columns)
        for name in views.experiments_of(store):
            for one in views.evaluations(store, name, days=100_000):
                metrics = [one.metrics.get(key, "") for key in CSV_METRICS]
                oracle = "" if one.oracle is None else one.oracle
                writer.writerow([name, one.date, one.ref, *metrics, oracle, one.impressions])
        disposition = {"Content-Disposition": "attachment; filename=ecdctr-experiments.csv"}
        headers = HEADERS | disposition
        return PlainTextResponse(text.getvalue(), headers=headers, media_type="text/csv")

    def study(self, request: Request, name: str) -> HTMLResponse:
        """Show a study: its forgetting, or an ablation's page; raises HTTPException (404)."""
        store = self.open_store()
        study = views.study(store, name)
        if study is None:
            raise HTTPException(404, f"No study '{name}' in {store.root}.")
        if study["kind"] == "ablation":
            body = rendered(views.study_text(store, name, "study.md"))
            body = body.replace('src="cost.png"', f'src="{_base(request)}/study/{name}/cost.png"')
            return self._page(request, "ablation.html", study=study, body=body)
        return self._page(request, "study.html", study=study, names=views.measure_names(study))

    def study_file(self, name: str, file: str) -> FileResponse:
        """Send a file of a study; raises HTTPException (404) for any other."""
        store = self.open_store()
        if file not in STUDY_FILES or name not in store.studies():
            raise HTTPException(404, f"No file '{file}' of a study '{name}'.")
        path = store.study(name) / file
        if not path.is_file():
            raise HTTPException(404, f"The study '{name}' has no file {file}; {views.MEND}.")
        media_type = STUDY_FILES[file]
        headers = HEADERS | (ALONE if media_type == "text/html" else {})
        return FileResponse(path, media_type=media_type, headers=headers)

    def _page(self, request: Request, name: str, **values: Any) -> HTMLResponse:
        template = self.templates.get_template(name)
        text = template.render(base=_base(request), colours=PALETTE, **values)
        return HTMLResponse(text, headers=HEADERS)


def _base(request: Request) -> str:
    """Return where Airflow has mounted the pages."""
    return str(request.scope.get("root_path", ""))
