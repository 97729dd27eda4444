"""A stored A-CTR version as a bundle: ONNX graph with merged tables, vocabularies, transforms, schema, self-test."""

from __future__ import annotations

import datetime as dt
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from ecdctr.config import Config
from ecdctr.errors import ConfigError, EcdctrError
from ecdctr.examples.batches import Batch, Inputs, encode
from ecdctr.examples.ragged import GAP_BUCKETS
from ecdctr.examples.transforms import COUNT_FEATURES, COUNTS
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.levels.restore import load_network
from ecdctr.serving.bundle import SCHEMA_VERSION, checksums, packed, sealed
from ecdctr.serving.memory import remembering, write_memory, write_tables
from ecdctr.serving.request import Shape
from ecdctr.serving.rules import Kind
from ecdctr.serving.schema import request_schema
from ecdctr.serving.scorer import TOLERANCE, Scorer
from ecdctr.serving.selftest import prepared_cases
from ecdctr.store.manifest import Manifest, Ref
from ecdctr.store.store import Store

INPUTS = ("ids", "multi", "numeric", "history", "gaps")
SETTINGS = (
    "data",
    "features",
    "seed",
    "network",
    "memory",
)  # of a manifest, as far as serving reads them
OPSET = 20


class Probability(nn.Module):
    """The network as a server calls it: ads, probabilities instead of logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        ids: torch.Tensor,
        multi: torch.Tensor,
        numeric: torch.Tensor,
        history: torch.Tensor,
        gaps: torch.Tensor,
    ) -> torch.Tensor:
        """Click probabilities [B]."""
        ads = torch.ones_like(ids[:, 0])
        return torch.sigmoid(
            self.network(Batch(ids, multi, numeric, history, gaps, ads, ads - 1, ads.float()))
        )


def export_bundle(store: Store, ref: Ref, target: Path) -> dict[str, Any]:
    """Write the bundle of a version, prove it with its self-test, then put it in place; returns its description.

    The self-test is made up (ecdctr/serving/selftest.py) and compares with preparation. Raises ConfigError if the
    target exists or the version cannot be served, EcdctrError if the exported graph scores otherwise.
    """
    if ref.level != "actr":
        raise ConfigError(f"{ref} is no ads model; export an A-CTR version.")
    if target.exists():
        raise ConfigError(
            f"{target} exists already; export to a new folder, then switch the server over."
        )
    manifest = store.manifest(ref)
    if manifest.prior_ctr is None:
        raise ConfigError(
            f"{ref} is of an earlier release, which did not store the click-through rate that counts are "
            "smoothed with; train it again (ecdctr train actr --force), then export."
        )
    holder = remembering(store, manifest)
    network, inputs, vocabularies = load_network(store, ref)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as name:
        folder = Path(name) / "bundle"
        folder.mkdir()
        own = Config.model_validate(
            {key: manifest.config[key] for key in SETTINGS if key in manifest.config}
        )
        description = describe(own, manifest, inputs, vocabularies)
        if holder:
            description["memory"] = write_memory(own, store, holder, folder / "memory")
        shape = Shape(description, description["kinds"])
        (folder / "request.schema.json").write_text(
            json.dumps(request_schema(description, shape), indent=1)
        )
        np.savez_compressed(folder / "vocabularies.npz", **_arrays(vocabularies))  # type: ignore[arg-type]
        (folder / "manifest.json").write_bytes((store.path(ref) / "manifest.json").read_bytes())
        cases = prepared_cases(
            own, vocabularies, manifest.data_date, description["prior_ctr"], Path(name)
        )
        if holder:
            place = folder / "selftest_memory"
            description["selftest_memory"] = write_tables(own, cases.tables, cases.until, place)
        batch = encode(cases.examples, inputs, vocabularies)
        probability = Probability(network).eval()
        _write_graphs(probability, batch, folder)
        _write_self_test(probability, batch, cases.requests, vocabularies["user_id"], folder)
        description["files"] = checksums(folder)
        (folder / "bundle.json").write_bytes(sealed(description))
        Scorer(folder)
        os.rename(folder, target)
    return description


def describe(
    config: Config, manifest: Manifest, inputs: Inputs, vocabularies: dict[str, Vocabulary]
) -> dict[str, Any]:
    """bundle.json: what the graph's inputs mean and what a request looks like."""
    sides: dict[str, list[str]] = {side: [f.name for f in config.features if f.side == side] for side in
                                   ("user", "item", "context")}  # fmt: skip
    sides["user"] += COUNTS["user"]
    sides["item"] = ["item_id", *sides["item"], *COUNTS["item"]]
    numeric: dict[str, dict[str, Any]] = {f.name: {"transform": f.transform, "null": config.data.numeric_null} for f in config.features
               if f.kind == "numeric"}  # fmt: skip
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
        "lookback_days": config.data.lookback_days,
        "prior_ctr": manifest.prior_ctr,
        "gap_buckets": GAP_BUCKETS,
        "kinds": {name: _kind(vocabulary) for name, vocabulary in vocabularies.items()},
        "user_side": sides["user"],
        "item_side": sides["item"],
        "context_side": sides["context"],
    }


def _arrays(vocabularies: dict[str, Vocabulary]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, vocabulary in vocabularies.items():
        arrays |= packed(name, vocabulary.values.to_pylist())
    return arrays


def _kind(vocabulary: Vocabulary) -> Kind:
    """What a request writes for these ids; anything where training saw none."""
    kind = vocabulary.values.type
    if not len(vocabulary.values):
        return "any"
    if pa.types.is_string(kind):
        return "string"
    return "boolean" if pa.types.is_boolean(kind) else "integer"


def _write_graphs(probability: nn.Module, batch: Batch, folder: Path) -> None:
    """model.pt2 for runtimes of PyTorch, and model.onnx from the same exported program."""
    arguments = tuple(getattr(batch, name) for name in INPUTS)
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in INPUTS)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        exported = torch.export.export(probability, arguments, dynamic_shapes=shapes)
        worst = float((exported.module()(*arguments) - probability(*arguments)).abs().max())
        if not worst <= TOLERANCE:
            raise EcdctrError(
                f"The exported graph differs from the network by {worst:.1e}; nothing was written."
            )
        torch.export.save(exported, folder / "model.pt2")
        program = torch.onnx.export(
            exported,
            dynamo=True,
            input_names=list(INPUTS),
            output_names=["probability"],
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None  # noqa: S101
        program.save(folder / "model.onnx")


def _write_self_test(
    probability: nn.Module,
    batch: Batch,
    requests: list[dict[str, Any]],
    users: Vocabulary,
    folder: Path,
) -> None:
    """What the scorer must answer; users of the vocabulary are named by their row, not by their id."""
    with torch.inference_mode():
        expected = probability(*(getattr(batch, name) for name in INPUTS)).tolist()
    rows = users.lookup(pa.array([request["user_id"] for request in requests], users.values.type))
    cases = []
    for request, row, value in zip(requests, rows.tolist(), expected, strict=True):
        named = request | ({"user_id": None} if row else {})
        cases.append({"request": named, "user_row": row, "probabilities": [value]})
    (folder / "selftest.json").write_text(json.dumps(cases))
