"""What an afternoon's work reaches: scores that every study shows beside the method's rows.

item_rate: the item's click rate on ads so far. counts: how often this user clicked this item on
either domain, and the item's rate among equals. gbm: gradient boosting on the memory of users and
the counts, trained on the same days of ads as A-CTR.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.code import code_digest
from ecdctr.config import digest
from ecdctr.config.terms import CONTRACT
from ecdctr.domains import DOMAINS
from ecdctr.errors import ConfigError, StoreError
from ecdctr.evaluation.basis import impressions_digest
from ecdctr.evaluation.evaluate import Scored, metrics_by_cohort, users_table
from ecdctr.evaluation.expected import expected_metrics, expected_users
from ecdctr.examples.batches import drawn_moments
from ecdctr.examples.held_out import prepare_held_out
from ecdctr.examples.prepare import Prepared, prepare
from ecdctr.examples.transforms import COUNT_FEATURES, PRIOR_WEIGHT, prior_ctr
from ecdctr.examples.vocabulary import normalized
from ecdctr.files import durable
from ecdctr.files.duck import parquet
from ecdctr.impressions import contract
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.memory.columns import input_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.config import Config

FLOORS = ("item_rate", "counts", "gbm")
EVALUATED_BY = (  # where floors and their metrics are defined; days have fingerprints of their own
    "evaluation.basis",
    "evaluation.evaluate",
    "evaluation.expected",
    "evaluation.metrics",
    "examples.batches",
    "examples.transforms",
    "examples.vocabulary",
    "memory.columns",
    "studies.floors",
)
ROUNDS = 300  # of boosting; everything else as scikit-learn has it


class Floor(NamedTuple):
    """A floor on one day: metrics by cohort, and a table of users with their AUC.

    `expected` is such a table of held-out ads, judged by true probabilities; None where there are
    none. `seconds` is what a day of it takes to make from prepared days; `judged_on` a digest of
    the impressions that it was judged by.
    """

    name: str
    metrics: dict[str, dict[str, float]]
    users: pa.Table
    expected: pa.Table | None
    seconds: float
    judged_on: str


def require_boosting() -> None:
    """Raise ConfigError without scikit-learn: better before a study than after hours of it."""
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError("The floor 'gbm' needs scikit-learn: pip install 'ecdctr[studies]'.")


def kept_floors(config: Config, date: dt.date, folder: Path) -> list[Floor]:
    """Return the floors of a data date, kept in a file of `folder` that names what they rest on.

    Raises as `floors` does.
    """
    path = folder / f"{date}-{_basis(config, date)[:20]}.json"
    if path.exists():
        return [_unpacked(one) for one in json.loads(path.read_bytes())]
    made = floors(config, date)
    durable.make_dir(folder)
    durable.replace_text(path, json.dumps([_packed(one) for one in made]))
    return made


def floors(config: Config, date: dt.date) -> list[Floor]:
    """Evaluate every floor with data date `date` on the ads of the day after, as A-CTR is.

    Raises ConfigError without scikit-learn, StoreError without ads on one of these days.
    """
    config = _remembering(config)
    names = _inputs(config)
    past = _read(config, window(date, config.actr.window_days), names)
    past = past.filter(pa.array(drawn_moments(past, config.actr.ads_share)))
    next_day = date + dt.timedelta(days=1)
    day = _read(config, [next_day], names)
    examples = prepare(config, "ads", [next_day])[0].fingerprint
    judged_on = impressions_digest(config, "ads", next_day, examples)
    held_out = prepare_held_out(config, next_day)
    apart = _columns([held_out], names) if held_out else day.slice(0, 0)
    rows = pa.concat_tables([day, apart], promote_options="permissive")
    started = time.perf_counter()
    rate = _item_rates(config, date, rows)
    counting = time.perf_counter() - started
    scores = {
        "item_rate": rate,
        "counts": _clicks(config, rows) + rate,  # rates are below 1: they decide among equal counts
        "gbm": _boosted(config, _matrix(past, names), _labels(past), _matrix(rows, names)),
    }
    boosting = time.perf_counter() - started - counting
    seconds = {"item_rate": counting, "counts": counting, "gbm": boosting}
    count = day.num_rows
    return [
        _floor(
            config,
            name,
            _scored(day, values[:count]),
            _scored(apart, values[count:]),
            seconds[name],
            judged_on,
        )
        for name, values in scores.items()
    ]


def _remembering(config: Config) -> Config:
    """Return the configuration with memory: floors count whether the models do or not."""
    memory = config.memory.model_copy(update={"enabled": True})
    return config.model_copy(update={"memory": memory})


def _basis(config: Config, date: dt.date) -> str:
    """Digest what the floors of a data date rest on: code, settings, and all days that they read.

    Each day's fingerprint knows the days that it looks back on.
    """
    config, next_day = _remembering(config), date + dt.timedelta(days=1)
    until = [one for one in open_impressions(config.data.root).dates("ads") if one <= date]
    read = prepare(config, "ads", [*window(date, config.actr.window_days), next_day])
    counted = prepare(config, "ads", until, basic=True)
    held_out = prepare_held_out(config, next_day)
    days = [day.fingerprint for day in (*read, *counted, *([held_out] if held_out else []))]
    return digest(
        [
            code_digest(["studies.floors"], EVALUATED_BY),
            config.relevant("actr"),
            config.evaluation.low_activity_below,
            days,
        ]
    )


def _packed(floor: Floor) -> dict[str, Any]:
    expected = None if floor.expected is None else floor.expected.to_pydict()
    return floor._asdict() | {"users": floor.users.to_pydict(), "expected": expected}


def _unpacked(packed: dict[str, Any]) -> Floor:
    expected = None if packed["expected"] is None else pa.table(packed["expected"])
    return Floor(**packed | {"users": pa.table(packed["users"]), "expected": expected})


def _floor(
    config: Config, name: str, scored: Scored, apart: Scored, seconds: float, judged_on: str
) -> Floor:
    """Judge a floor by the day's clicks, and by true probabilities where held-out ads have them."""
    metrics = metrics_by_cohort(config, scored)
    if name == "counts":  # a count is no probability
        metrics = {cohort: _without_probabilities(of) for cohort, of in metrics.items()}
    metrics.pop("oracle", None)
    if not len(apart.users):
        return Floor(name, metrics, users_table(scored), None, seconds, judged_on)
    metrics["all"] |= expected_metrics(apart.users, apart.oracle, apart.scores)
    expected = expected_users(apart)
    return Floor(name, metrics, users_table(scored), expected, seconds, judged_on)


