"""Small logs that tests import, and what became of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from ecdctr.config import Config, Data, Feature
from ecdctr.impressions.contract import validate
from ecdctr.impressions.importer import Imported, import_log
from ecdctr.impressions.mapping import Mapping

START = 1767225600  # 2026-01-01
BASE = {
    "user_id": "user",
    "item_id": "item",
    "ts": "to_timestamp(t)",
    "click": "clicked = 1",
    "domain": "kind",
}


def rows(
    users: list[str] | tuple[str, ...] = ("1", "2", "3"), n: int = 40, start: int = START
) -> str:
    lines = ["user,item,t,clicked,kind"]
    for i in range(n):
        kind = "ads" if i % 2 else "natural"
        lines.append(
            f"{users[i % len(users)]},{100 + i % 5},{start + i * 600},{i % 3 == 0:d},{kind}"
        )
    return "\n".join(lines) + "\n"


def run(
    folder: Path,
    files: dict[str, str | bytes],
    log: dict | None = None,
    on_file: Callable[[str], None] | None = None,
    **changes,
) -> Imported:
    """Import files written under `folder` by the base mapping, changed."""
    source = folder / "logs"
    source.mkdir(exist_ok=True, parents=True)
    for name, content in files.items():
        (source / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    mapping = Mapping(log={"files": ["*.csv"]} | (log or {}), **(BASE | changes))
    return import_log(mapping, source, folder / "data", on_file=on_file)


def column(folder: Path, name: str) -> list:
    values: list = []
    for path in sorted((folder / "data").rglob("*.parquet")):
        values += pq.read_table(path, partitioning=None)[name].to_pylist()
    return values


def kind_of(folder: Path, name: str) -> str:
    (kind,) = {
        str(pq.read_schema(path).field(name).type) for path in (folder / "data").rglob("*.parquet")
    }
    return kind


def breaches(folder: Path, *features: Feature) -> list[str]:
    config = Config(data=Data(root=folder / "data"), features=features)
    return [str(v) for report in validate(config, ["natural", "ads"]) for v in report.violations]
