"""DeepFM and DIN shapes from Parquet on disk.

Ecdctr, FuxiCTR and DeepCTR-Torch, one epoch each, in turns. All read the same impressions, with the
same fields, widths, batch size, learning rate (Adam) and number of threads, and are scored on the
same test rows. The peers live in an environment of their own (.venv-peers). Their files hold rows
of embedding tables; ours hold hashed ids, which are looked up in the vocabularies while training,
as in production.

python -m benchmarks.training [ours NAME PRECISION | ours batches]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.common import RESULTS, ROOT, Row, Timing, json_of, report
from benchmarks.examples import write_examples
from ecdctr.config import Config
from ecdctr.examples.batches import Cut, Inputs, encode, training_batches
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.models.network import CtrNet
from ecdctr.training.loop import Job, fit
from ecdctr.training.precision import multiplies_bfloat16

FOLDER, PEERS = RESULTS / "training", ROOT / ".venv-peers"
TRAIN, TEST, HISTORY, REPEATS = 600_000, 100_000, 20, 5
# ids of user, item and 13 more fields; the first row of a table is for unknown ids
FIELDS = {"user_id": 60_000, "item_id": 12_000} | {f"field_{k}": 4 * 2**k for k in range(13)}
COMMON = {
    "fields": FIELDS,
    "dim": 16,
    "hidden": [256, 128, 64],
    "batch_size": 4096,
    "lr": 1e-3,
    "threads": 2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "deepfm": {**COMMON, "history": 0},
    "din": {**COMMON, "history": HISTORY},
}
WORST_LOSS_GAP = 0.005
PRECISIONS = {"ecdctr": "float32", "ecdctr bfloat16": "bfloat16"}
# those that this machine has products for: without, torch takes eight times as long
HERE = {
    who: precision
    for who, precision in PRECISIONS.items()
    if precision == "float32" or multiplies_bfloat16()
}


def draw(rows: int, seed: int) -> dict[str, NDArray]:
    """Return rows of tables (from 1) by long tails, and clicks by fields and history."""
    world, rng = np.random.default_rng(0), np.random.default_rng(seed)
    columns: dict[str, NDArray] = {}
    logit = np.full(rows, -1.5)
    for name, count in FIELDS.items():
        columns[name] = 1 + (rng.random(rows) ** 2 * (count - 1)).astype(np.int64)
        logit += (world.standard_normal(count) * 0.35)[columns[name]]
    taste = world.standard_normal((FIELDS["item_id"], 4))
    length = rng.integers(0, HISTORY + 1, rows)
    history = 1 + (rng.random((rows, HISTORY)) ** 2 * (FIELDS["item_id"] - 1)).astype(np.int64)
    columns["history"] = np.where(np.arange(HISTORY) < length[:, None], history, 0)
    near = (taste[columns["history"]] * taste[columns["item_id"]][:, None]).sum(2) * (
        columns["history"] > 0
    )
    logit += near.sum(1) / np.maximum(length, 1)
    columns["click"] = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    return columns


def hashed(rows: NDArray) -> NDArray[np.int64]:
    """Return ids as they come from a log: 64 bits, no order."""
    return (rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)


def write() -> None:
    """Write the impressions twice: for the peers by table row, for ours by id."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, shape in SHAPES.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(shape))
    for part, rows, seed in (("train", TRAIN, 1), ("test", TEST, 2)):
        columns = draw(rows, seed)
        history = columns.pop("history")
        fixed = pa.FixedSizeListArray.from_arrays(history.ravel(), HISTORY)
        pq.write_table(
            pa.table({**columns, "history": fixed.cast(pa.list_(pa.int64()))}),
            FOLDER / f"peer-{part}.parquet",
        )
        kept = history > 0
        ours = {name: hashed(columns[name]) for name in FIELDS} | {"click": columns["click"]}
        write_examples(FOLDER / f"{part}.parquet", ours, hashed(history[kept]), kept.sum(1))


def prepared(name: str, precision: str = "float32") -> tuple[Config, Inputs, dict[str, Vocabulary]]:
    """Return configuration, inputs and vocabularies of a shape."""
    shape = SHAPES[name]
    network = {"embedding_dim": shape["dim"], "hidden": shape["hidden"]}
    network |= (
        {"backbone": "mlp"} if shape["history"] else {"backbone": "deepfm", "history": "none"}
    )
    training = {"batch_size": shape["batch_size"], "threads": shape["threads"]}
    training |= {"lr_embedding": shape["lr"], "lr_dense": shape["lr"], "precision": precision}
    config = Config.model_validate({"network": network, "cpm": training, "snapshots": {"count": 0}})
    inputs = Inputs(tuple(FIELDS), (), (), shape["history"])
    ids = {
        name: Vocabulary(pa.array(hashed(np.arange(1, count)))) for name, count in FIELDS.items()
    }
    return config, inputs, ids


