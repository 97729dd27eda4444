"""The Airflow DAG ecdctr_forgetting.

Who forgets what, by backfills of several variants, started by hand.
"""

from ecdctr.studies.forgetting.dag import build_forgetting_dag

dag = build_forgetting_dag()
