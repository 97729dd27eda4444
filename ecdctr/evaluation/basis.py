"""What an evaluation rests on besides the version.

The day's examples and the code that evaluates.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from ecdctr.code import code_digest
from ecdctr.config import LEVEL_DOMAIN, Config
from ecdctr.examples.prepare import example_path

if TYPE_CHECKING:
    from ecdctr.store.manifest import Ref

EVALUATING = (
    "evaluation.evaluate",
    "evaluation.metrics",
    "examples.admission",
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


def impressions_digest(users: pa.Table) -> str:
    """Digest what an evaluation judged by, from its users with their impressions and clicks.

    Unlike the examples it is the same for variants that read other features of one day.
    """
    kinds = {"user": pa.string(), "impressions": pa.int64(), "clicks": pa.int64()}
    columns = {name: users[name].cast(kind) for name, kind in kinds.items()}  # however it was kept
    table = pa.table(columns).sort_by("user").combine_chunks()
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, table.schema) as stream:
        stream.write_table(table)
    return hashlib.sha256(content.getvalue()).hexdigest()


def basis_now(config: Config, ref: Ref, date: dt.date) -> Basis:
    """Return what an evaluation made now would rest on.

    Reads the days' files to know what is in them.
    """
    domain = LEVEL_DOMAIN[ref.level]
    return basis_of(config, example_path(config, domain, date).fingerprint)


def basis_of(config: Config, examples: str) -> Basis:
    """Return what an evaluation on examples with this fingerprint rests on."""
    return Basis(examples, evaluating_code(), config.evaluation.low_activity_below)
