"""What a machine lacks to run ecdctr, each with the mend."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ecdctr.config import DOMAINS, LEVELS, PRODUCTION, Config, load_config, refuse_shared
from ecdctr.config.terms import dag_of
from ecdctr.errors import EcdctrError, TryAgain, first_line, machine_trouble
from ecdctr.impressions.impressions import open_impressions
from ecdctr.store.storage import open_storage
from ecdctr.store.store import Store

FREE_GB = 5  # of disk, below which doctor warns
DAYS_LOOKED_AT = 60  # evaluations, newest first
LEAST_VERSIONS = {
    "torch": "2.13",
    "pyarrow": "26",
    "duckdb": "2.0",
    "pydantic": "2.14",
    "apache-airflow": "3.3",
}


class Finding(NamedTuple):
    """One check. `note` is what is not set up yet, as in a fresh clone: no fault."""

    fine: bool
    text: str
    note: bool = False

    @property
    def kind(self) -> str:
        """How it stands: ok, note or mend."""
        return "ok" if self.fine else "note" if self.note else "mend"


def examine(config_path: Path, store: Path | str) -> list[Finding]:
    """Return all checks, in order."""
    findings = [_version(name, least) for name, least in LEAST_VERSIONS.items()]
    findings.append(_gpu())
    folder = store if isinstance(store, Path) and store.exists() else Path.cwd()
    free = shutil.disk_usage(folder).free / 1e9
    findings.append(
        Finding(
            free > FREE_GB,
            f"{free:.0f} GB free at {folder}"
            + ("" if free > FREE_GB else f"; make room for {FREE_GB} GB"),
        )
    )
    findings += _tried(_data(config_path, store))
    findings += _tried(_store(store))
    return findings + _tried(_airflow())


def _tried(checks: Iterator[Finding]) -> list[Finding]:
    """Return what checks say, up to one that cannot be made, which is told like what it finds."""
    findings: list[Finding] = []
    try:
        findings.extend(checks)
    except (EcdctrError, TryAgain) as error:
        findings.append(Finding(False, str(error)))
    except OSError as error:
        findings.append(Finding(False, machine_trouble(error) or str(error)))
    return findings


def _data(config_path: Path, store: Path | str) -> Iterator[Finding]:
    config = load_config(config_path)
    refuse_shared(config, f"the store {store}", store)
    yield Finding(True, f"configuration {config_path}")
    yield from _precision(config)
    for domain in DOMAINS:
        dates = open_impressions(config.data.root).dates(domain)
        text = f"{domain}: {len(dates)} days" + (
            f", {dates[0]} to {dates[-1]}" if dates else "; deliver Parquet files"
        )
        yield Finding(bool(dates), f"{text} under {config.data.root}", note=True)


def _precision(config: Config) -> Iterator[Finding]:
    """Yield a note where levels ask for bfloat16 and this machine would take ages for it."""
    asking = [level for level in LEVELS if getattr(config, level).precision == "bfloat16"]
    if not asking:
        return
    try:
        from ecdctr.training.precision import multiplies_bfloat16
    except ImportError:
        return
    if not multiplies_bfloat16():
        yield Finding(
            False,
            f"precision of {', '.join(asking)} is bfloat16, of which this processor has no "
            "products: where training runs here, set it to float32, which is many times as fast",
            note=True,
        )


def _store(store: Path | str) -> Iterator[Finding]:
    open_storage(store).check()
    yield Finding(True, f"store {store} can be written")
    yield _gate(store)


def _gate(store: Path | str) -> Finding:
    """Return how much the gate can see with the traffic of production's newest comparison."""
    opened = Store(store)
    for _, ref in itertools.islice(opened.evaluated(PRODUCTION), DAYS_LOOKED_AT):
        for verdict in reversed(opened.verdicts(ref)):
            if verdict["power"] is not None:
                text = (
                    f"gate: on {verdict['date']} a version as good as the champion passed with "
                    f"{100 * verdict['power']:.0f} %, on {len(verdict['examples'])} days of traffic"
                )
                days = verdict["needed_days"]
                if days is not None:
                    text += f"; evaluation.gate_power needs {math.ceil(days)} days"
                return Finding(True, text)
    return Finding(True, "gate: no two versions were compared yet; its power is known after that")


