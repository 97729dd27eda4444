"""A stored A-CTR version as a bundle.

ONNX graph with merged tables, vocabularies, transforms, schema, self-test.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from ecdctr.config import Config
from ecdctr.errors import ConfigError, EcdctrError
from ecdctr.examples.batches import Batch, Inputs, encode
from ecdctr.examples.ragged import GAP_BUCKETS
from ecdctr.examples.transforms import COUNT_FEATURES, COUNTS
from ecdctr.files import durable
from ecdctr.levels.restore import load_network
from ecdctr.models.network import CtrNet
from ecdctr.serving.bundle import DESCRIPTION, SCHEMA_VERSION, Bundle, checksums, sealed
from ecdctr.serving.graph import INPUTS, Probability, Rows, write_graphs
from ecdctr.serving.memory_export import remembering, write_memory, write_tables
from ecdctr.serving.patch import write_patch
from ecdctr.serving.request import Shape
from ecdctr.serving.schema import request_schema
from ecdctr.serving.scorer import TOLERANCE, Scorer
from ecdctr.serving.selftest import Cases, prepared_cases
from ecdctr.serving.tables import Layout, Table, compact, write_ids, write_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.examples.vocabulary import Vocabulary
    from ecdctr.files.rounding import Precision
    from ecdctr.serving.rules import Kind
    from ecdctr.store.manifest import Manifest, Ref
    from ecdctr.store.store import Store

# Of a manifest's configuration, what serving reads
SETTINGS = ("data", "features", "seed", "network", "memory")


def export_bundle(
    store: Store, ref: Ref, target: Path, precision: Precision = "float32"
) -> dict[str, Any]:
    """Write the bundle of a version, prove it with its self-test, then put it in place.

    Returns its description. precision: of the vectors of ids; training keeps float32. The self-test
    is made up (ecdctr/serving/selftest.py) and compares with preparation. Raises ConfigError if the
    target exists or the version cannot be served, EcdctrError if the exported graph scores
    otherwise.
    """
    if ref.level != "actr":
        raise ConfigError(f"{ref} is no ads model; export an A-CTR version.")
    if target.exists():
        raise ConfigError(_taken(target))
    manifest = store.manifest(ref)
    if manifest.prior_ctr is None:
        raise ConfigError(
            f"{ref} is of an earlier release, which did not store the click-through rate that "
            "counts are smoothed with; train it again (ecdctr train actr --force), then export."
        )
    holder = remembering(store, manifest)
    network, inputs, vocabularies = load_network(store, ref)
    assert isinstance(network, CtrNet)  # noqa: S101  # the version is an A-CTR
    settings = {key: manifest.config[key] for key in SETTINGS if key in manifest.config}
    config = Config.model_validate(settings)
    with _beside(target) as scratch:
        folder = scratch / "bundle"
        folder.mkdir()
        description = describe(config, manifest, inputs, vocabularies)
        if holder:
            description["memory"] = write_memory(config, store, holder, folder / "memory")
        schema = request_schema(description, Shape(description, description["kinds"]))
        (folder / "request.schema.json").write_text(json.dumps(schema, indent=1), "utf-8")
        (folder / "manifest.json").write_bytes((store.path(ref) / "manifest.json").read_bytes())
        cases = prepared_cases(
            config, vocabularies, manifest.data_date, description["prior_ctr"], scratch
        )
        if holder:
            place = folder / "selftest_memory"
            description["selftest_memory"] = write_tables(config, cases.tables, cases.until, place)
        description["tables"] = _write_network(
            network, inputs, vocabularies, description["kinds"], cases, folder, precision
        )
        description["files"] = checksums(folder)
        (folder / DESCRIPTION).write_bytes(sealed(description))
        Scorer(folder, verify=True)
        durable.sync_files(folder)
        if not durable.rename_dir(folder, target):
            raise ConfigError(_taken(target))
    return description


def _write_network(
    network: CtrNet,
    inputs: Inputs,
    vocabularies: dict[str, Vocabulary],
    kinds: dict[str, Kind],
    cases: Cases,
    folder: Path,
    precision: Precision,
) -> dict[str, Any]:
    """Write the tables, the graph beside them and the self-test, which the trainer's network sets.

    Returns what bundle.json says of the tables.
    """
    batch = encode(cases.examples, inputs, vocabularies)
    with torch.inference_mode():
        trained = torch.sigmoid(network(batch))
    rows = Rows(network)
    tables, places = _write_tables(rows, vocabularies, kinds, folder, precision)
    graph = Probability(network).eval()
    arrays = _arguments(batch, tables, places, inputs, rows.width)
    with torch.inference_mode():
        served = graph(*arrays)
    rounding = _rounding(trained, served, precision)
    write_graphs(graph, arrays, folder, TOLERANCE)
    _write_self_test(served, cases.requests, tables["user_id"], folder)
    return {"precision": precision, "parts": rows.parts, "rounding": rounding}


def export_changes(
    store: Store, ref: Ref, target: Path, against: Path, precision: Precision = "float32"
) -> dict[str, Any]:
    """Export a version, and write what its bundle has that another bundle has not.

    Returns the bundle's description; raises as export_bundle and write_patch do.
    """
    if target.exists():
        raise ConfigError(_taken(target))
    Bundle(against)  # before any work
    with _beside(target) as scratch:
        description = export_bundle(store, ref, scratch / "bundle", precision)
        write_patch(scratch / "bundle", against, target)
    return description


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Yield a hidden folder on the disk of a bundle that is made there."""
    with durable.naming(target.parent), durable.scratch(target.parent, ".export-") as scratch:
        yield scratch


