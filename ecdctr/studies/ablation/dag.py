"""The DAG `ecdctr_ablation`.

What each part of the method brings, rows × seeds on simulated worlds, started by hand. It is one
resumable command behind a form: a run with the same params goes on where the last one stopped, and
nothing that it trains touches production.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from ecdctr.airflow.dates import failing_at_once, load_settings, refuse_unknown
from ecdctr.airflow.operators import command_task
from ecdctr.airflow.params import ablation_params
from ecdctr.config.terms import dag_of

DOC = """**What each part of the method brings**: rows × seeds on simulated worlds, started by hand.

It is one resumable command: a run with the same params goes on where the last one stopped, and
nothing that it trains touches production. Its page stands under **E-CDCTR → Experiments**, and
behind the task's button `Study`.
"""


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
    params = ablation_params(settings.config)
    arguments = ["ablation", "--rows", "{{ refuse_unknown(dag_run) }}{{ params.rows | join(',') }}"]
    for name in ("base", "seeds", "world", "workers", "eval_days", "chain_days"):
        arguments += [f"--{name.replace('_', '-')}", f"{{{{ params.{name} }}}}"]
    arguments += ["--work", work, "--name", "{{ params.study }}"]
    with DAG(
        dag_id=dag_of("ablation"),
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
