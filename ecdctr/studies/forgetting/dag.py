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

from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, BaseOperator, TriggerRule, XComArg, task, task_group

from ecdctr.airflow.dates import Settings, failing_at_once, load_settings, refuse_unknown
from ecdctr.airflow.operators import command_task
from ecdctr.airflow.params import forgetting_params
from ecdctr.config import Config
from ecdctr.config.terms import dag_of
from ecdctr.studies.forgetting.form import StudyForm

DOC = """**Who forgets what**: variants are backfilled side by side over a range of days, on this
deployment's own data.

| step | |
|---|---|
| `plan_cpm`, `cpm` | missing CPMs that the variants start from, a run of `ecdctr_cpm` each |
| `plan_days`, `day.backfill` | the days that are missing, a run of `ecdctr_actr` each |
| `day.row` | the day's model scored on every day of the range |
| `report` | the study's page under **E-CDCTR → Experiments** |

Experiments are named `STUDY.VARIANT.sSEED` (`VARIANT@7` is `VARIANT-every-7`); nothing touches
production. Started again, a study does
what is missing.
"""
# Days and held-out ads of the matrix, as options of `ecdctr matrix`
MATRIX = ["--from", "{{ params.from_date }}", "--to", "{{ params.to_date }}"]
MATRIX += ["--hold-out-every", "{{ params.hold_out_every }}"]
# Runs at once; fewer than the max_active_runs of a DAG, so that a chain's first day always gets in
TOGETHER = 4


def build_forgetting_dag() -> DAG:
    """Return the DAG; every task reads the form's params anew."""
    settings = load_settings()
    with DAG(
        dag_id=dag_of("forgetting"),
        description="Who forgets what: variants backfilled side by side over a range of days",
        doc_md=DOC,
        schedule=None,
        catchup=False,
        max_active_runs=1,
        tags=["ecdctr"],
        params=forgetting_params(settings.config),
    ) as dag:
        planned = _plan_days(settings)
        report = _report(settings)
        _add_cpm(settings, planned)
        _add_days(settings, planned, report)
        planned >> report
    return dag


def _add_cpm(settings: Settings, then: XComArg) -> None:
    """Add plan_cpm → cpm before the days: a run of ecdctr_cpm for each that is missing."""

    @task
    def plan_cpm(params: Any = None, dag_run: Any = None) -> list[dict[str, Any]]:
        asked = _or_fail(params, dag_run, settings.config)
        return [model.run(asked.hold_out_every, asked.dates[0]) for model in asked.missing_cpm()]

    runs = TriggerDagRunOperator.partial(
        task_id="cpm",
        trigger_dag_id=dag_of("cpm"),
        # A failed pre-training ends its own variant only: plan_days leaves it out
        allowed_states=["success", "failed"],
        failed_states=[],
        map_index_template="{{ task.trigger_run_id }}",
        **_waiting(settings),
    ).expand_kwargs(plan_cpm())
    runs >> then


def _plan_days(settings: Settings) -> XComArg:
    """Add plan_days: the runs of ecdctr_actr that are missing, variants without a CPM left out."""

    @task(trigger_rule=TriggerRule.NONE_FAILED)
    def plan_days(params: Any = None, dag_run: Any = None) -> list[dict[str, Any]]:
        asked = _or_fail(params, dag_run, settings.config)
        lost = {model.experiment for model in asked.missing_cpm()}
        for experiment in sorted(lost):
            print(
                f"{experiment} is left out: the CPM that it needs is missing; see the runs of "
                f"{dag_of('cpm')}."
            )
        todo = []
        for model in asked.missing_days():
            if model.experiment not in lost:
                run = model.run(asked.hold_out_every, asked.dates[0])
                todo.append(run | {"experiment": model.experiment, "date": str(model.date)})
        return todo

    return plan_days()


def _add_days(settings: Settings, planned: XComArg, then: BaseOperator) -> None:
    """Add day: backfill → row for each planned day, before the report."""

    @task_group
    def day(trigger_run_id: str, conf: dict[str, Any], experiment: str, date: str) -> None:
        backfill = TriggerDagRunOperator(
            task_id="backfill",
            trigger_dag_id=dag_of("actr"),
            trigger_run_id=trigger_run_id,
            conf=conf,
            map_index_template="{{ task.trigger_run_id }}",
            **_waiting(settings),
        )
        arguments = ["matrix", "row", "--experiment", experiment, "--date", date, *MATRIX]
        named = "{{ task.arguments[task.arguments.index('--experiment') + 1] }}"
        named += " {{ task.arguments[task.arguments.index('--date') + 1] }}"
        backfill >> command_task(settings, "row", arguments, map_index_template=named)

    day.expand_kwargs(planned) >> then


def _report(settings: Settings) -> BaseOperator:
    """Add report, which is made of the variants that came through."""
    arguments = ["matrix", "report", "--variants", "{{ params.variants | join(',') }}"]
    arguments += ["--seeds", "{{ params.seeds }}", "--name", "{{ params.study }}", *MATRIX]
    return command_task(
        settings, "report", arguments, trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
    )


def _waiting(settings: Settings) -> dict[str, Any]:
    """Start a run, or start it again, and await it without a worker slot."""
    return {
        "logical_date": None,
        "reset_dag_run": True,
        "wait_for_completion": True,
        "deferrable": True,
        "poke_interval": max(int(settings.config.airflow.poke_seconds), 1),
        "max_active_tis_per_dagrun": TOGETHER,
        "retries": 0,
    }


def _or_fail(params: dict[str, Any], dag_run: Any, config: Config) -> StudyForm:
    with failing_at_once():
        refuse_unknown(dag_run, forgetting_params(config))
        return StudyForm.of(params)
