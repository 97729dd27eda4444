"""Where a DAG finds its configuration and store, and which day a run is about."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any, NamedTuple

from ecdctr.config import PRODUCTION, Config, load_config
from ecdctr.errors import ConfigError
from ecdctr.store.storage import absolute

# Params that make other models than the configuration says, with the values that do not
PLAIN: dict[str, Any] = {"variant": "default", "seed": None, "hold_out_every": None}


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


def data_date(params: dict[str, Any], dag_run: Any) -> str:
    """The data date of a run: the param, else the last day of its data interval (used in templates).

    The first task renders it, so params that contradict each other are refused here: raises ConfigError.
    """
    own = [
        f"{name}={params[name]}"
        for name, plain in PLAIN.items()
        if params.get(name, plain) != plain
    ]
    if own and params.get("experiment") == PRODUCTION:
        raise ConfigError(
            f"{', '.join(own)} cannot run in '{PRODUCTION}', whose versions would mix; set the param experiment."
        )
    if params.get("data_date"):
        return dt.date.fromisoformat(str(params["data_date"])).isoformat()
    end = dag_run.data_interval_end
    if end is None:
        raise ConfigError("This run has no data interval; set the param data_date (YYYY-MM-DD).")
    return (end - dt.timedelta(microseconds=1)).date().isoformat()


def next_day(params: dict[str, Any], dag_run: Any) -> str:
    """The evaluation day of a run: the day after its data date (used in templates)."""
    return (dt.date.fromisoformat(data_date(params, dag_run)) + dt.timedelta(days=1)).isoformat()
