"""The memory of users as a bundle carries it: TPM's weekly tables as arrays beside the graph."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecdctr.domains import DOMAINS
from ecdctr.errors import ConfigError
from ecdctr.levels.restore import trained_config
from ecdctr.memory.columns import counts
from ecdctr.memory.lookup import NEVER, write_arrays
from ecdctr.memory.table import newest_table
from ecdctr.store.manifest import Manifest, Ref

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.config import Config
    from ecdctr.store.store import Store


def remembering(store: Store, manifest: Manifest) -> Manifest | None:
    """Return the version that holds the memory which a version reads, None if it reads none.

    That is the newest TPM behind it, or itself without one. Raises ConfigError when there is none,
    or one of other settings.
    """
    if not manifest.config.get("memory"):
        return None
    refs = manifest.parents.get("tpm", [])
    holder = store.manifest(Ref.parse(refs[0])) if refs else manifest
    if not any(name.startswith("memory/") for name in holder.files):
        raise ConfigError(
            f"{manifest.ref} reads the memory of users, but {holder.ref} has none; train TPM and "
            "then the others with memory.enabled: true."
        )
    held, asked = _settings(holder), _settings(manifest)
    unlike = [name for name, value in asked.items() if held[name] != value]
    if unlike:
        raise ConfigError(
            f"{manifest.ref} reads the memory of users, but that of {holder.ref} was made with "
            f"other settings of {', '.join(unlike)}; train TPM and then the others with the same "
            "settings of memory."
        )
    return holder


def _settings(manifest: Manifest) -> dict[str, object]:
    """Return what decides the numbers in a version's tables of memory, by setting."""
    config = trained_config(manifest)
    of_memory = config.memory.model_dump(include={"windows", "max_pairs", "weekday"})
    named = {f"memory.{name}": value for name, value in of_memory.items()}
    return {**named, "memory.features": config.memory_keys}


def write_memory(config: Config, store: Store, holder: Manifest, folder: Path) -> dict[str, Any]:
    """Write the tables of the version that holds them into a bundle.

    Returns what bundle.json says of them.
    """
    store.check(holder.ref)
    paths = (store.path(holder.ref) / "memory").glob("*.parquet")
    until = newest_table(config.memory, holder.data_date)
    return write_tables(config, {path.stem: path for path in paths}, until, folder)


def write_tables(
    config: Config, tables: dict[str, Path], until: dt.date, folder: Path
) -> dict[str, Any]:
    """Write weekly tables, by key, as arrays that the scorer maps."""
    folder.mkdir()
    windows = config.memory.windows
    for key in config.memory_keys:
        if key not in tables:  # a log that begins after the table
            empty = np.zeros((0, len(counts(windows))), np.int32)
            write_arrays(folder, key, empty[:, 0], empty[:, 0], empty, empty[:, : len(DOMAINS)])
            continue
        table = pq.read_table(tables[key], partitioning=None)
        table = table.filter(pc.field("place") <= config.memory.max_pairs)
        numbers = [table[name].to_numpy() for name in counts(windows)]
        days = [pc.fill_null(table[f"{d}_last"].cast(pa.int32()), int(NEVER)) for d in DOMAINS]
        last = np.stack([column.to_numpy() for column in days], axis=1)
        users, values = _ids(table["user_id"]), _ids(table["value"])
        write_arrays(folder, key, users, values, np.stack(numbers, axis=1), last)
    return {"keys": list(config.memory_keys), "windows": list(windows), "until": str(until)}


def _ids(column: pa.ChunkedArray) -> NDArray[Any]:
    values: NDArray[Any] = column.to_numpy()
    if values.dtype.kind == "b":
        return values.astype(np.int8)
    return values if values.dtype.kind in "iu" else values.astype(np.str_)
