"""What killed processes left: objects of a bucket that no index names, files on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecdctr.store.manifest import STUDIES, VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from ecdctr.store.bucket import Bucket


def sweep(bucket: Bucket, limit: float) -> int:
    """Delete what no index names and is older than `limit`, in seconds; returns the bytes freed."""
    freed, places = 0, dict[str, set[str]]()
    for path, modified, size in bucket.listed():
        group, place = _split(path)
        if group is None or modified > limit:
            continue
        if group not in places:
            index = bucket.read_json(f"{group}/index.json")[0]
            places[group] = set(index.get("folders", {}).values())
        if place not in places[group]:
            bucket.delete(path)
            freed += size
    return freed


def remove_old(folder: Path, limit: float) -> int:
    """Remove a folder's files that were changed before `limit`, in seconds; returns bytes freed.

    Folders in it are none of ours.
    """
    freed = 0
    for path in folder.glob("*"):
        if path.is_file() and path.stat().st_mtime < limit:
            freed += path.stat().st_size
            path.unlink()
    return freed


def _split(path: str) -> tuple[str | None, str]:
    """Return the group and the place that an object belongs to.

    No group for documents, logs and indexes.
    """
    match path.split("/"):
        case [experiment, "evaluations", level, day, version, *_]:
            group = f"{experiment}/evaluations/{level}"
            return group, f"{group}/{day}/{version}"
        case [group, study, _, *_] if group == STUDIES:
            return group, f"{group}/{study}"
        case [experiment, level, date, version, _, *_] if VERSION.match(version):
            group = f"{experiment}/{level}"
            return group, f"{group}/{date}/{version}"
    return None, path
