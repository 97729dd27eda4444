"""E-CDCTR: tri-level asynchronous transfer for cross-domain CTR prediction.

arXiv 2408.16238.

The public names, loaded when they are first used, so that scoring imports no torch (docs/api.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecdctr.config import load_config
    from ecdctr.evaluation.evaluate import evaluate
    from ecdctr.levels import train
    from ecdctr.levels.request import Request
    from ecdctr.serving.scorer import Scorer
    from ecdctr.store.store import Store

__version__ = "0.1.0"
__all__ = ["Request", "Scorer", "Store", "evaluate", "load_config", "train"]

_HOMES = {
    "Request": "ecdctr.levels.request",
    "Scorer": "ecdctr.serving.scorer",
    "Store": "ecdctr.store.store",
    "evaluate": "ecdctr.evaluation.evaluate",
    "load_config": "ecdctr.config",
    "train": "ecdctr.levels",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ecdctr' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
