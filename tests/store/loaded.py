"""What a server of forks loads once for all that it forks: modules, and the digests of code."""

from __future__ import annotations

from ecdctr.cli.warm import load

load()
