"""What an evaluation rests on besides the version.

The day's examples and the code that evaluates.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ecdctr.code import code_digest
from ecdctr.config import LEVEL_DOMAIN, Config
from ecdctr.examples.prepare import example_path

if TYPE_CHECKING:
    from ecdctr.store.manifest import Ref

EVALUATING = (
    "evaluation.evaluate",
    "evaluation.metrics",
    "examples.batches",
    "examples.ragged",
    "examples.transforms",
    "examples.vocabulary",
    "files.rounding",
    "levels.parents",
    "levels.restore",
    "memory.columns",
    "models",
)


class Basis(NamedTuple):
    """What an evaluation rests on besides the version.

    Results with another basis are never compared.
    """

    # fingerprint of the day's examples: the day, what it looks back on, and how it is prepared
    examples: str
    code: str  # digest of the code that evaluates
    low_activity_below: int  # what the cohort of that name means


@lru_cache(maxsize=1)
def evaluating_code() -> str:
    """Digest the modules that make an evaluation; comments and layout are not in it."""
    return code_digest(["evaluation.evaluate"], EVALUATING)


def basis_now(config: Config, ref: Ref, date: dt.date) -> Basis:
    """Return what an evaluation made now would rest on.

    Reads the days' files to know what is in them.
    """
    domain = LEVEL_DOMAIN[ref.level]
    return basis_of(config, example_path(config, domain, date).fingerprint)


def basis_of(config: Config, examples: str) -> Basis:
    """Return what an evaluation on examples with this fingerprint rests on."""
    return Basis(examples, evaluating_code(), config.evaluation.low_activity_below)
