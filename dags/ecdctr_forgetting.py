"""The Airflow DAG ecdctr_forgetting: who forgets what, day by day, started by hand."""

from ecdctr.orchestration.studies import build_forgetting_dag

dag = build_forgetting_dag()
