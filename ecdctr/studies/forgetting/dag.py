"""The DAG `ecdctr_forgetting`.

Variants backfilled side by side over a range of days, and who forgets what.

    plan_cpm → cpm (a run of ecdctr_cpm each) → plan_days → day: backfill (a run of ecdctr_actr) →
    row → report

It trains on the deployment's own data, in experiments named study.variant.sSEED that fall back to
production for TPM's snapshots; production resolves nothing from them. Waiting for runs is deferred
and holds no worker slot. Each day's row of the matrix is evaluated as soon as the day is trained.
Started again, the study does what is missing. A variant with a failed day is reported as failed,
the others finish.

Airflow allows one run per logical date and one active backfill per DAG, so that variants could not
be backfilled side by side; these runs carry their day in the param data_date, and their run id
names study, variant, seed and day.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param, TriggerRule, task, task_group

from ecdctr.airflow.dates import (
    Settings,
    failing_at_once,
    load_settings,
    refuse_unknown,
    run_name,
)
from ecdctr.airflow.forms import MORE
from ecdctr.airflow.operators import command_task
from ecdctr.config import Config, Level, digest
from ecdctr.config.terms import DEFAULT, STUDY_PATTERN
from ecdctr.errors import ConfigError
from ecdctr.impressions.impressions import open_impressions
from ecdctr.store.manifest import NAME, Ref
from ecdctr.store.places import experiment_of
from ecdctr.store.store import Store
from ecdctr.studies.forgetting.days import study_days

DOC = """**Who forgets what**: variants are backfilled side by side over a range of days, on this
deployment's own data.

| step | |
|---|---|
| `plan_cpm`, `cpm` | missing CPMs that the variants start from, a run of `ecdctr_cpm` each |
| `plan_days`, `day.backfill` | the days that are missing, a run of `ecdctr_actr` each |
| `day.row` | the day's model scored on every day of the range |
| `report` | the study's page under **E-CDCTR → Experiments** |

