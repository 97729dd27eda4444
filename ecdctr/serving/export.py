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
import pyarrow.parquet as pq
import torch
from torch import nn

from ecdctr.config import Config
from ecdctr.errors import ConfigError, EcdctrError
from ecdctr.examples.batches import Batch, Inputs, Part, encode, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.examples.ragged import GAP_BUCKETS
from ecdctr.examples.transforms import COUNT_FEATURES
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.levels.restore import load_network
from ecdctr.serving.schema import request_schema
from ecdctr.serving.scorer import SCHEMA_VERSION, TOLERANCE, Scorer
from ecdctr.store.manifest import Manifest, Ref
from ecdctr.store.store import Store

INPUTS = ("ids", "multi", "numeric", "history", "gaps")
SELF_TEST_ROWS = 64
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
            self.network(Batch(ids, multi, numeric, history, gaps, ads, ads.float()))
        )


def export_bundle(config: Config, store: Store, ref: Ref, target: Path) -> dict[str, Any]:
    """Write the bundle of a version, prove it with its self-test, then put it in place; returns its description.

    The self-test are real impressions of the version's last day, some with unseen and missing values. Raises
    ConfigError if the target exists or the version is no A-CTR, EcdctrError if the exported graph scores otherwise.
    """
    if ref.level != "actr":
        raise ConfigError(f"{ref} is no ads model; export an A-CTR version.")
    if target.exists():
        raise ConfigError(
            f"{target} exists already; export to a new folder, then switch the server over."
        )
    manifest = store.manifest(ref)
    network, inputs, vocabularies = load_network(store, ref)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as name:
        folder = Path(name) / "bundle"
        folder.mkdir()
        own = Config.model_validate(
            {key: manifest.config[key] for key in ("data", "features", "seed", "network")}
        )
        description = describe(own, manifest, inputs, vocabularies)
        (folder / "bundle.json").write_text(json.dumps(description, indent=1))
        strings = [
            name
            for name, vocabulary in vocabularies.items()
            if pa.types.is_string(vocabulary.values.type)
        ]
        (folder / "request.schema.json").write_text(
            json.dumps(request_schema(description, strings), indent=1)
        )
        np.savez_compressed(folder / "vocabularies.npz", **_arrays(vocabularies))  # type: ignore[arg-type]
        (folder / "manifest.json").write_bytes((store.path(ref) / "manifest.json").read_bytes())
        examples = _examples(config, manifest.window_end)
        probability = Probability(network).eval()
        _write_graphs(probability, encode(examples, inputs, vocabularies), folder)
        _write_self_test(own, probability, inputs, vocabularies, examples, folder)
        Scorer(folder)
        os.rename(folder, target)
    return description


def describe(
    config: Config, manifest: Manifest, inputs: Inputs, vocabularies: dict[str, Vocabulary]
) -> dict[str, Any]:
    """bundle.json: what the graph's inputs mean and what a request looks like."""
    sides: dict[str, list[str]] = {side: [f.name for f in config.features if f.side == side] for side in
                                   ("user", "item", "context")}  # fmt: skip
    sides["user"] += [name for name in COUNT_FEATURES if name.startswith("user_")]
    sides["item"] = [
        "item_id",
        *sides["item"],
        *(name for name in COUNT_FEATURES if name.startswith("item_")),
    ]
    numeric = {f.name: {"transform": f.transform, "null": config.data.numeric_null} for f in config.features
               if f.kind == "numeric"}  # fmt: skip
    for name in COUNT_FEATURES:
        numeric[name] = {
            "transform": "log1p" if name.endswith("impressions") else "identity",
            "null": 0.0,
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "version": str(manifest.ref),
        "data_date": str(manifest.data_date),
        "exported_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "fields": list(inputs.fields),
        "multi": [list(pair) for pair in inputs.multi],
        "numeric": {name: numeric[name] for name in inputs.numeric},
        "history_length": inputs.history_length,
        "gap_buckets": GAP_BUCKETS,
        "vocabularies": list(vocabularies),
        "user_side": sides["user"],
        "item_side": sides["item"],
        "context_side": sides["context"],
    }


def _arrays(vocabularies: dict[str, Vocabulary]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, vocabulary in vocabularies.items():
        values = vocabulary.values.to_numpy(zero_copy_only=False)
        values = values.astype(np.int64) if values.dtype.kind == "i" else values.astype(np.str_)
        order = np.argsort(values, kind="stable")
        arrays[f"{name}.ids"], arrays[f"{name}.rows"] = values[order], (order + 1).astype(np.int32)
    return arrays


def _examples(config: Config, date: dt.date) -> Any:
    day = prepare(config, "ads", [date])[0]
    return next(
        read_chunks([Part(day.path, "ads")], None, pq.read_metadata(day.path).num_rows)
    ).slice(0, SELF_TEST_ROWS)


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
    config: Config,
    probability: nn.Module,
    inputs: Inputs,
    vocabularies: dict[str, Vocabulary],
    examples: Any,
    folder: Path,
) -> None:
    """Real impressions as requests, each third with an item, each fifth with features that training never saw."""
    with torch.inference_mode():
        batch = encode(examples, inputs, vocabularies)
        for column, name in enumerate(inputs.fields):
            if name == "item_id":
                batch.ids[::3, column] = 0
            elif name not in ("user_id", "hour"):
                batch.ids[::5, column] = 0
        expected = probability(*(getattr(batch, name) for name in INPUTS)).numpy()
    requests = []
    for i, row in enumerate(examples.to_pylist()):
        request = request_of(config, row)
        if i % 3 == 0:
            request["candidates"][0]["item_id"] = (
                "never seen" if isinstance(row["item_id"], str) else -1
            )
        if i % 5 == 0:
            for part in (request["user"], request["context"], request["candidates"][0]):
                for feature in config.features:
                    if feature.kind == "categorical":
                        part.pop(feature.name, None)
        requests.append(request)
    content = {"requests": requests, "probabilities": [[float(value)] for value in expected]}
    (folder / "selftest.json").write_text(json.dumps(content))


def request_of(config: Config, example: dict[str, Any]) -> dict[str, Any]:
    """A prepared example as a request of one candidate: the inverse of preparation."""
    ts = example["ts"].timestamp()

    def features(side: str) -> dict[str, Any]:
        found = {}
        for feature in config.features:
            if feature.side == side and example[feature.name] is not None:
                value = example[feature.name]
                found[feature.name] = (
                    float(np.expm1(value)) if feature.transform == "log1p" else value
                )
        return found

    counts = {
        name: float(np.expm1(example[name])) if name.endswith("impressions") else example[name]
        for name in COUNT_FEATURES
    }
    clicks = zip(example["history"], example["history_gap"], strict=True)
    return {
        "ts": ts,
        "user_id": example["user_id"],
        "user": features("user")
        | {name: value for name, value in counts.items() if name.startswith("user_")},
        "context": features("context"),
        "history": [{"item_id": item, "ts": ts - gap} for item, gap in clicks],
        "candidates": [
            {"item_id": example["item_id"]}
            | features("item")
            | {name: value for name, value in counts.items() if name.startswith("item_")}
        ],
    }
