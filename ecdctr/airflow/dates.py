"""Where a DAG finds its configuration and store, and which day a run is about."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ecdctr.airflow.refusals import RunRefused
from ecdctr.config import PRODUCTION, Config, load_config
from ecdctr.config.terms import DEFAULT
from ecdctr.errors import ConfigError, EcdctrError
from ecdctr.store.storage import absolute

PREPARE, EVALUATE = "validate_and_prepare", "evaluate_and_gate"  # tasks that others look up by name
# Params that make other models than the configuration says, with the values that do not
PLAIN: dict[str, Any] = {"variant": DEFAULT, "seed": None, "hold_out_every": None}


class Settings(NamedTuple):
    """What the environment of Airflow says: ECDCTR_CONFIG and ECDCTR_STORE."""

    config: Config
    config_path: Path
    store_path: Path | str  # a URL on object storage


def load_settings() -> Settings:
    """Read the environment; raises ConfigError that names the missing variable."""
    for name in ("ECDCTR_CONFIG", "ECDCTR_STORE"):
        if not os.environ.get(name):
            raise ConfigError(
                f"{name} is not set in Airflow's environment; set it to a path and restart Airflow."
            )
    path = Path(os.environ["ECDCTR_CONFIG"]).resolve()
    return Settings(load_config(path), path, absolute(os.environ["ECDCTR_STORE"]))


def refuse_unknown(dag_run: Any, params: Iterable[str]) -> str:
    """Raise ConfigError if the conf of a run has a key that is no param of its DAG.

    Else '' (used in templates). Airflow validates the values of params and passes every other key
    by: a typo would run with the default.
    """
    names = sorted(params)
    unknown = sorted(set(getattr(dag_run, "conf", None) or {}) - set(names))
    if unknown:
        raise ConfigError(
            f"The run's conf has the key '{unknown[0]}', which is no param of this DAG; its params "
            f"are {', '.join(names)}. Trigger it again with one of these."
        )
    return ""


def last_complete_day(moment: dt.datetime) -> dt.date:
    """Return the last day, UTC, that was over at a moment."""
    return moment.astimezone(dt.UTC).date() - dt.timedelta(days=1)


def data_date(params: dict[str, Any], dag_run: Any) -> str:
    """Return the data date of a run.

    The param, else the last whole day before its data interval ends (used in templates). The first
    task renders it, so params that contradict each other are refused here: raises ConfigError.
    """
    altered = [
        f"{name}={params[name]}"
        for name, plain in PLAIN.items()
        if params.get(name, plain) != plain
    ]
    if altered and params.get("experiment") == PRODUCTION:
        raise ConfigError(
            f"{', '.join(altered)} cannot run in '{PRODUCTION}', whose versions would mix; set the "
            "param experiment."
        )
    if getattr(dag_run, "run_type", None) == "backfill" and not dag_run.conf:
        raise ConfigError(
            "This backfill brought no parameters: it would train into 'production' whatever its "
            "form said. In the form tick 'Override parameters on existing runs', on the command "
            """line give --dag-run-conf, for production '{"experiment": "production"}'."""
        )
    if params.get("data_date"):
        return dt.date.fromisoformat(str(params["data_date"])).isoformat()
    end = dag_run.data_interval_end
    if end is None:
        raise ConfigError("This run has no data interval; set the param data_date (YYYY-MM-DD).")
    return last_complete_day(end).isoformat()


def run_name(experiment: str, date: dt.date | str) -> str:
    """Return the id of the run of an experiment's data date, where the param data_date names it.

    Studies call their runs so, and a chain finds the run of the day before by it: Airflow gives
    tasks no list of runs.
    """
    return f"{experiment}__{date}"


def next_day(params: dict[str, Any], dag_run: Any) -> str:
    """Return the evaluation day of a run: the day after its data date (used in templates)."""
    return (dt.date.fromisoformat(data_date(params, dag_run)) + dt.timedelta(days=1)).isoformat()


def macros(params: Iterable[str]) -> dict[str, Callable[..., str]]:
    """Return `data_date` and `next_day` for the templates of a DAG with these params.

    What they refuse fails at once.
    """
    names = frozenset(params)

    def checked(day: Callable[[dict[str, Any], Any], str]) -> Callable[[dict[str, Any], Any], str]:
        def render(given: dict[str, Any], dag_run: Any) -> str:
            with failing_at_once():
                refuse_unknown(dag_run, names)
                return day(given, dag_run)

        return render

    return {"data_date": checked(data_date), "next_day": checked(next_day)}


@contextlib.contextmanager
def failing_at_once() -> Iterator[None]:
    """Raise RunRefused, which Airflow does not retry, where something inside is refused."""
    try:
        yield
    except EcdctrError as error:
        raise RunRefused(str(error)) from None