Experiments are named `STUDY.VARIANT.sSEED`; nothing touches production. Started again, a study does
what is missing.
"""
# runs at once; fewer than the max_active_runs of a DAG, so that a chain's first day always gets in
TOGETHER = 4


class Planned(NamedTuple):
    """One model of the study: a level of a variant and seed on a day."""

    level: Level
    study: str
    variant: str
    seed: int
    date: dt.date
    config: Config

    @property
    def experiment(self) -> str:
        """The namespace of its versions."""
        return experiment_of(self.study, self.variant, self.seed)

    def version(self, store: Store) -> Ref | None:
        """Return its version, if it is there and was made with the configuration as it stands."""
        refs = [ref for ref in store.versions(self.experiment, self.level) if ref.date == self.date]
        if refs and store.manifest(refs[-1]).config_digest == digest(
            self.config.relevant(self.level)
        ):
            return refs[-1]
        return None

    def run(self, hold_out_every: int, chain_start: dt.date) -> dict[str, Any]:
        """Return the arguments of the operator that starts its run."""
        conf = {
            "data_date": str(self.date),
            "experiment": self.experiment,
            "variant": self.variant,
            "seed": self.seed,
        }
        if self.level == "actr":
            conf["hold_out_every"] = hold_out_every
        if self.config.chained(self.level):
            conf["chain_start"] = str(chain_start)
        return {"trigger_run_id": run_name(self.experiment, self.date), "conf": conf}


class StudyForm(NamedTuple):
    """A study as its form says; `of` refuses what cannot be done."""

    settings: Settings
    study: str
    dates: list[dt.date]
    variants: list[str]
    seeds: list[int]
    hold_out_every: int

    @classmethod
    def of(cls, params: dict[str, Any]) -> StudyForm:
        """Read the form; raises ConfigError for days without ads, or variants without snapshots."""
        settings = load_settings()
        first, last = (dt.date.fromisoformat(params[name]) for name in ("from_date", "to_date"))
        dates = study_days(first, last)
        delivered = open_impressions(settings.config.data.root).dates("ads")
        missing = [
            str(date) for date in [*dates, last + dt.timedelta(days=1)] if date not in delivered
        ]
        if missing:
            raise ConfigError(
                f"No ads of {', '.join(missing[:5])} under {settings.config.data.root}; a study "
                "needs its days and the day after the last. Choose other dates."
            )
        seeds = [int(seed) for seed in params["seeds"].split(",")]
        asked = cls(
            settings,
            params["study"],
            dates,
            list(params["variants"]),
            seeds,
            params["hold_out_every"],
        )
        for name in asked.variants:
            asked.check(name)
        return asked

    def check(self, variant: str) -> None:
        """Refuse a snapshot or an experiment name that cannot be."""
        if not NAME.fullmatch(experiment_of(self.study, variant, max(self.seeds))):
            raise ConfigError(
                f"Study '{self.study}' with variant '{variant}' is too long a name; shorten it."
            )
        snapshots = self.settings.config.with_variant(variant).snapshots
        if snapshots.count and not Store(self.settings.store_path).resolve(
            "tpm", snapshots.needed(self.dates[0])
        ):
            raise ConfigError(
                f"Variant '{variant}' needs a TPM snapshot of {snapshots.needed(self.dates[0])} or "
                "before, production has none; run ecdctr_tpm for such a date first, or choose "
                "later dates."
            )

    def models(self, level: Level) -> list[Planned]:
        """Return the models of a level, all variants of a day before the next day."""
        planned = []
        for date in self.dates:
            for variant in self.variants:
                for seed in self.seeds:
                    held_out = self.hold_out_every if level == "actr" else None
                    config = self.settings.config.with_variant(variant).with_overrides(
                        seed, held_out
                    )
                    if level == "actr" or _takes_cpm(config, date == self.dates[0]):
                        planned.append(Planned(level, self.study, variant, seed, date, config))
        return planned

    def missing_cpm(self) -> list[Planned]:
        """Return the CPMs that are not in the store yet."""
        store = Store(self.settings.store_path)
        return [model for model in self.models("cpm") if not model.version(store)]

    def missing_days(self) -> list[Planned]:
        """Return the days of A-CTR whose version or row of the matrix is not in the store yet."""
        from ecdctr.studies.forgetting.basis import (
            row_basis_now,
        )  # reads data, hence not at parsing

        store, missing = Store(self.settings.store_path), []
        basis = row_basis_now(self.settings.config, self.dates, self.hold_out_every).name
        for model in self.models("actr"):
            ref = model.version(store)
            if not ref or store.matrix_row(ref, basis) is None:
                missing.append(model)
        return missing


def build_forgetting_dag() -> DAG:
    """Return the DAG; every task reads the form's params anew."""
    settings = load_settings()
    poke = max(int(settings.config.airflow.poke_seconds), 1)
    matrix = ["--from", "{{ params.from_date }}", "--to", "{{ params.to_date }}"]
    matrix += ["--hold-out-every", "{{ params.hold_out_every }}"]
    with DAG(
        dag_id="ecdctr_forgetting",
        description="Who forgets what: variants backfilled side by side over a range of days",
        doc_md=DOC,
        schedule=None,
        catchup=False,
        max_active_runs=1,
        tags=["ecdctr"],
        params=_params(settings.config),
    ) as dag:

        @task
        def plan_cpm(params: Any = None, dag_run: Any = None) -> list[dict[str, Any]]:
            asked = _or_fail(params, dag_run, settings.config)
            return [
                model.run(asked.hold_out_every, asked.dates[0]) for model in asked.missing_cpm()
            ]

        @task(trigger_rule=TriggerRule.NONE_FAILED)
        def plan_days(params: Any = None, dag_run: Any = None) -> list[dict[str, Any]]:
            asked = _or_fail(params, dag_run, settings.config)
            lost = {model.experiment for model in asked.missing_cpm()}
            for experiment in sorted(lost):
                print(
                    f"{experiment} is left out: the CPM that it needs is missing; see the runs of "
                    "ecdctr_cpm."
                )
            todo = []
            for model in asked.missing_days():
                if model.experiment not in lost:
                    run = model.run(asked.hold_out_every, asked.dates[0])
                    todo.append(run | {"experiment": model.experiment, "date": str(model.date)})
            return todo

        @task_group
        def day(trigger_run_id: str, conf: dict[str, Any], experiment: str, date: str) -> None:
            backfill = TriggerDagRunOperator(
                task_id="backfill",
                trigger_dag_id="ecdctr_actr",
                trigger_run_id=trigger_run_id,
                conf=conf,
                map_index_template="{{ task.trigger_run_id }}",
                **_waiting(poke),
            )
            arguments = ["matrix", "row", "--experiment", experiment, "--date", date, *matrix]
            named = "{{ task.arguments[task.arguments.index('--experiment') + 1] }}"
            named += " {{ task.arguments[task.arguments.index('--date') + 1] }}"
            backfill >> command_task(settings, "row", arguments, map_index_template=named)

        cpm = TriggerDagRunOperator.partial(
            task_id="cpm",
            trigger_dag_id="ecdctr_cpm",
            # A failed pre-training ends its own variant only: plan_days leaves it out
            allowed_states=["success", "failed"],
            failed_states=[],
            map_index_template="{{ task.trigger_run_id }}",
            **_waiting(poke),
        ).expand_kwargs(plan_cpm())
        planned = plan_days()
        arguments = [
            "matrix",
            "report",
            "--variants",
            "{{ params.variants | join(',') }}",
            "--seeds",
        ]
        arguments += ["{{ params.seeds }}", "--name", "{{ params.study }}", *matrix]
        report = command_task(
            settings, "report", arguments, trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
        )
        cpm >> planned >> report
        day.expand_kwargs(planned) >> report
    return dag


