"""What `./run demo`, `./run ui` and `./run airflow` are told."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

MAX_DAYS = 30  # of 120 simulated ones, of which TPM needs the first months


def read_arguments(home: Path) -> argparse.Namespace:
    """Return what the command line says; ends the process where it is wrong.

    home: the demo's folder unless another is named.
    """
    parser = argparse.ArgumentParser(
        prog="./run", description="A local Airflow on the demo's configuration and store."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="the demo")
    run.add_argument(
        "--days", type=_number(MAX_DAYS), default=3, help=f"evaluation days, 1 to {MAX_DAYS}"
    )
    show = commands.add_parser("ui", help="the web UI")
    show.add_argument("--port", type=_number(65535), default=8080)
    commands.add_parser("airflow", help="an airflow command; all that follows is Airflow's")
    for command in (run, show):
        command.add_argument(
            "--home", type=_folder, default=home, help="folder of store and Airflow"
        )
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    name, *others = sys.argv[1:] or [""]
    if name == "airflow":  # argparse would take --help, and options that come first, for its own
        return argparse.Namespace(command=name, arguments=others, home=home, debug=True)
    return parser.parse_args()


def _number(most: int) -> Callable[[str], int]:
    """Return what reads a whole number from 1 on."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"'{text}': expected a whole number, 1 to {most}")
        return int(text)

    return read


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a folder, found no name; is a variable empty?")
    return Path(text)
