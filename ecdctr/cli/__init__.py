"""The command line: ecdctr --config C --store S <command>."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from ecdctr.cli import data, levels, serving, setup, store, studies  # noqa: F401  # each adds its commands
from ecdctr.cli.base import app
from ecdctr.errors import TRY_AGAIN, EcdctrError, machine_trouble


def main() -> None:
    """Run the command line.

    A refusal is one sentence on stderr and exit code 1; trouble with the machine (disk full, folder gone) is one
    sentence and exit code 75, after which the same command may succeed.
    """
    try:
        app()
    except SystemExit as ended:
        _leave(ended.code)
    except Exception as error:
        trouble = None if isinstance(error, EcdctrError) else machine_trouble(error)
        if "--debug" in sys.argv or not (isinstance(error, EcdctrError) or trouble):
            raise
        if os.environ.get("RANK", "0") != "0":
            time.sleep(
                20
            )  # mostly the first process says the same, and this one is stopped meanwhile
        print(f"ecdctr: {trouble or error}", file=sys.stderr)
        _leave(TRY_AGAIN if trouble else 1)


def _leave(code: int | str | None) -> None:
    """End the process at once: all work is written, and to take torch and DuckDB down takes a second."""
    if "WORLD_SIZE" in os.environ:  # processes that train together take leave of each other
        sys.exit(code)
    with contextlib.suppress(OSError):  # whoever reads our output may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
