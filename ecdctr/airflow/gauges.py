"""What models and trainings measure, as gauges of Airflow's own metrics.

StatsD or OpenTelemetry, where switched on.

Production only, named ecdctr.LEVEL.MEASURE: gauc, log_loss and calibration of the next day,
samples_per_second and train_seconds, quality_warnings, promoted (1 or 0).
"""

from __future__ import annotations

from typing import Any

from ecdctr.airflow.dates import EVALUATE
from ecdctr.config.terms import PRODUCTION, level_of

TRAINING = ("samples_per_second", "train_seconds", "train_loss", "peak_memory_mb")
EVALUATION = ("gauc", "auc", "log_loss", "calibration", "ctr")


def task_succeeded(context: Any) -> None:
    """Send the gauges of the task's result: a DAG's on_success_callback."""
    from airflow.sdk.observability import stats

    if context["params"].get("experiment") != PRODUCTION:
        return
    task = context["ti"].task_id
    level = level_of(context["dag"].dag_id)
    result = context["ti"].xcom_pull(task_ids=task) if task in ("train", EVALUATE) else None
    for name, value in gauges(task, result or {}).items():
        stats.gauge(f"ecdctr.{level}.{name}", value)


def gauges(task: str, result: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a task's result that are worth watching."""
    if task == "train" and not result.get("reused"):
        values = {name: float(result[name]) for name in TRAINING if name in result}
        return values | {"quality_warnings": float(len(result.get("quality", [])))}
    if task == EVALUATE and result:
        metrics = result["metrics"]["all"]
        values = {name: float(metrics[name]) for name in EVALUATION if name in metrics}
        return values | {"promoted": float(result["promoted"])}
    return {}
