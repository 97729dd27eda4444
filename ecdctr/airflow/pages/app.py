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
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from ecdctr.airflow.pages import views
from ecdctr.airflow.pages.chart import chart, common_days
from ecdctr.config import PRODUCTION
from ecdctr.errors import StoreError
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store

COLOURS = ("#1769aa", "#d08a2e", "#8a5bb5", "#2e8b57", "#b5475b", "#5f7f8c", "#937b2f", "#4a4fa8")
STUDY_FILES = {
    "heat.png": "image/png", "curves.png": "image/png", "matrix.csv": "text/csv", "study.html": "text/html",
}  # fmt: skip
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'self'; img-src 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


def build_app(
    open_store: Callable[[], Store],
    login: Callable[..., Any],
    scheduled: Callable[[], Collection[str]] = tuple,
) -> FastAPI:
    """The pages over a store. `login` is a FastAPI dependency that refuses who is not logged in.

    The store is opened per request, so a page shows what is there now. `scheduled` names the levels
    whose DAGs run by their schedules.
    """
    app = FastAPI(
        title="E-CDCTR",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(login)],
    )
    templates = Environment(
        loader=PackageLoader("ecdctr.airflow.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
    )

    def page(request: Request, name: str, **values: Any) -> HTMLResponse:
        base = request.scope.get("root_path", "")
        text = templates.get_template(name).render(base=base, colours=COLOURS, **values)
        return HTMLResponse(text, headers=HEADERS)

    def known(store: Store, experiment: str) -> str:
        if experiment not in views.experiments_of(store):
            raise HTTPException(404, f"No experiment '{experiment}' in {store.root}.")
        return experiment

    def ref_of(experiment: str, level: str, date: str, version: str) -> Ref:
        try:
            return Ref.parse(f"{experiment}/{level}/{date}/{version}")
        except StoreError as error:
            raise HTTPException(404, str(error)) from None

    @app.get("/frame.js")
    def frame() -> PlainTextResponse:
        script = files("ecdctr.airflow.pages").joinpath("frame.js").read_text()
        return PlainTextResponse(script, headers=HEADERS, media_type="text/javascript")

    @app.get("/overview")
    def overview(request: Request, experiment: str = PRODUCTION) -> HTMLResponse:
        store = open_store()
        names = views.experiments_of(store)
        if names:
            known(store, experiment)
        today = dt.datetime.now(dt.UTC).date()
        evaluated = [e for e in views.evaluations(store, experiment) if "gauc" in e.metrics]
        points = [(e.date, e.metrics["gauc"]) for e in evaluated]
        oracle = [(e.date, e.oracle) for e in evaluated if e.oracle is not None]
        champions = [e.date for e in evaluated if e.champion]
        return page(
            request,
            "overview.html",
            experiment=experiment,
            names=names,
            root=str(store.root),
            states=views.level_states(store, experiment, today, scheduled()),
            evaluated=evaluated,
            chart=chart({experiment: points}, oracle, champions) if points else None,
            history=list(reversed(store.alias_history("serving", experiment)))[:20],
        )

    @app.get("/lineage/{experiment}/{level}/{date}/{version}")
    def lineage(
        request: Request, experiment: str, level: str, date: str, version: str
    ) -> HTMLResponse:
        store, ref = open_store(), ref_of(experiment, level, date, version)
        try:
            found = views.lineage(store, ref)
        except StoreError as error:
            raise HTTPException(404, str(error)) from None
        return page(request, "lineage.html", ref=ref, lineage=found)

    @app.get("/version/{experiment}/{level}/{date}/{version}")
    def version(
        request: Request, experiment: str, level: str, date: str, version: str
    ) -> HTMLResponse:
        store, ref = open_store(), ref_of(experiment, level, date, version)
        try:
            manifest = store.manifest(ref)
        except StoreError as error:
            raise HTTPException(404, str(error)) from None
        return page(
            request,
            "version.html",
            ref=ref,
            manifest=manifest,
            evaluated=views.version_evaluations(store, ref),
        )

    @app.get("/experiments")
    def experiments(request: Request) -> HTMLResponse:
        found = views.curves(store := open_store(), views.experiments_of(store))
        common = common_days(found)
        by_day = {name: dict(points) for name, points in found.items()}
        return page(
            request,
            "experiments.html",
            curves=found,
            chart=chart(found) if found else None,
            dates=sorted({date for points in found.values() for date, _ in points}),
            common=common,
            means={name: fmean(days[d] for d in common) for name, days in by_day.items() if common},
            variants={name: views.variant_of(store, name) for name in found},
            studies=views.studies(store),
        )

    @app.get("/study/{name}")
    def study(request: Request, name: str) -> HTMLResponse:
        store = open_store()
        found = views.study(store, name)
        if found is None:
            raise HTTPException(404, f"No study '{name}' in {store.root}.")
        return page(request, "study.html", study=found, names=views.measure_names(found))

    @app.get("/study/{name}/{file}")
    def study_file(name: str, file: str) -> FileResponse:
        store = open_store()
        if file not in STUDY_FILES or name not in store.studies():
            raise HTTPException(404, f"No file '{file}' of a study '{name}'.")
        return FileResponse(store.study(name) / file, media_type=STUDY_FILES[file], headers=HEADERS)

    @app.get("/experiments.csv")
    def experiments_csv() -> PlainTextResponse:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(
            [
                "experiment",
                "date",
                "version",
                "gauc",
                "auc",
                "log_loss",
                "calibration",
                "oracle_gauc",
            ]
        )
        store = open_store()
        for name in views.experiments_of(store):
            for e in views.evaluations(store, name, days=100_000):
                metrics = [
                    e.metrics.get(key, "") for key in ("gauc", "auc", "log_loss", "calibration")
                ]
                writer.writerow(
                    [name, e.date, e.ref, *metrics, "" if e.oracle is None else e.oracle]
                )
        disposition = {"Content-Disposition": "attachment; filename=ecdctr-experiments.csv"}
        return PlainTextResponse(
            text.getvalue(), headers=HEADERS | disposition, media_type="text/csv"
        )

    return app
