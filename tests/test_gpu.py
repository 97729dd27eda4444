"""Training on a GPU, where there is one: the same learning, the same weights twice."""

from __future__ import annotations

import datetime as dt

import pytest
import torch

from ecdctr.config.network import BACKBONES
from ecdctr.examples.batches import Batch
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.store.store import Store
from ecdctr.training.graph import RepeatedStep
from ecdctr.training.optimizers import Sizes
from tests.conftest import DATE
from tests.make import changed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def store(config, tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("gpu") / "store")
    train_tpm(Request(config, store, DATE - dt.timedelta(days=7)))  # all days of training know it
    return store


def loss(config, store, name: str, **training: object) -> float:
    outcome = train_cpm(
        Request(changed(config, "cpm", **training), store, DATE, name, name, force=True)
    )
    return outcome.manifest.metrics["train_loss"]


def test_a_gpu_learns_what_a_processor_learns(config, store, monkeypatch):
    on_gpu = loss(config, store, "gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loss(config, store, "processor") == pytest.approx(on_gpu, abs=1e-3)


def test_training_twice_on_a_gpu_gives_the_same_weights(config, store):
    first = train_cpm(Request(config, store, DATE, "first", "first", force=True)).manifest
    second = train_cpm(Request(config, store, DATE, "second", "second", force=True)).manifest
    assert first.files["dense.safetensors"] == second.files["dense.safetensors"]


def digest(config, store, name: str, **sections: dict) -> str:
    for section, values in sections.items():
        config = changed(config, section, **values)
    outcome = train_cpm(Request(config, store, DATE, name, name, force=True))
    return outcome.manifest.files["dense.safetensors"].sha256


def test_a_repeated_step_learns_what_single_steps_learn_to_the_last_bit(config, store, monkeypatch):
    many = {"cpm": {"batch_size": 128, "epochs": 2}}
    recorded = digest(config, store, "recorded", **many)
    monkeypatch.setattr(RepeatedStep, "_record", lambda *_: None)
    assert digest(config, store, "single", **many) == recorded


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("history", [False, True])
def test_a_step_of_every_backbone_is_recorded_and_repeatable(
    config, store, caplog, backbone, history
):
    sections = {
        "network": {"backbone": backbone},
        "snapshots": {"history": history},
        "cpm": {"batch_size": 128},
    }
    name = f"{backbone}{int(history)}"
    first = digest(config, store, name, **sections)
    assert digest(config, store, f"{name}_again", **sections) == first
    assert "cannot be recorded" not in caplog.text


def test_bfloat16_and_compile_learn_the_same_on_a_gpu(config, store):
    plain = loss(config, store, "plain", batch_size=512)
    half = loss(config, store, "half", batch_size=512, precision="bfloat16")
    compiled = loss(config, store, "compiled", batch_size=512, compile=True)
    assert half == pytest.approx(plain, abs=0.01)
    assert compiled == pytest.approx(plain, abs=0.001)


def test_a_step_that_asks_the_gpu_for_a_number_runs_on_unrecorded_and_says_so(caplog):
    seen: list[float] = []

    def learn(batch: Batch, sizes: Sizes) -> torch.Tensor:
        seen.append(batch.label.sum().item())
        return batch.label.sum()

    step = RepeatedStep(learn)
    labels = torch.ones(4, device="cuda")
    batch = Batch(*[labels] * 8)
    losses = [step(batch, Sizes(0.0, [])).item() for _ in range(6)]
    assert losses == [4.0] * 6
    assert "cannot be recorded as a CUDA graph" in caplog.text
