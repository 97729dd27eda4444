"""The Airflow DAG ecdctr_cpm, daily: the complete model on short-window natural content."""

from ecdctr.airflow.pipeline import build_dag

dag = build_dag("cpm")
