"""The Airflow plugin.

The E-CDCTR pages inside the web UI, a link from a training task to its version, and how
runs by hand are called.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from ecdctr.airflow.dates import load_settings
from ecdctr.airflow.forms import NamesRuns, OneSentence
from ecdctr.airflow.links import StudyLink, VersionLink
from ecdctr.config.terms import level_of
from ecdctr.store.store import Store

import_module("ecdctr.airflow.pipeline")  # before tasks are forked, which all need it


def _pages() -> list[dict[str, Any]]:
    from airflow.api_fastapi.core_api.security import get_user

    from ecdctr.airflow.pages.app import build_app

    app = build_app(lambda: Store(load_settings().store_path), get_user, _scheduled)
    return [{"app": app, "url_prefix": "/ecdctr", "name": "E-CDCTR"}]


def _scheduled() -> set[str]:
    """Return the levels whose DAGs are unpaused in an Airflow that runs by schedules."""
    from airflow.configuration import conf
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    if not conf.getboolean("scheduler", "use_job_schedule"):
        return set()
    with create_session() as session:
        running = session.scalars(select(DagModel.dag_id).where(DagModel.is_paused.is_(False)))
        return {level_of(dag_id) for dag_id in running}


class EcdctrPlugin(AirflowPlugin):
    """Found by Airflow in its plugins folder."""

    name = "ecdctr"
    fastapi_apps = _pages()
    fastapi_root_middlewares = [
        {"middleware": OneSentence, "name": "one sentence per refusal"},
        {"middleware": NamesRuns, "name": "runs by hand are called by their data date"},
    ]
    external_views = [
        {
            "name": "E-CDCTR",
            "href": "/ecdctr/overview",
            "destination": "nav",
            "url_route": "ecdctr",
        }
    ]
    operator_extra_links = [VersionLink(), StudyLink()]
