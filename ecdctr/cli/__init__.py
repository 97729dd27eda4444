"""The command line: ecdctr --config C --store S <command>."""

from __future__ import annotations

import sys

from ecdctr.cli import data, levels, serving, setup, store, studies  # noqa: F401  # each adds its commands
from ecdctr.cli.base import app
from ecdctr.errors import EcdctrError


def main() -> None:
    """Run the command line; a refusal is one sentence on stderr and exit code 1."""
    try:
        app()
    except EcdctrError as error:
        if "--debug" in sys.argv:
            raise
        print(f"ecdctr: {error}", file=sys.stderr)
        sys.exit(1)
