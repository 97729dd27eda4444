"""Whether the host exists at which processes that train together meet.

Apart from `workers`, which decides what is trained: a name that is looked up changes no weight.
"""

from __future__ import annotations

import os
import socket
import time

from ecdctr.console import log
from ecdctr.errors import ConfigError, first_line

WITHIN, WITHIN_CLUSTER = 5, 300  # seconds until the first process's host has a name


def await_address() -> None:
    """Return when a host has the name in MASTER_ADDR, or none is asked for.

    In a cluster a pod's name is there some time after the others have started. Raises ConfigError
    where no host has it after a while: the library that meets the others would wait for minutes.
    """
    name = os.environ.get("MASTER_ADDR")
    if name is None or os.environ.get("WORLD_SIZE", "1") == "1":
        return
    seconds = WITHIN_CLUSTER if "KUBERNETES_SERVICE_HOST" in os.environ else WITHIN
    until = time.monotonic() + seconds
    told = False
    while why := _unknown(name):
        if time.monotonic() >= until:
            raise ConfigError(
                f"MASTER_ADDR is {name!r}, which is the name of no host that this one knows "
                f"({why}); set it to the host of the process with RANK 0, or start with torchrun."
            )
        if not told:
            log(f"No host is named {name} (MASTER_ADDR) yet; waiting {seconds} s for it.")
        told = True
        time.sleep(1)


def _unknown(name: str) -> str | None:
    """Say why a host's name leads nowhere."""
    try:
        socket.getaddrinfo(name or ".", None)
    except (OSError, UnicodeError) as error:
        return first_line(error)
    return None
