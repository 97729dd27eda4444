"""The DAG `ecdctr_ablation`.

What each part of the method brings, rows × seeds on simulated worlds, started by hand. It is one
resumable command behind a form: a run with the same params goes on where the last one stopped, and
nothing that it trains touches production.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param

from ecdctr.airflow.dates import failing_at_once, load_settings, refuse_unknown
from ecdctr.airflow.forms import MORE
from ecdctr.airflow.operators import command_task
from ecdctr.config import Config
from ecdctr.config.terms import DEFAULT, FULL, STUDY_PATTERN

DOC = """**What each part of the method brings**: rows × seeds on simulated worlds, started by hand.

It is one resumable command: a run with the same params goes on where the last one stopped, and
nothing that it trains touches production. Its page stands under **E-CDCTR → Experiments**, and
behind the task's button `Study`.
"""
ROWS = ("ads_only", "no_tpm", FULL)


def build_ablation_dag() -> DAG:
    """Return the DAG; its params are the command's options."""
    settings = load_settings()
    airflow = settings.config.airflow
    pod = airflow.execution == "kubernetes"
    beside = (
        settings.store_path
        if isinstance(settings.store_path, Path)
        else settings.config.data.prepared
    )
    work = f"{airflow.kubernetes.mount_path if pod else beside.parent}/ablation"
    params = _params(settings.config)
    arguments = ["ablation", "--rows", "{{ refuse_unknown(dag_run) }}{{ params.rows | join(',') }}"]
    for name in ("base", "seeds", "world", "workers", "eval_days", "chain_days"):
        arguments += [f"--{name.replace('_', '-')}", f"{{{{ params.{name} }}}}"]
    arguments += ["--work", work, "--name", "{{ params.study }}"]
    with DAG(
        dag_id="ecdctr_ablation",
        description="What each part of the method brings, on simulated worlds",
        doc_md=DOC,
        schedule=None,
        catchup=False,
        max_active_runs=1,  # studies share their worlds and pre-trained versions
        tags=["ecdctr"],
        params=params,
        user_defined_macros={"refuse_unknown": partial(_refuse_unknown, sorted(params))},
    ) as dag:
        command_task(settings, "ablation", arguments, gpu=True)
    return dag


def _refuse_unknown(names: list[str], dag_run: Any) -> str:
    with failing_at_once():
        return refuse_unknown(dag_run, names)


def _params(config: Config) -> dict[str, Param]:
    choices = [FULL, *sorted(config.variants)]
    return {
        "study": Param(
            "ablation",
            type="string",
            pattern=STUDY_PATTERN,
            expected="up to 25 lower-case letters, digits, hyphens",
            title="Study",
            description="Names the page; an earlier study of this name is replaced.",
        ),
        "rows": Param(
            [row for row in ROWS if row in choices],
            type="array",
            items={"type": "string", "enum": choices},
            minItems=1,
            title="Rows",
            description="Variants to compare; 'full' is the configuration as it stands.",
        ),
        "base": Param(
            DEFAULT,
            type="string",
            enum=[DEFAULT, *sorted(config.variants)],
            title="Base",
            section=MORE,
            description=(
                "Variant that every row lies on top of; 'full' is then this variant itself."
            ),
        ),
        "seeds": Param(
            "1,2,3",
            type="string",
            pattern=r"^\d+(,\d+)*$",
            expected="numbers with commas between, such as 1,2,3",
            title="Seeds",
            section=MORE,
            description="Each gives a world and weights of its own.",
        ),
        "world": Param(
            "demo",
            type="string",
            pattern=r"^[A-Za-z0-9_./-]+$",
            title="World",
            section=MORE,
            description="tiny, demo, large, visits, purchases, or a YAML file where the task runs.",
        ),
        "workers": Param(2, type="integer", minimum=1, title="Processes", section=MORE),
        "eval_days": Param(4, type="integer", minimum=1, title="Evaluation days", section=MORE),
        "chain_days": Param(
            30,
            type="integer",
            minimum=0,
            title="Chain days",
            section=MORE,
            description="Life of rows that continue day by day.",
        ),
    }
