"""One-time set-up of an Airflow for ecdctr.

Metadata database, the pool that bounds training, the admin's password. Safe to run at every start.
ADMIN_PASSWORD is read from the environment and written to the file that Airflow's simple auth
manager is configured with, readable by its owner only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ecdctr.airflow.dates import load_settings
from ecdctr.errors import ConfigError, EcdctrError

PASSWORDS = "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"


def main() -> None:
    """Set up, or end with one sentence on what is missing."""
    settings = load_settings()
    password, target = os.environ.get("ADMIN_PASSWORD"), os.environ.get(PASSWORDS)
    if not password or not target:
        raise ConfigError(f"ADMIN_PASSWORD and {PASSWORDS} must be set; see .env.example.")
    file = os.open(Path(target), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as passwords:
        json.dump({"admin": password}, passwords)
    _airflow("db", "migrate")
    _airflow("pools", "set", settings.config.airflow.pool, "1", "Training of ecdctr: one at a time")


def _airflow(*arguments: str) -> None:
    command = ["airflow", *arguments]  # on PATH, as Airflow wants it
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EcdctrError(
            f"'airflow {' '.join(arguments)}' failed: "
            f"{(done.stderr or done.stdout).strip()[-2000:]}"
        )


if __name__ == "__main__":
    try:
        main()
    except EcdctrError as error:
        sys.exit(f"Error: {error}")
