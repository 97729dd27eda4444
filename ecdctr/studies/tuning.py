"""The same effort for every row: as many settings tried, on worlds that no result is read from.

A trial is a variant of the configuration like any other, so that an ablation trains and evaluates
it: trials of a row share its CPM, and a killed search goes on where it was.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ecdctr.config import Config, Level, load_config, merged
from ecdctr.files import durable
from ecdctr.studies.ablation.plan import Study, of_row
from ecdctr.studies.ablation.study import Record, run_study

if TYPE_CHECKING:
    from ecdctr.levels.request import Reporter

Settings = dict[str, Any]


class Trial(NamedTuple):
    """A row with some settings, and its GAUC of each seed and day."""

    row: str
    number: int
    settings: Settings
    gauc: list[float]

    @property
    def mean(self) -> float:
        """Average over seeds and days."""
        return float(np.mean(self.gauc))


def run_tuning(study: Study, level: Level, workers: int, reporter: Reporter) -> list[Trial]:
    """Try settings of a level for all rows.

    Returns the trials, row by row, and writes them as Parquet. Raises ConfigError for an unknown
    row, or a value that a row cannot have, before anything is trained.
    """
    config = load_config(study.config_path)
    trials = {
        _name(row, number): (row, number, settings)
        for row in study.rows
        for number, settings in enumerate(trial_settings(config, row, level))
    }
    overlays = {
        name.partition("@")[0]: merged(config.variants.get(_variant(row), {}), overlay(settings))
        for name, (row, _, settings) in trials.items()
    }
    written = merged(config.model_dump(mode="json"), {"variants": overlays})
    path = study.work / "tuning.yaml"
    durable.replace_text(path, yaml.safe_dump(written, sort_keys=False))
    records, _ = run_study(replace(study, config_path=path, rows=tuple(trials)), workers, reporter)
    tried = [
        Trial(row, n, settings, _gauc(records, name)) for name, (row, n, settings) in trials.items()
    ]
    table = [
        {"row": t.row, "trial": t.number, **t.settings, "gauc": t.mean, "of_each": t.gauc}
        for t in tried
    ]
    columns = list(dict.fromkeys(key for line in table for key in line))
    complete = [{key: line.get(key) for key in columns} for line in table]
    pq.write_table(
        pa.Table.from_pylist(complete), study.work / f"tuning-{study.world.name}.parquet"
    )
    return tried


def trial_settings(config: Config, row: str, level: Level) -> list[Settings]:
    """Return a row's settings as they are, then draws from the space without repetition.

    The same draws for every row. What only this row has is searched together with A-CTR's settings.
    Raises ConfigError for an unknown row, or when a value is not allowed.
    """
    of_this_row = of_row(config, row)
    space = {
        key: values for key, values in config.tuning.space.items() if key.startswith(f"{level}.")
    }
    extra = config.tuning.per_row.get(_variant(row), {}) if level == "actr" else {}
    for key, values in {**space, **extra}.items():
        for value in values:
            of_this_row.with_overlay(
                overlay({key: value}), f"tuning of row '{row}', {key}: {value}"
            )
    whole = of_this_row.model_dump(mode="json")
    present = {key: _get(whole, key) for key in (*space, *extra)}
    count = config.tuning.trials - 1
    extras = itertools.cycle(_draws(extra, config.seed, count))
    draws = [{**drawn, **next(extras)} for drawn in _draws(space, config.seed, count + 1)]
    return [present, *[settings for settings in draws if settings != present][:count]]


def best(trials: list[Trial]) -> dict[str, Trial]:
    """Return each row's trial with the highest mean; the first one wins a tie."""
    rows = dict.fromkeys(trial.row for trial in trials)
    return {row: max((t for t in trials if t.row == row), key=lambda t: t.mean) for row in rows}


def overlay(settings: Settings) -> dict[str, Any]:
    """Return dotted keys as nested sections, the form that a variant has."""
    sections: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        section = sections
        for name in path:
            section = section.setdefault(name, {})
        section[last] = value
    return sections


def tuning_page(trials: list[Trial], command: str) -> str:
    """Return the best settings of each row, all trials, and what to configure, as Markdown."""
    winners = best(trials)
    count = max(trial.number for trial in trials) + 1
    lines = [
        "# What each row was tuned to\n",
        f"Up to {count} settings of each row, drawn from the same values (`tuning` in the "
        "configuration), the first being what it had before. GAUC of next-day ads (by the true "
        "probabilities of held-out ads where the world has some), the mean over "
        f"{len(trials[0].gauc)} evaluations, on worlds that no result is read from. Written by "
        f"`{command}`.\n",
        "| row | as it was | best | its settings |",
        "| --- | --- | --- | --- |",
    ]
    for row, winner in winners.items():
        before = next(t for t in trials if t.row == row)
        lines.append(
            f"| {row} | {before.mean:.4f} | {winner.mean:.4f} | {_text(winner.settings)} |"
        )
    lines += ["\n## All trials\n", "| row | settings | GAUC |", "| --- | --- | --- |"]
    lines += [f"| {t.row} | {_text(t.settings)} | {t.mean:.4f} |" for t in trials]
    chosen = {_variant(row): overlay(winner.settings) for row, winner in winners.items()}
    text = yaml.safe_dump(chosen, default_flow_style=None, sort_keys=False, width=120)
    lines += ["\n## For the configuration\n", "```yaml", text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _draws(space: dict[str, tuple[Any, ...]], seed: int, count: int) -> list[Settings]:
    """Draw `count` different ones of all combinations; all of them if there are no more."""
    combinations = [
        dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())
    ]
    random.Random(seed).shuffle(combinations)  # noqa: S311  # no secret
    return combinations[:count]


def _gauc(records: list[Record], name: str) -> list[float]:
    """Return a trial's GAUC of each seed and day: by true probabilities where ads are held out."""
    return [
        record["gauc" if record.get("expected_gauc") is None else "expected_gauc"]
        for record in records
        if (record["row"], record["cohort"]) == (name, "all")
    ]


def _variant(row: str) -> str:
    return row.partition("@")[0]


def _name(row: str, number: int) -> str:
    """Return the row of a trial: NAME@7 becomes NAME_t3@7."""
    name, at, days = row.partition("@")
    return f"{name}_t{number}{at}{days}"


def _get(whole: dict[str, Any], key: str) -> Any:
    value: Any = whole
    for name in key.split("."):
        value = value[name]
    return value


def _text(settings: Settings) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {value:g}" for key, value in settings.items())
