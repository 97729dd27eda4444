"""FuxiCTR trains on the bench's data; runs in .venv-peers, prints one line of JSON.

See benchmarks/training.py and gpu.py.
python peer_fuxictr.py FOLDER deepfm|din|batches|batches-npz [npz|step]

With npz it trains from its default format, arrays in memory, which needs no Ray; with step it
repeats one step on a batch that is on the GPU already.

The networks are put together from FuxiCTR's own layers and trainer, as in its model zoo, which is
not in the package. The DIN shape has its multi-head dot-product attention: cheaper than DIN's own,
and what ecdctr has.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import (
    FactorizationMachine,
    FeatureEmbeddingDict,
    MLP_Block,
    MultiHeadTargetAttention,
)
from fuxictr.pytorch.models import BaseModel
from sklearn.metrics import log_loss

STEPS = 60
GPU = 0 if torch.cuda.is_available() else -1  # as ours: a GPU where there is one


def feature_map(shape: dict[str, Any], folder: Path) -> FeatureMap:
    """Fields, and the click history with the items' table."""
    made = FeatureMap("bench", str(folder))
    for name, rows in shape["fields"].items():
        made.features[name] = {
            "source": "",
            "type": "categorical",
            "padding_idx": 0,
            "vocab_size": rows,
        }
    if shape["history"]:
        made.features["history"] = {
            "source": "", "type": "sequence", "padding_idx": 0,
            "vocab_size": shape["fields"]["item_id"],
            "max_len": shape["history"], "share_embedding": "item_id", "feature_encoder": None,
        }  # fmt: skip
    made.labels, made.default_emb_dim = ["click"], shape["dim"]
    made.num_fields = made.get_num_fields()
    made.set_column_index()
    return made


class Network(BaseModel):
    """DeepFM, or an MLP over fields and attended history."""

    def __init__(self, features: FeatureMap, shape: dict[str, Any], folder: Path) -> None:
        super().__init__(features, gpu=GPU, verbose=0, model_root=str(folder), metrics=["logloss"])
        self.embedding_layer = FeatureEmbeddingDict(features, shape["dim"])
        self.reads_history = bool(shape["history"])
        if self.reads_history:
            self.attention = MultiHeadTargetAttention(shape["dim"], shape["dim"], num_heads=2)
        else:
            self.fm = FactorizationMachine(features)
        self.mlp = MLP_Block(
            input_dim=features.sum_emb_out_dim(),
            output_dim=1,
            hidden_units=shape["hidden"],
            batch_norm=True,
        )
        self.compile("adam", "binary_crossentropy", shape["lr"])
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Probabilities [B, 1]."""
        rows = self.get_inputs(inputs)
        vectors = self.embedding_layer(rows)
        if self.reads_history:
            vectors["history"] = self.attention(
                vectors["item_id"], vectors["history"], rows["history"] > 0
            )
        fields = self.embedding_layer.dict2tensor(vectors)
        logit = self.mlp(fields.flatten(start_dim=1))
        if not self.reads_history:
            logit = logit + self.fm(rows, fields)
        return {"y_pred": self.output_activation(logit)}


def loader(features: FeatureMap, shape: dict[str, Any], path: Path, stage: str) -> Any:
    """Return its loader of a Parquet or an npz file: shuffled for training."""
    options = {
        "batch_size": shape["batch_size"],
        "data_format": path.suffix[1:],
        "shuffle": stage == "train",
    }
    if stage == "test":
        return RankDataLoader(features, stage="test", test_data=str(path), **options)
    return RankDataLoader(features, stage="train", train_data=str(path), **options)[0]


def as_npz(shape: dict[str, Any], path: Path) -> Path:
    """Write a Parquet file as arrays: its default format, which torch's DataLoader reads."""
    table = pq.read_table(path, partitioning=None)
    columns = {name: table.column(name).to_numpy() for name in [*shape["fields"], "click"]}
    history = table.column("history").combine_chunks().flatten().to_numpy()
    if shape["history"]:
        columns["history"] = history.reshape(-1, shape["history"])
    np.savez(path.with_suffix(".npz"), **columns)
    return path.with_suffix(".npz")


def read_batches(loader: Any) -> dict[str, float]:
    """Return seconds and rows of one pass."""
    began = time.perf_counter()
    rows = sum(len(batch["click"]) for batch in loader)
    return {"seconds": time.perf_counter() - began, "rows": rows}


def steps(model: Network, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the median seconds of its step on a batch that is on the GPU."""
    model._max_gradient_norm = 10.0
    model.train()
    batch = {name: values.to(model.device) for name, values in batch.items()}
    seconds = []
    for _ in range(STEPS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.train_step(batch)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return {"seconds": median(seconds)}


def main() -> None:
    """Train one epoch and score the test rows; or only read the batches."""
    folder, name = Path(sys.argv[1]).resolve(), sys.argv[2]
    shape = json.loads((folder / f"{name if name == 'deepfm' else 'din'}.json").read_text())
    torch.set_num_threads(shape["threads"])
    features = feature_map(shape, folder)
    way = "npz" if name == "batches-npz" else sys.argv[3] if len(sys.argv) > 3 else "parquet"

    def reader(stage: str) -> Any:
        path = folder / f"peer-{stage}.parquet"
        return loader(features, shape, path if way == "parquet" else as_npz(shape, path), stage)

    train = reader("train")
    if name == "batches-npz":
        print(json.dumps(read_batches(train)))
        return
    if way == "step":
        print(json.dumps(steps(Network(features, shape, folder), next(iter(train)))))
        return
    test = reader("test")
    for _ in test:  # what Ray does at its first use is not counted
        pass
    if name == "batches":
        print(json.dumps(read_batches(train)))
        return
    model = Network(features, shape, folder)
    model._eval_steps, model._total_steps, model._max_gradient_norm, model._stop_training = (
        10**9,
        0,
        10.0,
        False,
    )
    began = time.perf_counter()
    model.train_epoch(train)
    seconds = time.perf_counter() - began
    label = np.concatenate([batch["click"].numpy() for batch in test])
    loss = log_loss(label, np.asarray(model.predict(test), np.float64))
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"seconds": seconds, "loss": loss, "parameters": parameters}))


if __name__ == "__main__":
    main()
