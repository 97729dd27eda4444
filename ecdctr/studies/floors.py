"""What an afternoon's work reaches: scores that every study shows beside the method's rows.

item_rate: the item's click rate on ads so far. counts: how often this user clicked this item on
either domain, and the item's rate among equals. gbm: gradient boosting on the memory of users and
the counts, trained on the same days of ads as A-CTR.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.config.terms import CONTRACT
from ecdctr.domains import DOMAINS
from ecdctr.errors import ConfigError, StoreError
from ecdctr.evaluation.basis import impressions_digest
from ecdctr.evaluation.evaluate import (
    Scored,
    expected_of,
    metrics_by_cohort,
    users_table,
)
from ecdctr.examples.chunks import drawn_moments
from ecdctr.examples.held_out import prepare_held_out
from ecdctr.examples.prepare import Prepared, prepare
from ecdctr.examples.transforms import COUNT_FEATURES, PRIOR_WEIGHT, prior_ctr
from ecdctr.examples.vocabulary import normalized
from ecdctr.files.duck import parquet
from ecdctr.impressions import contract
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.memory.columns import input_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.config import Config

FLOORS = ("item_rate", "counts", "gbm")
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


def floors(config: Config, date: dt.date) -> list[Floor]:
    """Evaluate every floor with data date `date` on the ads of the day after, as A-CTR is.

    Raises ConfigError without scikit-learn, StoreError without ads on one of these days.
    """
    config = remembering(config)
    names = _inputs(config)
    asked = _Asked.of(config, date, names)
    started = time.perf_counter()
    rate = _smoothed(_clicks_of_items(config, date), asked.rows)
    counting = time.perf_counter() - started
    clicks = _clicks(config, asked.rows) + rate  # rates are below 1: they decide among equal counts
    return [
        asked.floor(config, "item_rate", rate, counting),
        asked.floor(config, "counts", clicks, counting),
        asked.boosted(config, names),
    ]


def quick_floors(config: Config, date: dt.date) -> list[Floor]:
    """Evaluate what costs seconds: the item's rate in A-CTR's window, boosting on its examples.

    Where models have no memory of users, the boosting has none either, so that nothing is prepared
    anew. Raises as `floors` does.
    """
    names = _inputs(config)
    asked = _Asked.of(config, date, names)
    started = time.perf_counter()
    of_items = asked.past.group_by("item_id").aggregate([("click", "sum"), ("click", "count")])
    rate = _smoothed(list(zip(*of_items.to_pydict().values(), strict=True)), asked.rows)
    counting = time.perf_counter() - started
    return [asked.floor(config, "item_rate", rate, counting), asked.boosted(config, names)]


class _Asked(NamedTuple):
    """What floors are made of and judged by: A-CTR's ads, and the next day's.

    `apart` are the next day's held-out ads, of no rows where there are none; `rows` are those of
    the day, and these behind them.
    """

    past: pa.Table
    day: pa.Table
    apart: pa.Table
    rows: pa.Table
    judged_on: str

    @classmethod
    def of(cls, config: Config, date: dt.date, names: list[str]) -> _Asked:
        """Read them; raises StoreError without ads on one of these days."""
        past = _read(config, window(date, config.actr.window_days), names)
        past = past.filter(pa.array(drawn_moments(past, config.actr.ads_share)))
        next_day = date + dt.timedelta(days=1)
        day = _read(config, [next_day], names)
        examples = prepare(config, "ads", [next_day])[0].fingerprint
        held_out = prepare_held_out(config, next_day)
        apart = _columns([held_out], names) if held_out else day.slice(0, 0)
        rows = pa.concat_tables([day, apart], promote_options="permissive")
        return cls(past, day, apart, rows, impressions_digest(config, "ads", next_day, examples))

    def boosted(self, config: Config, names: list[str]) -> Floor:
        """Evaluate gradient boosting on these columns."""
        started = time.perf_counter()
        rows = _matrix(self.rows, names)
        scores = _boosted(config, _matrix(self.past, names), _labels(self.past), rows)
        return self.floor(config, "gbm", scores, time.perf_counter() - started)

    def floor(
        self, config: Config, name: str, scores: NDArray[np.float64], seconds: float
    ) -> Floor:
        """Judge scores by the day's clicks, held-out ads by true probabilities.

        scores: [n], of `rows`: the day's, then those of the held-out ads.
        """
        count = self.day.num_rows
        scored, apart = _scored(self.day, scores[:count]), _scored(self.apart, scores[count:])
        metrics = metrics_by_cohort(config, scored)
        if name == "counts":  # a count is no probability
            metrics = {cohort: _without_probabilities(of) for cohort, of in metrics.items()}
        metrics.pop("oracle", None)
        users = users_table(scored)
        if not len(apart.users):
            return Floor(name, metrics, users, None, seconds, self.judged_on)
        of_scores, expected = expected_of(apart)
        metrics["all"] |= of_scores
        return Floor(name, metrics, users, expected, seconds, self.judged_on)


def remembering(config: Config) -> Config:
    """Return the configuration with memory: floors count whether the models do or not."""
    memory = config.memory.model_copy(update={"enabled": True})
    return config.model_copy(update={"memory": memory})


def _inputs(config: Config) -> list[str]:
    memory = []
    if config.memory.enabled:
        memory = input_names(config.memory_keys, config.memory.windows)
    numeric = [feature.name for feature in config.features if feature.kind == "numeric"]
    return [*memory, *COUNT_FEATURES, *numeric]


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


def _clicks_of_items(config: Config, date: dt.date) -> list[tuple[Any, int, int]]:
    """Count clicks and impressions of each item's ads on all days up to `date`, as models read."""
    dates = [one for one in open_impressions(config.data.root).dates("ads") if one <= date]
    files = [day.path for day in prepare(config, "ads", dates, basic=True)]
    query = f"SELECT item_id, sum(click)::BIGINT, count(*) FROM {parquet(files)} GROUP BY ALL"
    with contract.connect(config) as connection:
        return connection.execute(query).fetchall()


def _smoothed(of_items: list[tuple[Any, int, int]], rows: pa.Table) -> NDArray[np.float64]:
    """Return each row's click rate of its item, the mean rate for an item without impressions.

    `of_items` has clicks and impressions of each.
    """
    prior = prior_ctr(sum(one[1] for one in of_items), sum(one[2] for one in of_items))
    rates = {
        item: (clicks + PRIOR_WEIGHT * prior) / (shown + PRIOR_WEIGHT)
        for item, clicks, shown in of_items
    }
    return np.array([rates.get(item, prior) for item in rows["item_id"].to_pylist()])


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
