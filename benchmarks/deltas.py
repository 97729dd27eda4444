"""Versions as changes against whole versions: bytes a day, and seconds until a reader has one.

python -m benchmarks.deltas                 # a chain whose ids come and go, 21 days, trained first
python -m benchmarks.deltas demo/store      # a store that is there, for example the demo's

The last row is of bundles: the newest A-CTRs exported, each as changes against the one before, and
the seconds until a server that has the one before scores with it: copied whole, or put together.

Each CPM and A-CTR is published once more, as changes against the version that its rows grow from,
as `store.deltas` would have stored it. A server that follows the A-CTRs fetches what is stored of
each, and of what it is stored against, as far as it has not got that yet. Bytes are exact; seconds
are of this machine, without a network.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.common import RESULTS
from benchmarks.years import configuration, date_of, deliver
from ecdctr.config import Level
from ecdctr.config.store import Deltas
from ecdctr.files.cache import FOLDER as CACHE
from ecdctr.levels import train
from ecdctr.levels.request import Request
from ecdctr.serving.export import export_bundle
from ecdctr.serving.patch import apply_patch, write_patch
from ecdctr.serving.scorer import Scorer
from ecdctr.store.manifest import Base, Manifest, Ref
from ecdctr.store.storage import open_storage
from ecdctr.store.store import Store

ROOT, DAYS, BUNDLES = RESULTS / "deltas", 21, 4
WARM = 30  # days before the first that is trained
DAILY: tuple[Level, ...] = ("cpm", "actr")


class Stored(NamedTuple):
    """A version, whole and as changes."""

    level: str
    whole: int  # bytes
    changes: int  # bytes stored for it
    fetched: int  # bytes that a server fetches which has what it needed for the A-CTRs before
    copied: float  # seconds to copy the whole version
    put_together: float  # seconds until its whole files are there, with those of the one before


class Shipped(NamedTuple):
    """A bundle, whole and as changes."""

    whole: int  # bytes
    changes: int
    copied: float  # seconds until it is copied whole, loaded and has passed its self-test
    patched: float  # the same, put together from changes and the bundle before


def chain() -> Store:
    """Train a TPM a week, a CPM and an A-CTR a day."""
    config, store = configuration(ROOT, bounded=False), Store(ROOT / "store")
    for number in range(WARM + DAYS):
        deliver(ROOT, number, times=10)
        date = date_of(number)
        if number >= WARM and (number - WARM) % 7 == 0:
            train("tpm", Request(config, store, date - dt.timedelta(days=1)))
        for level in DAILY if number >= WARM else ():
            train(level, Request(config, store, date))
    return store


def grown_from(manifest: Manifest) -> Ref | None:
    """Return the version that its rows begin with: yesterday's of a chain, else its CPM."""
    refs = manifest.parents.get(manifest.level) or manifest.parents.get("cpm") or []
    return Ref.parse(refs[0]) if refs else None


def again(store: Store, target: Store) -> Iterator[tuple[Ref, Manifest]]:
    """Publish a store's versions as changes, in the order of their dates."""
    refs = [ref for level in DAILY for ref in store.versions("production", level)]
    moved: dict[Ref, Ref] = {}
    for ref in sorted(refs, key=lambda ref: (ref.date, ref.level == "actr", ref.version)):
        manifest, base = store.manifest(ref), grown_from(store.manifest(ref))
        against = Base(moved[base], Deltas().max_links) if base in moved else None
        with target.staging() as folder:
            for name in manifest.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(store.path(ref) / name, folder / name)
            made = target.publish(folder, manifest, force=True, base=against)
        moved[ref] = made.ref
        yield made.ref, made


def measured(store: Store) -> list[Stored]:
    """Return what each version takes; a reader has put together the ones before it already."""
    os.environ[CACHE] = str(ROOT / "cache")
    open_storage.cache_clear()
    target, rows, there = Store(ROOT / "changes"), [], set[Ref]()
    for ref, manifest in again(store, target):
        put_together = seconds(target.path, ref)
        copied = seconds(shutil.copytree, target.path(ref), ROOT / "copy")
        shutil.rmtree(ROOT / "copy")
        target.check(ref)
        size = target.stored_bytes(ref, manifest)
        needed = fetched(target, ref, there) if ref.level == "actr" else 0
        rows.append(Stored(ref.level, manifest.total_bytes, size, needed, copied, put_together))
    return rows


def fetched(store: Store, ref: Ref, there: set[Ref]) -> int:
    """Return the bytes that a server fetches for a version, which then is there."""
    if ref in there:
        return 0
    there.add(ref)
    changes = store.changes(ref)
    base = fetched(store, changes.ref, there) if changes else 0
    return base + store.stored_bytes(ref, store.manifest(ref))


def bundles(store: Store) -> list[Shipped]:
    """Ship the newest bundles but one, whole and as changes against the one before."""
    rows, before = [], None
    for ref in store.versions("production", "actr")[-BUNDLES:]:
        folder, patch = (ROOT / kind / str(ref.date) for kind in ("bundles", "patches"))
        export_bundle(store, ref, folder)
        if before:
            write_patch(folder, before, patch)
            arrived = ROOT / "arrived" / str(ref.date)
            copied = seconds(shutil.copytree, folder, arrived / "whole")
            patched = seconds(apply_patch, patch, before, arrived / "put-together")
            loaded = [seconds(Scorer, arrived / kind) for kind in ("whole", "put-together")]
            rows.append(Shipped(size(folder), size(patch), copied + loaded[0], patched + loaded[1]))
        before = folder
    return rows


def seconds(work: Callable[..., Any], *arguments: Any) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def size(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _shown(whole: float, changes: float) -> tuple[str, str, str]:
    return f"{whole / 1e6:.2f}", f"{changes / 1e6:.2f}", f"{changes / whole:.0%}"


def main() -> None:
    """Measure a store, or a chain that is trained first."""
    shutil.rmtree(ROOT, ignore_errors=True)
    store = Store(Path(sys.argv[1])) if len(sys.argv) > 1 else chain()
    rows = measured(store)
    table = Table(
        "",
        "versions",
        "MB whole",
        "as changes",
        "share",
        "a server fetches",
        "s to copy",
        "s to have",
    )
    for level in DAILY:
        of_level = [row for row in rows if row.level == level][1:]  # the first has none before it
        whole, changes = mean(r.whole for r in of_level), mean(r.changes for r in of_level)
        medians = (median(r.copied for r in of_level), median(r.put_together for r in of_level))
        table.add_row(
            level, str(len(of_level)), *_shown(whole, changes),
            f"{mean(r.fetched for r in of_level) / 1e6:.2f}",
            *(f"{one:.3f}" for one in medians),
        )  # fmt: skip
    shipped = bundles(store)
    table.add_row(
        "bundle",
        str(len(shipped)),
        *_shown(mean(one.whole for one in shipped), mean(one.changes for one in shipped)),
        "",
        f"{median(one.copied for one in shipped):.3f}",
        f"{median(one.patched for one in shipped):.3f}",
    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