def ours(name: str, precision: str) -> dict[str, float]:
    """Return one epoch, then the loss on the test rows."""
    from sklearn.metrics import log_loss  # here: a test of every run loads this module

    config, inputs, vocabularies = prepared(name, precision)
    model = CtrNet(config, inputs, {field: v.rows for field, v in vocabularies.items()}, seed=1)
    parts = [Part(FOLDER / "train.parquet", "ads")]
    done = fit(Job(model, config.cpm, inputs, vocabularies, parts, seed=1))
    labels, scores, device = [], [], next(model.parameters()).device
    with torch.inference_mode():
        for table in read_chunks([Part(FOLDER / "test.parquet", "ads")], inputs.columns, 10_000):
            batch = encode(table, inputs, vocabularies).to(device)
            labels.append(batch.label.cpu().numpy())
            scores.append(torch.sigmoid(model(batch)).cpu().numpy())
    loss = log_loss(np.concatenate(labels), np.concatenate(scores).astype(np.float64))
    parameters = sum(p.numel() for p in model.parameters())
    assert done.samples == TRAIN
    return {"seconds": done.seconds, "loss": loss, "parameters": parameters}


def batches() -> dict[str, float]:
    """Read the DIN shape's batches as training does, without training."""
    config, inputs, vocabularies = prepared("din")
    parts, settings = [Part(FOLDER / "train.parquet", "ads")], config.cpm
    began = time.perf_counter()
    made = training_batches(
        parts, inputs, vocabularies, Cut(settings.batch_size, settings.chunk_rows, seed=1)
    )
    rows = sum(map(len, made))
    return {"seconds": time.perf_counter() - began, "rows": rows}


def install_peers() -> None:
    """FuxiCTR and DeepCTR-Torch in .venv-peers, once, unless they are where we are."""
    if find_spec("fuxictr"):
        return
    listed = ROOT / "benchmarks" / "peers.txt"
    stamp = PEERS / ".installed"
    if stamp.exists() and stamp.read_text() == listed.read_text():
        return
    print("Installing the peers into .venv-peers (once) ...", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    pip = [
        str(PEERS / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "-r", str(listed)], check=True)
    stamp.write_text(listed.read_text())


def run(who: str, name: str) -> dict[str, float]:
    """Return one measurement in a process of its own."""
    if who in PRECISIONS:
        command = [sys.executable, "-m", "benchmarks.training", "ours", name, PRECISIONS[who]]
    else:
        python = sys.executable if find_spec("fuxictr") else str(PEERS / "bin" / "python")
        peer, *way = who.split()
        command = [python, str(ROOT / "benchmarks" / f"peer_{peer}.py"), str(FOLDER), name, *way]
    return json_of(command)


def compare(name: str, people: list[str], repeats: int) -> dict[str, list[dict[str, float]]]:
    """Return all in turns."""
    runs_of: dict[str, list[dict[str, float]]] = {who: [] for who in people}
    for _ in range(repeats):
        for who in people:
            runs_of[who].append(run(who, name))
            print(name, who, runs_of[who][-1], file=sys.stderr)
    return runs_of


def rows_of(name: str, runs_of: dict[str, list[dict[str, float]]]) -> list[Row]:
    """Ours, in both precisions, against each peer.

    Refuses a comparison in which our loss is worse than noise.
    """
    seconds = {who: Timing([run["seconds"] for run in runs]) for who, runs in runs_of.items()}
    losses = {who: median(run["loss"] for run in runs) for who, runs in runs_of.items()}
    rows = []
    for ours in (who for who in PRECISIONS if who in runs_of):
        precision = PRECISIONS[ours]
        for who in runs_of.keys() - PRECISIONS.keys():
            if losses[ours] > losses[who] + WORST_LOSS_GAP:
                raise SystemExit(
                    f"{name}: {ours} has loss {losses[ours]:.4f}, {who} {losses[who]:.4f}: not the "
                    "same result"
                )
            parameters = runs_of[who][0]["parameters"] / runs_of[ours][0]["parameters"]
            against = (
                f"{who}, loss {losses[who]:.4f} (ours {losses[ours]:.4f}), {parameters:.2f} "
                "of our parameters"
            )
            ratio = seconds[who].median / seconds[ours].median
            work = f"{name}, {precision}: {TRAIN:,} rows from Parquet, one epoch"
            rows.append(Row(work, against, str(seconds[ours]), str(seconds[who]), ratio, 3))
    return rows


def main() -> None:
    """Write the data, install the peers, measure."""
    install_peers()
    write()
    rows = []
    for name in SHAPES:
        rows += rows_of(name, compare(name, [*HERE, "fuxictr", "deepctr"], REPEATS))
    report("training", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        print(json.dumps(batches() if sys.argv[2] == "batches" else ours(*sys.argv[2:])))
    else:
        main()