def _airflow() -> Iterator[Finding]:
    """Yield what Airflow's settings, as this shell sees them, mean for the DAGs."""
    yield from (_variable("ECDCTR_CONFIG"), _variable("ECDCTR_STORE"), _home())
    try:
        yield from _settings_of_airflow()
    except ImportError:
        return
    except (EcdctrError, OSError):
        raise
    except Exception as error:  # whatever Airflow, or SQLAlchemy below it, says of a setting
        where = "look at the variables AIRFLOW__… and at airflow.cfg"
        yield Finding(False, f"Airflow cannot use its settings ({first_line(error)}); {where}")


def _settings_of_airflow() -> Iterator[Finding]:
    """Yield what each setting means; raises ImportError without Airflow."""
    from airflow.configuration import conf

    dags = Path(conf.get("core", "dags_folder"))
    sqlite = conf.get("database", "sql_alchemy_conn").startswith("sqlite")
    yield _metadata(sqlite)
    if conf.getboolean("core", "simple_auth_manager_all_admins"):
        yield _open_door(conf.get("api", "host"))
    port = conf.get("api", "port")
    execution = conf.get("core", "execution_api_server_url", fallback="") or ""
    if port != "8080" and f":{port}/" not in execution:
        yield Finding(
            False,
            f"API server on port {port}, but AIRFLOW__CORE__EXECUTION_API_SERVER_URL is "
            f"'{execution}': tasks would fail; set it to http://HOST:{port}/execution/",
        )
    yield _dags(dags)  # last, since a folder that this user cannot look into ends it


def _variable(name: str) -> Finding:
    value = os.environ.get(name)
    unset = f"{name} is not set: the DAGs need it (./run demo and ./run ui set it)"
    return Finding(bool(value), f"{name} is {value}" if value else unset, note=True)


def _home() -> Finding:
    home = os.environ.get("AIRFLOW_HOME")
    unset = "AIRFLOW_HOME is not set: Airflow would use ~/airflow"
    return Finding(True, f"AIRFLOW_HOME is {home}" if home else unset)


def _dags(folder: Path) -> Finding:
    there = (folder / f"{dag_of('actr')}.py").exists()
    lacking = f"no ecdctr DAGs in {folder}; set AIRFLOW__CORE__DAGS_FOLDER"
    note = not os.environ.get("ECDCTR_CONFIG")
    return Finding(there, f"DAGs in {folder}" if there else lacking, note=note)


def _metadata(sqlite: bool) -> Finding:
    alone = "metadata on SQLite: for one person; use PostgreSQL for a team"
    return Finding(not sqlite, alone if sqlite else "metadata on a server", note=True)


def _open_door(host: str) -> Finding:
    safe = host in ("127.0.0.1", "localhost", "::1")
    remedy = "" if safe else "; bind to loopback or ask for a login"
    return Finding(safe, f"everybody is admin, on {host}{remedy}")


def _version(name: str, least: str) -> Finding:
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            False, f"{name} is not installed; run ./run test once, or pip install it (>= {least})"
        )
    fine = tuple(int(p) for p in installed.split("+")[0].split(".")[:2]) >= tuple(
        int(p) for p in least.split(".")
    )
    return Finding(fine, f"{name} {installed}" + ("" if fine else f", at least {least} is needed"))


def _gpu() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding(True, "GPU: not looked for, torch is not installed", note=True)
    return Finding(
        True,
        f"GPU: {torch.cuda.get_device_name()}"
        if torch.cuda.is_available()
        else "no GPU: training on CPU",
    )
