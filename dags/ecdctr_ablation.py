"""The Airflow DAG ecdctr_ablation: rows × seeds on simulated worlds, started by hand."""

from ecdctr.studies.ablation.dag import build_ablation_dag

dag = build_ablation_dag()
