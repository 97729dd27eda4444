"""Leases on a store in a bucket.

Who uses it, said in one object that changes by compare-and-swap, and for how long. A lease is
renewed by a thread of the process that holds it, every RENEWAL, and ends LEASE after the last
renewal: a process that died is forgotten within minutes, one that trains for days is not. Machines'
clocks must agree within LEASE - RENEWAL. A process that stood still for longer (suspended, cut off)
finds its lease gone and must not publish.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ecdctr.errors import StoreError, TryAgain

logger = logging.getLogger("ecdctr")
LEASE, RENEWAL = dt.timedelta(minutes=5), dt.timedelta(minutes=1)
IN_USE = ".locks/in-use.json"  # the object with all leases
Locks = dict[str, Any]  # {"users": {id: lease}, "remover": lease with its id under "own"}
Swap = Callable[[Callable[[Locks], Any]], Any]


def utc_now() -> dt.datetime:
    """Return the time, of which a test may give another."""
    return dt.datetime.now(dt.UTC)


class Leases:
    """The leases that this process holds on a store.

    `swap` changes the object that all processes see.
    """

    def __init__(
        self,
        root: str,
        swap: Swap,
        now: Callable[[], dt.datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.root, self.swap, self.now, self.sleep = root, swap, now, sleep
        self._mutex = threading.RLock()
        self._until: dict[str, dt.datetime] = {}  # by id, of those held here
        self._lost: set[str] = set()
        self._user, self._users = "", 0  # all uses within a process share one lease
        self._idle = threading.Event()
        self._remover: dict[str, str] = {}  # whom this process waits for

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Let nothing be removed while this is held; waits while something is."""
        told = False
        while not self._use():
            if not told:
                logger.warning("%s: waiting; %s", self.root, self._said_of(self._remover))
            told = True
            self.sleep(1)
        try:
            yield
        finally:
            with self._mutex:
                self._users -= 1
                if not self._users:
                    self._leave(self._user)

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold the only lease.

        Raises BlockingIOError, with who it is and until when, if there is another.
        """
        lease = uuid.uuid4().hex
        taken: list[str] = []

        def alone(locks: Locks) -> bool:
            others = list(locks.get("users", {}).values())
            if "remover" in locks and locks["remover"]["own"] != lease:
                others.append(locks["remover"])
            taken[:] = map(self._said_of, others)
            if not others:
                locks["remover"] = {**self._lease(), "own": lease}
            return not others

        with self._mutex:
            if not self._enter(lease, alone):
                raise BlockingIOError(taken[0])
        try:
            yield
        finally:
            with self._mutex:
                self._leave(lease)

    def renew(self) -> None:
        """Extend what is held; what is not there any more is lost, and `check` says so."""
        with self._mutex:
            for lease in [one for one in self._until if one not in self._lost]:
                until = self.now() + LEASE
                if self.swap(partial(self._extend, lease=lease)):
                    self._until[lease] = until
                else:
                    self._lost.add(lease)

    def check(self) -> None:
        """Renew, and raise TryAgain if a lease was lost: versions may have been removed meanwhile.

        Asked of the object that all see, whatever this machine's clock says.
        """
        with self._mutex:
            self.renew()
            if self._lost:
                minutes = int(LEASE.total_seconds() // 60)
                raise TryAgain(
                    f"{self.root}: this process did not renew its lease for {minutes} minutes "
                    "(suspended, cut off from the store, or with a clock behind the others'), and "
                    "versions may have been removed "
                    "meanwhile; nothing was published. Run the same command again."
                )

    def _use(self) -> bool:
        """Count one more use, with a new lease if it is the first.

        False while versions are removed.
        """
        with self._mutex:
            if not self._users:
                lease = uuid.uuid4().hex
                if not self._enter(lease, self._join(lease)):
                    return False
                self._user = lease
            self._users += 1
            return True

    def _join(self, lease: str) -> Callable[[Locks], bool]:
        def enter(locks: Locks) -> bool:
            if "remover" in locks:
                self._remover = locks["remover"]
                return False
            locks.setdefault("users", {})[lease] = self._lease()
            return True

        return enter

    def _enter(self, lease: str, change: Callable[[Locks], bool]) -> bool:
        until = self.now() + LEASE

        def enter(locks: Locks) -> bool:
            _forget_dead(locks, self.now())
            return change(locks)

        if not self.swap(enter):
            return False
        self._until[lease] = until
        if len(self._until) == 1:
            self._idle = threading.Event()
            threading.Thread(target=self._keep, args=(self._idle,), daemon=True).start()
        return True

    def _leave(self, lease: str) -> None:
        def leave(locks: Locks) -> None:
            locks.get("users", {}).pop(lease, None)
            if locks.get("remover", {}).get("own") == lease:
                del locks["remover"]

        del self._until[lease]
        self._lost.discard(lease)
        if not self._until:
            self._idle.set()
        self.swap(leave)

    def _keep(self, idle: threading.Event) -> None:
        while not idle.wait(RENEWAL.total_seconds()):
            with contextlib.suppress(StoreError, TryAgain):  # the next time, or `check`, will tell
                self.renew()

    def _extend(self, locks: Locks, lease: str) -> bool:
        held = locks.get("users", {}).get(lease)
        if held is None and locks.get("remover", {}).get("own") == lease:
            held = locks["remover"]
        if held is None:
            return False
        held["until"] = (self.now() + LEASE).isoformat(timespec="seconds")
        return True

    def _said_of(self, one: dict[str, str]) -> str:
        """Say who holds a lease and until when, and what to do where no lease can be that long."""
        said = (
            f"{one['host']} uses it since {one['since']}; try later, or after {one['until']} if "
            "that died"
        )
        if one["until"] <= (self.now() + 2 * LEASE).isoformat(timespec="seconds"):
            return said
        return (
            f"{said}. No lease is that long: the clock of that machine, or of this one, is wrong. "
            f"Set it, and remove {self.root}/{IN_USE} if nothing uses the store"
        )

    def _lease(self) -> dict[str, str]:
        now = self.now()
        return {
            "host": socket.gethostname(),
            "since": now.isoformat(timespec="seconds"),
            "until": (now + LEASE).isoformat(timespec="seconds"),
        }


def _forget_dead(locks: Locks, now: dt.datetime) -> None:
    text = now.isoformat(timespec="seconds")
    users = locks.get("users", {})
    for number in [number for number, lease in users.items() if lease["until"] < text]:
        del users[number]
    if "remover" in locks and locks["remover"]["until"] < text:
        del locks["remover"]
