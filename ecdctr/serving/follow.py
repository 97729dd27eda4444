"""Which version to score with.

A fixed bundle, or whatever an alias of the store names, exported when it is new.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ecdctr.console import log
from ecdctr.errors import EcdctrError, first_line, machine_trouble
from ecdctr.files import durable
from ecdctr.serving.bundle import SCHEMA_VERSION
from ecdctr.serving.scorer import Scorer
from ecdctr.store.aliases import CANDIDATE, SERVING

if TYPE_CHECKING:
    from ecdctr.files.rounding import Precision
    from ecdctr.serving.service import Service
    from ecdctr.store.manifest import Manifest, Ref
    from ecdctr.store.store import Store

RETRY_SECONDS = 60.0  # before a version that could not be used is tried again, and then twice that
LONGEST_RETRY = 3600.0


def bundle_name(manifest: Manifest, precision: Precision) -> str:
    """Return the folder of a version's bundle.

    Another one with each schema, so that a new release exports anew, and with each manifest, so
    that a store made anew, or another one, is not served by what this one's version is called.
    """
    digest = hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()[:12]
    name = str(manifest.ref).replace("/", "_")
    return f"{name}.{digest}.schema-{SCHEMA_VERSION}.{precision}"


class Failed(NamedTuple):
    """A bundle that could not be used, when it is tried again, and how long that took to come."""

    name: str
    until: float  # of the monotonic clock
    seconds: float


@dataclass
class Follower:
    """Looks at an alias every few seconds and hands the service the scorer of the version it names.

    Exporting needs torch, so it happens in a process of its own. While a version cannot be exported
    or fails its self-test, the one before it goes on serving.
    """

    role: str  # SERVES or SHADOW, of the service
    alias: str
    store: Store
    experiment: str
    bundles: Path
    config: Path
    precision: Precision = "float32"
    threads: int = 1
    seconds: float = 5.0
    _used: str = ""  # the name of a bundle, as below
    _failed: Failed | None = None
    _unset: bool = False  # the alias; told once
    _told: tuple[str, float] = ("", 0.0)  # the last failure, and until when it is not told again

    async def __call__(self, service: Service) -> None:
        """Follow forever."""
        while True:
            try:
                await self.look(service)
            except Exception as error:  # a store that cannot be read now may be readable in a while
                service.metrics.failures.labels(self.role).inc()
                self._tell(f"{self.role}: {machine_trouble(error) or first_line(error)}")
            await asyncio.sleep(self.seconds)

    async def look(self, service: Service) -> None:
        """Take over the alias's version if it is another one.

        Raises EcdctrError when it cannot be used.
        """
        ref = await asyncio.to_thread(self.store.alias, self.alias, self.experiment)
        if ref is None:
            self._tell_unset(service)
            return
        self._unset = False
        # of its manifest, too: a store that was made anew may call another version the same
        name = bundle_name(await asyncio.to_thread(self.store.manifest, ref), self.precision)
        if name == self._used:
            return
        again = self._failed if self._failed and self._failed.name == name else None
        if again and time.monotonic() < again.until:
            return
        pause = min(2 * again.seconds, LONGEST_RETRY) if again else RETRY_SECONDS
        self._failed = Failed(name, time.monotonic() + pause, pause)
        service.swap(self.role, await self._loaded(ref, self.bundles / name))
        self._used, self._failed = name, None

    def _tell(self, sentence: str) -> None:
        """Log a failure; the same one again after a minute, however often it is met."""
        told, until = self._told
        if sentence == told and time.monotonic() < until:
            return
        self._told = sentence, time.monotonic() + RETRY_SECONDS
        log(sentence, alias=self.alias, experiment=self.experiment)

    def _tell_unset(self, service: Service) -> None:
        """Say that the alias names no version, as where the store's disk is not mounted."""
        if self._unset:
            return
        self._unset = True
        used = service.scorers.get(self.role)
        so = f"{used.version} stays" if used else "there is nothing to score with"
        log(
            f"{self.role}: '{self.alias}' of experiment '{self.experiment}' names no version in "
            f"{self.store.root}, so {so}; look whether that is the store, or set it (training sets "
            f"'{CANDIDATE}', 'ecdctr store promote VERSION' sets '{SERVING}')"
        )

    async def _loaded(self, ref: Ref, folder: Path) -> Scorer:
        """Return the scorer of a version's bundle, made anew where a damaged one lies there.

        Raises EcdctrError when it cannot be made.
        """
        if folder.exists():
            try:
                return await asyncio.to_thread(Scorer, folder, self.threads)
            except EcdctrError as error:
                log(f"{self.role}: {error} {ref} is exported again now.")
            await asyncio.to_thread(_take_away, folder)
        await self._export(ref, folder)
        return await asyncio.to_thread(Scorer, folder, self.threads)

    async def _export(self, ref: Ref, folder: Path) -> None:
        command = [
            sys.executable,
            "-P",  # no module from the folder that the server was started in
            "-m",
            "ecdctr.cli",
            "--config",
            str(self.config),
            "--store",
            str(self.store.root),
        ]
        process = await asyncio.create_subprocess_exec(
            *command, "export", "--version", str(ref), "--out", str(folder),
            "--precision", self.precision,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            _, said = await process.communicate()
        except asyncio.CancelledError:  # the server ends
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            raise
        if process.returncode and not folder.exists():  # another server may have been faster
            raise EcdctrError(f"{ref} cannot be exported: {_last_said(said, process.returncode)}")


def _take_away(folder: Path) -> None:
    """Take a bundle away whole; a server that scores with it has its files open."""
    faster = contextlib.suppress(FileNotFoundError)  # another server was
    with durable.scratch(folder.parent, ".export-") as place, faster:
        folder.rename(place / "damaged")


def _last_said(said: bytes, code: int) -> str:
    """Return the sentence that a command ended with, or the signal that ended it."""
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}; look at the machine's memory."
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("ecdctr: ") if lines else f"it ended with exit code {code}."
