"""Scores prepared examples with a bundle.

Parquet in, Parquet out, piece by piece, in memory that does not grow.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecdctr.errors import ContractError
from ecdctr.examples import histories
from ecdctr.examples.ragged import pad
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
INTEGER: Expected = ("integers", lambda kind: bool(pa.types.is_integer(kind)))
TIMED: dict[str, Expected] = {"ts": ("times", lambda kind: bool(pa.types.is_timestamp(kind)))}
IDENTITY = ("user_id", "item_id", "ts")
ROWS = 65_536


def score_parquet(
    scorer: Scorer, source: Path, target: Path, on_rows: Callable[[int], None] | None = None
) -> int:
    """Score what `ecdctr prepare` wrote; returns the rows. The target is there whole or not at all.

    The clicks of the rows lie beside them, as histories.py says. The target has user_id, item_id,
    ts and probability, in the order of the source, and the version in its metadata. Raises
    ContractError when a column that the model reads is missing, or the file is no Parquet.
    """
    if source.resolve() == target.resolve():
        raise ContractError(
            f"{source}: the scores would replace the examples that they are of; name another --out."
        )
    with _open(source) as file:
        columns = [*dict.fromkeys([*IDENTITY, *scorer.columns, *histories.STORED])]
        _refuse_odd(scorer, source, file.schema_arrow, _of_rows(scorer))
        clicks = _clicks(scorer, source)
        identity = [file.schema_arrow.field(name) for name in IDENTITY]
        schema = pa.schema(
            [*identity, pa.field("probability", pa.float32())], {"ecdctr.version": scorer.version}
        )
        durable.make_dir(target.parent)
        with (
            durable.replacing(target) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            for batch in file.iter_batches(ROWS, columns=columns):
                with scorer.unchanged():
                    arrays = encode(scorer, clicks.seen_by(batch))
                    _refuse_odd_numbers(scorer, source, arrays["numeric"])
                    scores = scorer.run(arrays)
                if not np.isfinite(scores).all():
                    raise ContractError(
                        f"{source}: a score is not a finite number; look at the numeric features."
                    )
                scored = [
                    *(batch.column(name) for name in IDENTITY),
                    pa.array(scores, pa.float32()),
                ]
                writer.write_batch(pa.record_batch(scored, schema))
                if on_rows:
                    on_rows(batch.num_rows)
        return int(file.metadata.num_rows)


def _of_rows(scorer: Scorer) -> dict[str, Expected]:
    d = scorer.description
    expected = {name: _ids(scorer, name) for name in d["fields"]}
    expected |= {name: _lists(_ids(scorer, name)) for name, _ in d["multi"]}
    expected |= dict.fromkeys(d["numeric"], NUMBER) | dict.fromkeys(histories.STORED, INTEGER)
    return expected | TIMED


def _clicks(scorer: Scorer, source: Path) -> histories.Clicks:
    """Return the clicks of a file of rows; raises ContractError where they are none."""
    place = histories.clicks_path(source)
    if place.exists():
        with _open(place) as file:
            expected = {name: _ids(scorer, name) for name in scorer.layout.clicked} | TIMED
            _refuse_odd(scorer, place, file.schema_arrow, expected)
    return histories.Clicks.read(source)


def _refuse_odd(
    scorer: Scorer, source: Path, schema: pa.Schema, expected: dict[str, Expected]
) -> None:
    """Raise ContractError for a missing column, or of a type that `ecdctr prepare` never writes."""
    missing = sorted(expected.keys() - set(schema.names))
    if missing:
        raise ContractError(
            f"{source} lacks {', '.join(missing)}, which {scorer.version} reads; score files that "
            "'ecdctr prepare' made with the configuration of this version."
        )
    for name, (words, fits) in expected.items():
        if not fits(type_here := schema.field(name).type):
            raise ContractError(
                f"{source}: column {name}: expected {words}, found {type_here}; score files that "
                f"'ecdctr prepare' made with the configuration of {scorer.version}."
            )


def _refuse_odd_numbers(scorer: Scorer, source: Path, numeric: NDArray[np.float32]) -> None:
    """Raise ContractError for numbers [n, N] that training refuses, but for memory's unknown ones.

    The graph would take the mean for them, as for what a request leaves out.
    """
    for (name, described), column in zip(
        scorer.description["numeric"].items(), numeric.T, strict=True
    ):
        others = int((~np.isfinite(column)).sum())
        if others and described["transform"] != "memory":
            raise ContractError(
                f"{source}: column {name}: expected finite numbers, found {others} others; score "
                f"files that 'ecdctr prepare' made with the configuration of {scorer.version}."
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

    They have lists of clicks, as histories.Clicks shows them; their numbers are transformed
    already.
    """
    d, rows = scorer.description, batch.num_rows
    ids = np.empty((rows, len(d["fields"])), np.int32)
    for column, name in enumerate(d["fields"]):
        ids[:, column] = _lookup(scorer, name, batch.column(name))
    multi = [np.zeros((rows, 0), np.int32)]
    for name, width in d["multi"]:
        lists = pc.list_slice(batch.column(name), 0, width)
        multi.append(pad(_lookup(scorer, name, lists.flatten()), _lengths(lists), width))
    columns = [histories.ITEMS, *map(histories.of_feature, scorer.layout.clicked[1:])]
    lookups = [partial(_lookup, scorer, name) for name in scorer.layout.clicked]
    read = list(zip(columns, lookups, strict=True))
    history, gaps = histories.encoded([batch], read, d["history_length"])
    return {
        "ids": ids,
        "multi": np.concatenate(multi, axis=1),
        "numeric": np.stack(
            [batch.column(name).to_numpy(zero_copy_only=False) for name in d["numeric"]], axis=1
        ).astype(np.float32, copy=False),
        "history": history,
        "gaps": gaps,
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
