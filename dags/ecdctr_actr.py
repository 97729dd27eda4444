"""The Airflow DAG ecdctr_actr, daily: the ads model, from CPM and the snapshots."""

from ecdctr.airflow.pipeline import build_dag

dag = build_dag("actr")
