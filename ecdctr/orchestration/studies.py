"""The DAGs that run studies on simulated worlds, started by hand: ablation and forgetting.

Each is one resumable command behind a form: a run with the same params goes on where the last one stopped, and nothing
that a study trains touches production.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param

from ecdctr.config import Config
from ecdctr.orchestration.operators import command_task
from ecdctr.orchestration.settings import Settings, load_settings

PRESETS = ("tiny", "demo", "large")  # ecdctr/data/simulate.py, which a DAG file must not import: it needs numpy
COMMON = [
    "--rows", "{{ params.rows | join(',') }}", "--seeds", "{{ params.seeds }}", "--preset", "{{ params.preset }}",
    "--workers", "{{ params.workers }}",
]  # fmt: skip


def build_ablation_dag() -> DAG:
    """`ecdctr_ablation`: what each part of the method brings, by next-day GAUC."""
    days = {
        "eval_days": Param(4, type="integer", minimum=1, title="Evaluation days"),
        "chain_days": Param(
            30, type="integer", minimum=0, title="Chain days", description="Life of rows that continue day by day."
        ),
    }
    description = "What each part of the method brings, on simulated worlds"
    return _study("ablation", description, ["ads_only", "no_tpm", "full"], days, ".md")


def build_forgetting_dag() -> DAG:
    """`ecdctr_forgetting`: variants day by day, each day's model on held-out ads of all days."""
    days = {
        "days": Param(40, type="integer", minimum=3, title="Days"),
        "hold_out_every": Param(5, type="integer", minimum=2, title="Hold out each n-th impression of ads"),
    }
    description = "Who forgets what: daily fine-tuning with and without TPM, on simulated worlds"
    return _study("forgetting", description, ["continue_no_tpm", "continue", "full"], days, ".html")


def _study(command: str, description: str, rows: list[str], own: dict[str, Param], suffix: str) -> DAG:
    """The DAG of a study's command; `own` are its params beside the common ones, each an option of the same name."""
    settings = load_settings()
    work = _work(settings, command)
    arguments = [command, *COMMON]
    for name in own:
        arguments += [f"--{name.replace('_', '-')}", f"{{{{ params.{name} }}}}"]
    arguments += ["--work", work, "--out", f"{work}/{{{{ run_id }}}}{suffix}"]
    with DAG(
        dag_id=f"ecdctr_{command}",
        description=description,
        doc_md=__doc__,
        schedule=None,
        catchup=False,
        max_active_runs=1,  # studies share their worlds and pre-trained versions
        tags=["ecdctr"],
        params=_params(settings.config, rows) | own,
    ) as dag:
        command_task(settings, command, arguments, gpu=True)
    return dag


def _params(config: Config, rows: list[str]) -> dict[str, Param]:
    variants = sorted(config.variants)
    return {
        "rows": Param(
            [row for row in rows if row in ("full", *variants)] or ["full"],
            type="array",
            items={"type": "string", "enum": ["full", *variants]},
            minItems=1,
            title="Rows",
            description="Variants to compare; 'full' is the configuration as it stands.",
        ),
        "seeds": Param(
            "1,2,3",
            type="string",
            pattern=r"^\d+(,\d+)*$",
            title="Seeds",
            description="Each gives a world and weights of its own.",
        ),
        "preset": Param("demo", type="string", enum=list(PRESETS), title="World"),
        "workers": Param(2, type="integer", minimum=1, title="Processes"),
    }


def _work(settings: Settings, name: str) -> str:
    airflow = settings.config.airflow
    beside = airflow.kubernetes.mount_path if airflow.execution == "kubernetes" else settings.store_path.parent
    return f"{beside}/{name}"
