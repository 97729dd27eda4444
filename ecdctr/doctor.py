"""What a machine lacks to run ecdctr, each with the mend."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from ecdctr.config import DOMAINS, load_config
from ecdctr.data.days import available_dates
from ecdctr.errors import ConfigError

WANTED = {"torch": "2.13", "pyarrow": "26", "duckdb": "2.0", "pydantic": "2.14", "apache-airflow": "3.3"}


class Finding(NamedTuple):
    """One check."""

    fine: bool
    text: str


def examine(config_path: Path, store: Path) -> list[Finding]:
    """All checks, in order."""
    findings = [_version(name, least) for name, least in WANTED.items()]
    findings.append(_gpu())
    folder = store if store.exists() else Path.cwd()
    free = shutil.disk_usage(folder).free / 1e9
    findings.append(Finding(free > 5, f"{free:.0f} GB free at {folder}" + ("" if free > 5 else "; make room for 5 GB")))
    try:
        config = load_config(config_path)
        findings.append(Finding(True, f"configuration {config_path}"))
        for domain in DOMAINS:
            dates = available_dates(config.data.root, domain)
            text = f"{domain}: {len(dates)} days" + (
                f", {dates[0]} to {dates[-1]}" if dates else "; deliver Parquet files"
            )
            findings.append(Finding(bool(dates), f"{text} under {config.data.root}"))
    except ConfigError as error:
        findings.append(Finding(False, str(error)))
    home = os.environ.get("AIRFLOW_HOME")
    findings.append(
        Finding(True, f"AIRFLOW_HOME is {home}" if home else "AIRFLOW_HOME is not set: Airflow would use ~/airflow")
    )
    return findings


def _version(name: str, least: str) -> Finding:
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(False, f"{name} is not installed; run ./run test once, or pip install it (>= {least})")
    fine = tuple(int(p) for p in found.split("+")[0].split(".")[:2]) >= tuple(int(p) for p in least.split("."))
    return Finding(fine, f"{name} {found}" + ("" if fine else f", at least {least} is needed"))


def _gpu() -> Finding:
    import torch

    return Finding(
        True, f"GPU: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU: training on CPU"
    )
