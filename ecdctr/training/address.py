"""Where processes that train together meet: whether the host exists, and whether all come.

Apart from `workers`, which decides what is trained: a name that is looked up changes no weight.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator

from ecdctr.console import log
from ecdctr.errors import ConfigError, TryAgain, first_line

NO_MEETING = ("DistNetworkError", "DistStoreError")  # of torch, which is not loaded for this
WITHIN, WITHIN_CLUSTER = 5, 300  # seconds until the first process's host has a name


@contextlib.contextmanager
def meeting() -> Iterator[None]:
    """Meet the others in the block: it is said that they are waited for, and why they did not come.

    Raises ConfigError for an address that cannot be one, TryAgain where not all came in time.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else pages of addresses a second
    await_address()
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    if _is_one_of_several() and "TORCHELASTIC_RUN_ID" not in os.environ:
        if not os.environ.get("MASTER_PORT", "1").strip("0"):
            raise ConfigError(
                f"MASTER_PORT is {os.environ['MASTER_PORT']!r}, expected the port, 1 to "
                "65535, at which the process with RANK 0 listens; start with torchrun."
            )
        log(
            f"Process {os.environ.get('RANK')} of {os.environ['WORLD_SIZE']} meets the others at "
            f"{place} (MASTER_ADDR, MASTER_PORT)."
        )
    try:
        yield
    except Exception as error:
        if type(error).__name__ not in NO_MEETING:
            raise
        raise TryAgain(
            f"The {os.environ.get('WORLD_SIZE')} processes that train together did not meet at "
            f"{place} (MASTER_ADDR, MASTER_PORT): {first_line(error)}; look whether each was "
            "started, with the RANK 0 on that host, and whether another server has the port."
        ) from None


def _is_one_of_several() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"


def await_address() -> None:
    """Return when a host has the name in MASTER_ADDR, or none is asked for.

    In a cluster a pod's name is there some time after the others have started. Raises ConfigError
    where no host has it after a while: the library that meets the others would wait for minutes.
    """
    name = os.environ.get("MASTER_ADDR")
    if name is None or not _is_one_of_several():
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
