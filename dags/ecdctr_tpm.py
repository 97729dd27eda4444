"""The Airflow DAG ecdctr_tpm, weekly.

The tiny model on long-window natural content and its snapshot tables.
"""

from ecdctr.airflow.pipeline import build_dag

dag = build_dag("tpm")
