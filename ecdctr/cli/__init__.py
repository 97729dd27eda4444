"""The command line: ecdctr --config C --store S <command>."""

from __future__ import annotations

import contextlib
import os
import sys

try:
    from ecdctr.cli import (
        ablation,
        data,
        forgetting,
        imports,
        levels,
        map,
        serving,
        setup,
        sparsity,
        store,
    )
    from ecdctr.cli.base import app
    from ecdctr.cli.net import run

    # each has added its commands to app
    GROUPS = (ablation, data, forgetting, imports, levels, map, serving, setup, sparsity, store)
except KeyboardInterrupt:  # loading takes half a second; from then on it is ecdctr/cli/net.py's
    print("ecdctr: interrupted.", file=sys.stderr)
    sys.exit(130)


def main() -> None:
    """Run the command line; ecdctr/cli/net.py says what each exit code means."""
    _leave(run(app, sys.argv[1:]))


def _leave(code: int) -> None:
    """End the process at once.

    All work is written, and to take torch and DuckDB down takes a second.
    """
    if "WORLD_SIZE" in os.environ:  # processes that train together take leave of each other
        sys.exit(code)
    with contextlib.suppress(OSError):  # whoever reads our output may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