def _inputs(config: Config) -> list[str]:
    numeric = [feature.name for feature in config.features if feature.kind == "numeric"]
    return [*input_names(config.memory_keys, config.memory.windows), *COUNT_FEATURES, *numeric]


def _read(config: Config, dates: list[dt.date], names: list[str]) -> pa.Table:
    days = prepare(config, "ads", dates)
    if not days:
        raise StoreError(f"No ads from {dates[0]} to {dates[-1]}; floors cannot be made.")
    return _columns(days, names)


def _columns(days: list[Prepared], names: list[str]) -> pa.Table:
    columns = [*CONTRACT, "user_seen", "item_seen", "oracle_ctr", *names]
    tables = [pq.read_table(day.path, columns=columns, partitioning=None) for day in days]
    return pa.concat_tables(tables, promote_options="permissive")


def _matrix(table: pa.Table, names: list[str]) -> NDArray[np.float32]:
    return np.stack([table[name].to_numpy() for name in names], axis=1).astype(np.float32)


def _labels(table: pa.Table) -> NDArray[np.float32]:
    return np.asarray(table["click"].to_numpy(), np.float32)


def _clicks(config: Config, day: pa.Table) -> NDArray[np.float64]:
    """Return the user's clicks on the item in the longest window, of both domains."""
    longest = config.memory.longest
    logs = [day[f"memory_item_id_{domain}_clicks_{longest}"].to_numpy() for domain in DOMAINS]
    counts: NDArray[np.float64] = np.round(np.expm1(np.asarray(logs, np.float64))).sum(axis=0)
    return counts


def _item_rates(config: Config, date: dt.date, day: pa.Table) -> NDArray[np.float64]:
    """Return the smoothed click rate on ads of each row's item.

    Over all days up to `date` as models read them.
    """
    dates = [one for one in open_impressions(config.data.root).dates("ads") if one <= date]
    files = [day.path for day in prepare(config, "ads", dates, basic=True)]
    query = f"SELECT item_id, sum(click)::BIGINT, count(*) FROM {parquet(files)} GROUP BY ALL"
    with contract.connect(config) as connection:
        rows = connection.execute(query).fetchall()
    prior = prior_ctr(sum(row[1] for row in rows), sum(row[2] for row in rows))
    rates = {
        item: (clicks + PRIOR_WEIGHT * prior) / (shown + PRIOR_WEIGHT)
        for item, clicks, shown in rows
    }
    return np.array([rates.get(item, prior) for item in day["item_id"].to_pylist()])


def _boosted(
    config: Config,
    inputs: NDArray[np.float32],
    labels: NDArray[np.float32],
    rows: NDArray[np.float32],
) -> NDArray[np.float64]:
    require_boosting()
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=ROUNDS, random_state=config.seed)
    scores: NDArray[np.float64] = model.fit(inputs, labels).predict_proba(rows)[:, 1]
    return scores


def _scored(day: pa.Table, scores: NDArray[np.floating]) -> Scored:
    encoded = normalized(day["user_id"]).dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int64)
    others = [day[name].to_numpy() for name in ("oracle_ctr", "user_seen", "item_seen")]
    return Scored("", encoded.dictionary, codes, _labels(day), scores, *others)


def _without_probabilities(metrics: dict[str, float]) -> dict[str, float]:
    ranking = ("impressions", "ctr", "gauc", "auc")
    return {name: value for name, value in metrics.items() if name in ranking}
