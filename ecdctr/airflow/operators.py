"""A step as an Airflow task.

The same `ecdctr` command as a local process or as a Kubernetes pod.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator

from ecdctr.airflow.commands import Forked, start
from ecdctr.airflow.dates import Settings
from ecdctr.airflow.links import StudyLink, VersionLink
from ecdctr.airflow.refusals import RefusedError
from ecdctr.errors import TRY_AGAIN

# as shells count SIGKILL; SIGTERM and SIGHUP, which a command tells
KILLED = (128 + 9, 128 + 15, 128 + 1)
RUN_VARIABLE = "ECDCTR_AIRFLOW_RUN"  # read by ecdctr/levels/run.py, written into the manifest


def command_task(
    settings: Settings,
    task_id: str,
    arguments: list[str],
    gpu: bool = False,
    processes: int = 1,
    spark: bool = False,
    **options: Any,
) -> BaseOperator:
    """Return one step of a level.

    `arguments` may hold templates; the command's JSON result is the task's return value. Several
    `processes` work on it together: on this machine, or as pods of a job. A step with `gpu` takes a
    slot of the configured pool, and in a pod the configured GPUs. With `spark` it is an application
    of the Spark operator. `options` are Airflow's.
    """
    airflow = settings.config.airflow
    common: dict[str, Any] = {"task_id": task_id, "retries": airflow.retries, **options}
    if gpu:
        common["pool"] = airflow.pool
    if airflow.execution == "process":
        prefix = ["--config", str(settings.config_path), "--store", str(settings.store_path)]
        together = ["--processes", str(processes)] if processes > 1 else []
        return ProcessOperator(arguments=[*prefix, *arguments, *together], **common)
    from ecdctr.airflow.pods import job_task, pod_task

    if processes > 1:
        return job_task(settings, arguments, processes, RUN_VARIABLE, common)
    if spark and airflow.kubernetes.spark:
        from ecdctr.airflow.spark import spark_task

        return spark_task(settings, airflow.kubernetes.spark, arguments, RUN_VARIABLE, common)
    return pod_task(settings, arguments, gpu, RUN_VARIABLE, common)


class ProcessOperator(BaseOperator):
    """Runs `ecdctr` in a process of its own, so that its memory and libraries end with it."""

    template_fields: Sequence[str] = ("arguments",)
    operator_extra_links = (VersionLink(), StudyLink())

    def __init__(self, *, arguments: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments = arguments
        self._process: subprocess.Popen[str] | Forked | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        """Run, stream the log, return the result.

        Raises RefusedError with the sentence of a command that refuses, RuntimeError where a retry
        may help: it was killed, or the machine did not let it finish.
        """
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            self._process = start(
                [*self.arguments, "--result", str(result)],
                os.environ | {RUN_VARIABLE: f"{context['dag'].dag_id}/{context['run_id']}"},
            )
            assert self._process.stdout is not None  # noqa: S101  # a pipe, above
            last = ""
            with (
                self._process.stdout as output
            ):  # not the process: a task that is stopped must not wait for it
                for line in output:
                    last = line.rstrip() or last
                    self.log.info("%s", line.rstrip())
            code = self._process.wait()
            if code < 0 or code in KILLED:
                number = -code if code < 0 else code - 128
                raise RuntimeError(
                    f"ecdctr was killed by signal {number}; the task may be retried."
                )
            if code == TRY_AGAIN:
                raise RuntimeError(last)  # not a refusal: a retry may find the disk with room again
            if code:
                raise RefusedError(last)
            content: dict[str, Any] = json.loads(result.read_text("utf-8"))
            return content

    def on_kill(self) -> None:
        """Stop the process when the task is killed; a half-trained version is never published."""
        if self._process and self._process.poll() is None:
            os.killpg(
                self._process.pid, signal.SIGTERM
            )  # it leads a session of its own: its workers end too
