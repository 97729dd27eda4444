"""Training on a GPU, where there is one: the same learning, the same weights twice."""

from __future__ import annotations

import pytest
import torch

from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import changed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def store(config, tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("gpu") / "store")
    train_tpm(Request(config, store, DATE))
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


def test_bfloat16_and_compile_learn_the_same_on_a_gpu(config, store):
    plain = loss(config, store, "plain")
    assert loss(config, store, "half", precision="bfloat16") == pytest.approx(plain, abs=0.01)
    assert loss(config, store, "compiled", compile=True, batch_size=512) == pytest.approx(
        plain, abs=0.02
    )
