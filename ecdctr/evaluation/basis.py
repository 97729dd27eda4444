"""What an evaluation rests on besides the version.

The day's examples and the code that evaluates.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.code import code_digest
from ecdctr.config import DOMAINS, LEVEL_DOMAIN, Config, digest
from ecdctr.config.terms import CONTRACT
from ecdctr.examples.held_out import held_out_fingerprint
from ecdctr.examples.prepare import example_path
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.reading import DeliveredAnew

if TYPE_CHECKING:
    from ecdctr.config import Domain
    from ecdctr.store.manifest import Ref

EVALUATING = (
    "evaluation.basis",
    "evaluation.evaluate",
    "evaluation.expected",
    "evaluation.metrics",
    "examples.admission",
    "examples.batches",
    "examples.chunks",
    "examples.held_out",
    "examples.histories",
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
    held_out: str | None  # fingerprint of a simulated world's held-out ads of the day


@lru_cache(maxsize=1)
def evaluating_code() -> str:
    """Digest the modules that make an evaluation; comments and layout are not in it."""
    return code_digest(["evaluation.evaluate"], EVALUATING)


def impressions_digest(config: Config, domain: Domain, date: dt.date, examples: str) -> str:
    """Digest the impressions that an evaluation on the day's examples rests on.

    Its rows by user, item, moment and click, and the files of the day and of those that it looks
    back on, of both domains. Unlike the examples it is the same for variants that read other
    features of them, or memory. Raises DeliveredAnew where the examples are not made of them.
    """
    impressions = open_impressions(config.data.root)
    days = window(date, config.data.lookback_days + 1)
    files = {f"{one}/{day}": impressions.digest(one, day) for one in DOMAINS for day in days}
    made = example_path(config, domain, date)
    if made.fingerprint != examples:
        raise DeliveredAnew(impressions.where(domain, date))
    rows = pq.read_table(made.path, columns=list(CONTRACT), partitioning=None).combine_chunks()
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, rows.schema.remove_metadata()) as stream:
        stream.write_table(rows.replace_schema_metadata())
    return digest([files, hashlib.sha256(content.getvalue()).hexdigest()])


def basis_now(config: Config, ref: Ref, date: dt.date) -> Basis:
    """Return what an evaluation made now would rest on.

    Reads the days' files to know what is in them.
    """
    domain = LEVEL_DOMAIN[ref.level]
    held_out = held_out_fingerprint(config, date) if domain == "ads" else None
    return basis_of(config, example_path(config, domain, date).fingerprint, held_out)


def basis_of(config: Config, examples: str, held_out: str | None) -> Basis:
    """Return what an evaluation on examples with these fingerprints rests on."""
    return Basis(examples, evaluating_code(), config.evaluation.low_activity_below, held_out)
