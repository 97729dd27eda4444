"""The DAG that runs an ablation: rows, seeds and days from a form, one resumable command behind it."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from ecdctr.orchestration.operators import command_task
from ecdctr.orchestration.settings import load_settings

PRESETS = ("tiny", "demo", "large")  # ecdctr/data/simulate.py, which a DAG file must not import: it needs numpy


def build_ablation_dag() -> DAG:
    """`ecdctr_ablation`, started by hand; a run with the same params goes on where the last one stopped."""
    settings = load_settings()
    variants = sorted(settings.config.variants)
    airflow = settings.config.airflow
    beside = airflow.kubernetes.mount_path if airflow.execution == "kubernetes" else settings.store_path.parent
    work = f"{beside}/ablation"
    with DAG(
        dag_id="ecdctr_ablation",
        description="What each part of the method brings, on simulated worlds",
        doc_md=__doc__,
        schedule=None,
        catchup=False,
        max_active_runs=1,  # studies share their worlds and pre-trained versions
        tags=["ecdctr"],
        params={
            "rows": Param(
                ["ads_only", "no_tpm", "full"],
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
            "eval_days": Param(4, type="integer", minimum=1, title="Evaluation days"),
            "chain_days": Param(
                30, type="integer", minimum=0, title="Chain days", description="Life of rows that continue day by day."
            ),
            "preset": Param("demo", type="string", enum=list(PRESETS), title="World"),
            "workers": Param(2, type="integer", minimum=1, title="Processes"),
        },
    ) as dag:
        command_task(
            settings,
            "ablation",
            [
                "ablation", "--rows", "{{ params.rows | join(',') }}", "--seeds", "{{ params.seeds }}",
                "--eval-days", "{{ params.eval_days }}", "--chain-days", "{{ params.chain_days }}",
                "--preset", "{{ params.preset }}", "--workers", "{{ params.workers }}",
                "--work", work, "--out", f"{work}/{{{{ run_id }}}}.md",
            ],
            gpu=True,
        )  # fmt: skip
    return dag
