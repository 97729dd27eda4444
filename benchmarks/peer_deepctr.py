"""DeepCTR-Torch trains on the bench's data; runs in .venv-peers, prints one line of JSON.

See benchmarks/training.py. python peer_deepctr.py FOLDER deepfm|din
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DIN, DeepFM
from sklearn.metrics import log_loss


def read(path: Path, shape: dict[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns as the library wants them, in memory."""
    columns = [*shape["fields"], "click", *(["history"] if shape["history"] else [])]
    table = pq.read_table(path, columns=columns, partitioning=None)
    data = {name: table.column(name).to_numpy() for name in shape["fields"]}
    if shape["history"]:
        flat = table.column("history").combine_chunks().flatten().to_numpy()
        data["hist_item_id"] = flat.reshape(-1, shape["history"])
        data["hist_length"] = (data["hist_item_id"] > 0).sum(1)
    return data, table.column("click").to_numpy().astype(np.float32)


def build(shape: dict[str, Any]) -> Any:
    """Return the network of the shape."""
    dim, hidden = shape["dim"], tuple(shape["hidden"])
    columns: list[Any] = [
        SparseFeat(name, rows, embedding_dim=dim) for name, rows in shape["fields"].items()
    ]
    common = {
        "dnn_hidden_units": hidden,
        "dnn_use_bn": True,
        "l2_reg_embedding": 0,
        "init_std": 0.01,
    }
    if not shape["history"]:
        return DeepFM(columns, columns, l2_reg_linear=0, **common)
    items = SparseFeat(
        "hist_item_id", shape["fields"]["item_id"], embedding_dim=dim, embedding_name="item_id"
    )
    columns.append(VarLenSparseFeat(items, maxlen=shape["history"], length_name="hist_length"))
    return DIN(columns, ["item_id"], att_hidden_size=(64,), **common)


def main() -> None:
    """Train one epoch, score the test rows."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    shape = json.loads((folder / f"{name}.json").read_text())
    torch.set_num_threads(shape["threads"])
    model = build(shape)
    model.compile(
        torch.optim.Adam(model.parameters(), lr=shape["lr"]), "binary_crossentropy", metrics=[]
    )
    batch = shape["batch_size"]
    began = time.perf_counter()
    data, label = read(folder / "peer-train.parquet", shape)
    model.fit(data, label, batch_size=batch, epochs=1, verbose=0, shuffle=True)
    seconds = time.perf_counter() - began
    data, label = read(folder / "peer-test.parquet", shape)
    loss = log_loss(label, model.predict(data, batch).astype(np.float64).ravel())
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"seconds": seconds, "loss": loss, "parameters": parameters}))


if __name__ == "__main__":
    main()
