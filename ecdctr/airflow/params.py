"""The fields of the forms that start a run: of the levels, of both studies.

`expected` is a keyword that JSON Schema skips and ecdctr/airflow/forms.py reads: what a refusal of
the field says instead of its pattern.
"""

from __future__ import annotations

import re
from typing import Any

from airflow.sdk import Param

from ecdctr.config import Config, Level
from ecdctr.config.studies import (
    ABLATION_ROWS,
    CHAIN_DAYS,
    EVAL_DAYS,
    FORGETTING_VARIANTS,
    HOLD_OUT_EVERY,
    REFRESHED,
    WORLD,
)
from ecdctr.config.terms import DEFAULT, FULL, NAME_PATTERN, PRODUCTION, STUDY_PATTERN

# Airflow folds such a section of a form: what is refused stands above the fields, in sight
MORE = "More parameters"
EXPERIMENTS = "lower-case letters, digits, dots, hyphens"
WORLD_PATTERN = r"^[A-Za-z0-9_./-]+$"


def level_params(level: Level, config: Config) -> dict[str, Param]:
    """Return the fields of a level's form."""
    params = {
        "data_date": _date(
            "Data date",
            "Last day of data to read; empty: the last day that was over when the run's data "
            "interval ended.",
        ),
        "experiment": Param(
            PRODUCTION,
            type="string",
            pattern=NAME_PATTERN,
            expected=EXPERIMENTS,
            title="Experiment",
            description=(
                "Namespace of the versions; what it lacks is resolved from production. In the "
                "backfill form tick 'Override parameters on existing runs', else Airflow leaves "
                "out all of these parameters."
            ),
        ),
        "variant": _variant(
            config,
            "Variant",
            "Named overlay on the configuration; needs an experiment other than production.",
        ),
        "seed": Param(
            None,
            type=["null", "integer"],
            title="Seed",
            section=MORE,
            description="Of the weights; empty: the configuration's.",
        ),
        "force": _switch("Force", "Train again even if the version exists."),
    }
    if level != "tpm":
        params["restart"] = _switch(
            "Restart",
            "Start anew, A-CTR from CPM, where each day would go on from the day before.",
        )
        params["chain_start"] = _date(
            "Chain start",
            "Where each day goes on from the day before: this day starts anew, every later one "
            "waits.",
            section=MORE,
        )
    if level == "actr":
        params["hold_out_every"] = Param(
            None,
            type=["null", "integer"],
            minimum=2,
            title="Hold out every",
            section=MORE,
            description="Keep each n-th impression of ads out of training, for a matrix.",
        )
    return params


def forgetting_params(config: Config) -> dict[str, Param]:
    """Return the fields of the form of ecdctr_forgetting."""
    choices = [DEFAULT, *sorted(config.variants)]
    likely = [name for name in FORGETTING_VARIANTS if name in choices]
    return {
        "study": _study(
            "forgetting", "Names the results and, with variant and seed, the experiments."
        ),
        "from_date": Param(type="string", format="date", title="First day"),
        "to_date": Param(type="string", format="date", title="Last day"),
        "variants": Param(
            likely or [DEFAULT],
            type="array",
            items=_row(choices),
            minItems=1,
            uniqueItems=True,
            title="Variants",
            description=(
                "The first is what the others are compared with; 'default' is the configuration "
                "as it stands. With @7 at its end a variant's CPM is trained every seventh day, "
                "from the first on, instead of daily."
            ),
        ),
        "seeds": _seeds("1", "Of the weights of CPM and A-CTR."),
        "hold_out_every": _count(
            HOLD_OUT_EVERY, "Hold out every", "Each n-th impression of ads.", minimum=2
        ),
    }


def ablation_params(config: Config) -> dict[str, Param]:
    """Return the fields of the form of ecdctr_ablation: the command's options."""
    choices = [FULL, *sorted(config.variants)]
    return {
        "study": _study("ablation", "Names the page; an earlier study of this name is replaced."),
        "rows": Param(
            [row for row in ABLATION_ROWS if row in choices],
            type="array",
            items=_row(choices),
            minItems=1,
            title="Rows",
            description=(
                "Variants to compare; 'full' is the configuration as it stands. With @7 at its "
                "end a variant's CPM is trained every seventh day instead of daily."
            ),
        ),
        "base": _variant(
            config,
            "Base",
            "Variant that every row lies on top of; 'full' is then this variant itself.",
            section=MORE,
        ),
        "seeds": _seeds("1,2,3", "Each gives a world and weights of its own."),
        "world": Param(
            WORLD,
            type="string",
            pattern=WORLD_PATTERN,
            expected="a preset's name, or the path of a YAML file",
            title="World",
            section=MORE,
            description="daily, demo, forgetting, large, purchases, tiny, visits, or a YAML file "
            "where the task runs.",
        ),
        "workers": _count(2, "Processes", "Each trains with its own threads."),
        "eval_days": _count(EVAL_DAYS, "Evaluation days", "The last ones of the world."),
        "chain_days": _count(
            CHAIN_DAYS, "Chain days", "Life of rows that continue day by day.", minimum=0
        ),
    }


def _study(name: str, description: str) -> Param:
    return Param(
        name,
        type="string",
        pattern=STUDY_PATTERN,
        expected="up to 25 lower-case letters, digits, hyphens",
        title="Study",
        description=description,
    )


def _variant(config: Config, title: str, description: str, **more: Any) -> Param:
    return Param(
        DEFAULT,
        type="string",
        enum=[DEFAULT, *sorted(config.variants)],
        title=title,
        description=description,
        **more,
    )


def _row(choices: list[str]) -> dict[str, str]:
    """Return the schema of one row of a study: a variant, or VARIANT@DAYS."""
    return {
        "type": "string",
        "pattern": f"^({'|'.join(map(re.escape, choices))})({REFRESHED})?$",
        "expected": f"one of {', '.join(choices)}, or one of them with @DAYS at its end",
    }


def _seeds(default: str, description: str) -> Param:
    return Param(
        default,
        type="string",
        pattern=r"^\d+(,\d+)*$",
        expected="numbers with commas between, such as 1,2,3",
        title="Seeds",
        section=MORE,
        description=description,
    )


def _count(default: int, title: str, description: str, minimum: int = 1) -> Param:
    return Param(
        default,
        type="integer",
        minimum=minimum,
        title=title,
        section=MORE,
        description=description,
    )


def _switch(title: str, description: str) -> Param:
    return Param(False, type="boolean", title=title, section=MORE, description=description)


def _date(title: str, description: str, **more: Any) -> Param:
    return Param(
        None,
        type=["null", "string"],
        format="date",
        title=title,
        description=description,
        **more,
    )
