"""Scores prepared examples with a bundle.

Parquet in, Parquet out, piece by piece, in memory that does not grow.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecdctr.errors import ContractError
from ecdctr.examples.ragged import gap_buckets, pad
from ecdctr.files import durable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.serving.rules import Kind
    from ecdctr.serving.scorer import Scorer

Expected = tuple[str, Callable[[pa.DataType], bool]]  # in words, and whether a type is so
NUMBER: Expected = (
    "numbers",
    lambda kind: bool(pa.types.is_floating(kind) or pa.types.is_integer(kind)),
)
IDENTITY = ("user_id", "item_id", "ts")
ROWS = 65_536


def score_parquet(
    scorer: Scorer, source: Path, target: Path, on_rows: Callable[[int], None] | None = None
) -> int:
    """Score what `ecdctr prepare` wrote; returns the rows. The target is there whole or not at all.

    It has user_id, item_id, ts and probability, in the order of the source, and the version in its
    metadata. Raises ContractError when a column that the model reads is missing, or the file is no
    Parquet.
    """
    if source.resolve() == target.resolve():
        raise ContractError(
            f"{source}: the scores would replace the examples that they are of; name another --out."
        )
    with _open(source) as file:
        missing = sorted({*scorer.columns, *IDENTITY} - set(file.schema_arrow.names))
        if missing:
            raise ContractError(
                f"{source} lacks {', '.join(missing)}, which {scorer.version} reads; score files "
                "that 'ecdctr prepare' made with the configuration of this version."
            )
        _refuse_odd_types(scorer, source, file.schema_arrow)
        kept = [file.schema_arrow.field(name) for name in IDENTITY]
        schema = pa.schema(
            [*kept, pa.field("probability", pa.float32())], {"ecdctr.version": scorer.version}
        )
        durable.make_dir(target.parent)
        with (
            durable.replacing(target) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            for batch in file.iter_batches(
                ROWS, columns=[*dict.fromkeys([*IDENTITY, *scorer.columns])]
            ):
                with scorer.unchanged():
                    scores = scorer.run(encode(scorer, batch))
                if not np.isfinite(scores).all():
                    raise ContractError(
                        f"{source}: a score is not a finite number; look at the numeric features."
                    )
                columns = [batch.column(name) for name in IDENTITY]
                writer.write_batch(
                    pa.record_batch([*columns, pa.array(scores, pa.float32())], schema)
                )
                if on_rows:
                    on_rows(batch.num_rows)
        return int(file.metadata.num_rows)


def _refuse_odd_types(scorer: Scorer, source: Path, schema: pa.Schema) -> None:
    """Raise ContractError with the first column of a type that `ecdctr prepare` never writes."""
    d = scorer.description
    lists = {"history": "item_id"} | {name: name for name, _ in d["multi"]}
    expected = {name: _ids(scorer, name) for name in d["fields"]}
    expected |= {name: _lists(_ids(scorer, kind)) for name, kind in lists.items()}
    expected |= dict.fromkeys(d["numeric"], NUMBER) | {"history_gap": _lists(NUMBER)}
    for name, (words, fits) in expected.items():
        if not fits(type_here := schema.field(name).type):
            raise ContractError(
                f"{source}: column {name}: expected {words}, found {type_here}; score files that "
                f"'ecdctr prepare' made with the configuration of {scorer.version}."
            )


def _ids(scorer: Scorer, name: str) -> Expected:
    """Return what the ids of a vocabulary may be.

    Anything where training saw none, as they are all unknown then.
    """
    kinds: dict[Kind, tuple[str, Callable[[pa.DataType], bool]]] = {
        "string": ("text", pa.types.is_string),
        "boolean": ("true and false", pa.types.is_boolean),
        "integer": (
            "integers of 64 bits",
            lambda kind: pa.types.is_integer(kind) and kind != pa.uint64(),
        ),
    }
    words, fits = kinds.get(scorer.kinds[name], ("text, integers or booleans", lambda _: True))
    return (
        words,
        lambda kind: bool(pa.types.is_null(kind) or fits(kind)) and not pa.types.is_nested(kind),
    )


def _lists(one: Expected) -> Expected:
    words, fits = one
    return f"lists of {words}", lambda kind: bool(pa.types.is_list(kind)) and fits(kind.value_type)


def rows_of(source: Path) -> int:
    """Return rows of a Parquet file; raises ContractError if it is none."""
    with _open(source) as file:
        return int(file.metadata.num_rows)


def _open(source: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source)
    except (OSError, pa.ArrowInvalid) as error:
        raise ContractError(f"{source} cannot be read as Parquet: {error}") from None


def encode(scorer: Scorer, batch: pa.RecordBatch) -> dict[str, NDArray[Any]]:
    """Return what the scorer's `run` takes for n prepared examples: arrays [n, …] by input.

    Their numbers are transformed already.
    """
    d, rows = scorer.description, batch.num_rows
    ids = np.empty((rows, len(d["fields"])), np.int32)
    for column, name in enumerate(d["fields"]):
        ids[:, column] = _lookup(scorer, name, batch.column(name))
    multi = [np.zeros((rows, 0), np.int32)]
    for name, width in d["multi"]:
        lists = pc.list_slice(batch.column(name), 0, width)
        multi.append(pad(_lookup(scorer, name, lists.flatten()), _lengths(lists), width))
    clicks, gaps = batch.column("history"), batch.column("history_gap")
    return {
        "ids": ids,
        "multi": np.concatenate(multi, axis=1),
        "numeric": np.stack(
            [batch.column(name).to_numpy(zero_copy_only=False) for name in d["numeric"]], axis=1
        ).astype(np.float32, copy=False),
        "history": pad(
            _lookup(scorer, "item_id", clicks.flatten()), _lengths(clicks), d["history_length"]
        ),
        "gaps": pad(
            gap_buckets(gaps.flatten().to_numpy(zero_copy_only=False)),
            _lengths(gaps),
            d["history_length"],
        ),
    }


def _lookup(scorer: Scorer, name: str, values: pa.Array) -> NDArray[np.int32]:
    """Return rows of a column's ids; 0 for unknown and null."""
    kind, ids = scorer.kinds[name], scorer.tables[name].ids
    if kind == "any" or pa.types.is_null(values.type):
        return np.zeros(len(values), np.int32)
    if kind != "integer":
        return ids.lookup(values.to_pylist())
    numbers = pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    rows = ids.lookup_numbers(numbers)
    rows[pc.is_null(values).to_numpy(zero_copy_only=False)] = 0
    return rows


def _lengths(lists: pa.ListArray) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = np.diff(lists.offsets.to_numpy())
    return lengths
