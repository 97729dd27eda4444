"""What names a result: algorithm and code, settings, data, parents and seed.

The same name, the same weights.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import TYPE_CHECKING

from ecdctr.code import code_digest
from ecdctr.config import LEVELS, Level, digest
from ecdctr.examples.remembered import Remembered
from ecdctr.levels.other_inputs import refuse_other_network
from ecdctr.levels.remembering import holds_memory

if TYPE_CHECKING:
    from ecdctr.levels.request import Days, Plan, Request

# Where learning is defined, and what a version's files are made with. Preparation has fingerprints
# of its own, which enter as those of the days, the memory's tables have one (Remembered); the
# store, progress files and what is said on the way change no weight.
LEARNING = (
    "examples.admission",
    "examples.batches",
    "examples.chunks",
    "examples.histories",
    "examples.ragged",
    "examples.transforms",
    "examples.vocabulary",
    "files.rounding",
    "levels.parents",
    "levels.reading",
    "levels.remembering",
    "levels.restore",
    "levels.run",
    "models",
    "training.graph",
    "training.loop",
    "training.optimizers",
    "training.sharded",
    "training.workers",
)


def fingerprint(request: Request, algorithm: int, plan: Plan, days: Days) -> str:
    """Digest everything that decides the weights of a version.

    Raises ConfigError where the version that it goes on from reads other inputs: nothing has this
    name.
    """
    refuse_other_network(request, plan)
    parents = {
        name: [request.store.manifest(ref).fingerprint for ref in refs]
        for name, refs in sorted(plan.parents.items())
    }
    data = {f"{domain}/{date}": day.fingerprint for (domain, date), day in days.items()}
    settings = request.config.relevant(plan.level)
    code = [algorithm, level_code(plan.level)]
    parts = [code, settings, str(request.date), parents, data, request.restart]
    if holds_memory(request, plan):  # its tables read longer windows
        parts.append(Remembered(request.config).fingerprint(request.date + dt.timedelta(days=1)))
    return digest(parts)


@lru_cache(maxsize=len(LEVELS))
def level_code(level: Level) -> str:
    """Digest the modules that a level learns with; comments and layout are not in it."""
    return code_digest(roots(level), LEARNING)


def roots(level: Level) -> list[str]:
    """Return the modules that a level's training begins in."""
    return [f"levels.{level}", "levels.run", "training.loop"]