def _taken(target: Path) -> str:
    return f"{target} exists already; export to a new folder, then switch the server over."


def describe(
    config: Config, manifest: Manifest, inputs: Inputs, vocabularies: dict[str, Vocabulary]
) -> dict[str, Any]:
    """Describe, for bundle.json, what the graph's inputs mean and what a request looks like."""
    sides = {
        side: [f.name for f in config.features if f.side == side]
        for side in ("user", "item", "context")
    }
    sides["user"] += COUNTS["user"]
    sides["item"] = ["item_id", *sides["item"], *COUNTS["item"]]
    numeric: dict[str, dict[str, Any]] = {
        f.name: {"transform": f.transform, "null": config.data.numeric_null}
        for f in config.features
        if f.kind == "numeric"
    }
    numeric |= {name: {"transform": "count"} for name in COUNT_FEATURES}
    return {
        "schema_version": SCHEMA_VERSION,
        "version": str(manifest.ref),
        "data_date": str(manifest.data_date),
        "exported_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "fields": list(inputs.fields),
        "multi": [list(pair) for pair in inputs.multi],
        "numeric": {name: numeric.get(name, {"transform": "memory"}) for name in inputs.numeric},
        "history_length": inputs.history_length,
        "history_features": list(inputs.history_features),
        "lookback_days": config.data.lookback_days,
        "history_days": config.data.click_days,
        "prior_ctr": manifest.prior_ctr,
        "gap_buckets": GAP_BUCKETS,
        "kinds": {name: _kind(vocabulary) for name, vocabulary in vocabularies.items()},
        "user_side": sides["user"],
        "item_side": sides["item"],
        "context_side": sides["context"],
    }


def _write_tables(
    rows: Rows,
    vocabularies: dict[str, Vocabulary],
    kinds: dict[str, Kind],
    folder: Path,
    precision: Precision,
) -> tuple[dict[str, Table], dict[str, NDArray[np.int32]]]:
    """Write ids and vectors of every vocabulary; the network needs its own tables no longer.

    Returns the tables, and the bundle's row of each row of the vocabularies.
    """
    target, tables, places = folder / "tables", {}, {}
    target.mkdir()
    for name, vocabulary in vocabularies.items():
        order = write_ids(target, name, _ids(vocabulary))
        write_vectors(target, name, order, rows.of(name), precision)
        tables[name] = Table(target, name, kinds[name], rows.parts, precision)
        places[name] = _places(order)
    return tables, places


def _ids(vocabulary: Vocabulary) -> NDArray[np.int64] | list[str]:
    """Return the ids in the order of their rows."""
    if pa.types.is_string(vocabulary.values.type):
        return list(vocabulary.values.to_pylist())
    numbers: NDArray[np.int64] = vocabulary.values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return numbers


def _arguments(
    batch: Batch,
    tables: dict[str, Table],
    places: dict[str, NDArray[np.int32]],
    inputs: Inputs,
    width: int,
) -> tuple[torch.Tensor, ...]:
    """Return what the graph is called with for a batch of the trainer.

    The trainer's rows of the tables are in another order than the bundle's.
    """
    arrays = {name: getattr(batch, name).numpy() for name in INPUTS[:-1]}
    columns = zip(inputs.fields, arrays["ids"].T, strict=True)
    arrays["ids"] = np.stack([places[name][rows] for name, rows in columns], axis=1)
    multi = [name for name, width in inputs.multi for _ in range(width)]
    if multi:
        columns = zip(multi, arrays["multi"].T, strict=True)
        arrays["multi"] = np.stack([places[name][rows] for name, rows in columns], axis=1)
    blocks = np.split(arrays["history"], len(inputs.history_fields), axis=1)
    clicked = zip(inputs.history_fields, blocks, strict=True)
    arrays["history"] = np.concatenate([places[name][rows] for name, rows in clicked], axis=1)
    layout = Layout(inputs.fields, inputs.multi, inputs.history_fields, width)
    made = compact(arrays, tables, layout)
    return tuple(torch.from_numpy(np.ascontiguousarray(made[name])) for name in INPUTS)


def _places(order: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the bundle's row of each row of a vocabulary [rows], from the row at each place."""
    places = np.zeros(len(order) + 1, np.int32)
    places[order] = np.arange(1, len(order) + 1, dtype=np.int32)
    return places


def _rounding(trained: torch.Tensor, served: torch.Tensor, precision: Precision) -> float:
    """Return the largest change of a probability by what the tables are stored as.

    Raises EcdctrError when tables that are not rounded change one.
    """
    worst = float((trained - served).abs().max())
    if not worst <= (TOLERANCE if precision == "float32" else 1.0):
        raise EcdctrError(
            f"The exported graph differs from the network by {worst:.1e}; nothing was written."
        )
    return worst


def _kind(vocabulary: Vocabulary) -> Kind:
    """Return what a request writes for these ids; anything where training saw none."""
    kind = vocabulary.values.type
    if not len(vocabulary.values):
        return "any"
    if pa.types.is_string(kind):
        return "string"
    return "boolean" if pa.types.is_boolean(kind) else "integer"


def _write_self_test(
    served: torch.Tensor, requests: list[dict[str, Any]], users: Table, folder: Path
) -> None:
    """Write what the scorer must answer.

    Users of the vocabulary are named by their row, not by their id.
    """
    rows = users.ids.lookup([request["user_id"] for request in requests]).tolist()
    cases = []
    for request, row, value in zip(requests, rows, served.tolist(), strict=True):
        named = request | ({"user_id": None} if row else {})
        cases.append({"request": named, "user_row": row, "probabilities": [value]})
    (folder / "selftest.json").write_text(json.dumps(cases), "utf-8")
