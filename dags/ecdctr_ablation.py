"""The Airflow DAG ecdctr_ablation: rows × seeds on simulated worlds, started by hand."""

from ecdctr.orchestration.ablation import build_ablation_dag

dag = build_ablation_dag()
