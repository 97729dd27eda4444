"""What the tests of serving share."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecdctr.serving.export import export_bundle
from ecdctr.store.store import Store
from tests.conftest import DATE, once


@pytest.fixture(scope="session")
def shipped(trained: Path, shared: Path) -> Path:
    """Return the bundle of the run's A-CTR; whoever changes it takes a copy."""

    def make(folder: Path) -> None:
        store = Store(trained)
        export_bundle(store, store.require("actr", DATE), folder)

    return once(shared / "bundle", make)