def _waiting(poke_seconds: int) -> dict[str, Any]:
    """Start a run, or start it again, and await it without a worker slot."""
    return {
        "logical_date": None,
        "reset_dag_run": True,
        "wait_for_completion": True,
        "deferrable": True,
        "poke_interval": poke_seconds,
        "max_active_tis_per_dagrun": TOGETHER,
        "retries": 0,
    }


def _or_fail(params: dict[str, Any], dag_run: Any, config: Config) -> StudyForm:
    with failing_at_once():
        refuse_unknown(dag_run, _params(config))
        return StudyForm.of(params)


def _takes_cpm(config: Config, first: bool) -> bool:
    """Tell whether A-CTR of a day starts from a CPM: of every day, or of a chain's first one."""
    actr = config.actr
    return (actr.init == "cpm" or actr.source != "none") and (actr.policy == "from_cpm" or first)


def _params(config: Config) -> dict[str, Param]:
    choices = [DEFAULT, *sorted(config.variants)]
    likely: list[str] = [name for name in ("continue_no_tpm", "continue") if name in choices]
    return {
        "study": Param(
            "forgetting",
            type="string",
            pattern=STUDY_PATTERN,
            expected="up to 25 lower-case letters, digits, hyphens",
            title="Study",
            description="Names the results and, with variant and seed, the experiments.",
        ),
        "from_date": Param(type="string", format="date", title="First day"),
        "to_date": Param(type="string", format="date", title="Last day"),
        "variants": Param(
            likely or [DEFAULT],
            type="array",
            items={"type": "string", "enum": choices},
            minItems=1,
            uniqueItems=True,
            title="Variants",
            description=(
                "The first is what the others are compared with; 'default' is the "
                "configuration as it stands."
            ),
        ),
        "seeds": Param(
            "1",
            type="string",
            pattern=r"^\d+(,\d+)*$",
            expected="numbers with commas between, such as 1,2,3",
            title="Seeds",
            section=MORE,
            description="Of the weights of CPM and A-CTR.",
        ),
        "hold_out_every": Param(
            5,
            type="integer",
            minimum=2,
            title="Hold out every",
            section=MORE,
            description="Each n-th impression of ads.",
        ),
    }
