"""A double of the Kubernetes pod API for tests: it runs a pod's command as a local process.

It serves what KubernetesPodOperator asks for (create, read, list, log, exec, delete) and can evict
a pod, fail to pull its image, or never find a node for it. Indexed jobs and SparkApplications
become such pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from ecdctr.airflow.commands import Forked
from tests.conftest import REPOSITORY

SIDECAR = "airflow-xcom-sidecar"
INDEX = "batch.kubernetes.io/job-completion-index"
JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"
PODS = "/api/v1/namespaces/{namespace}/pods"
SPARK = "/apis/sparkoperator.k8s.io/v1beta2/namespaces/{namespace}/sparkapplications"
IMAGE = {"/opt/ecdctr/": f"{REPOSITORY}/"}  # what the image holds, and where it lies here


class _Body:
    """What the Kubernetes client's deserializer reads from."""

    def __init__(self, data: Any) -> None:
        self.data = json.dumps(data)


def _refuse_other_than(kind: str, data: Any) -> None:
    """Raise on what the API's model of that kind does not know as valid."""
    from kubernetes.client import ApiClient  # here: every worker loads what imports this module

    ApiClient().deserialize(_Body(data), kind)


@dataclass
class Pod:
    """A pod and the process behind it."""

    spec: dict[str, Any]
    folder: Path
    fault: str | None
    process: Forked | subprocess.Popen | None = None
    sidecar_ended: bool = False
    evicted: bool = False
    created: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat())

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def main(self) -> str:
        """The container that works: 'base', or the driver of a SparkApplication."""
        names = [container["name"] for container in self.spec["spec"]["containers"]]
        return next(name for name in names if name != SIDECAR)

    def status(self) -> dict[str, Any]:
        now = {"startedAt": self.created}
        over_at = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"  # without it no log is read of
        ended_now = now | {"finishedAt": over_at}  # a container that ended before it was looked at
        if self.fault == "no_node":
            return {"phase": "Pending", "conditions": []}
        scheduled = [{"type": "PodScheduled", "status": "True"}]
        if self.fault == "image_pull":
            waiting = {"reason": "ErrImagePull", "message": "manifest unknown"}
            return {
                "phase": "Pending",
                "conditions": scheduled,
                "containerStatuses": [self._container(self.main, waiting=waiting)],
            }
        assert self.process is not None
        code = self.process.poll()
        states = [self._container(self.main, running=now)]
        if code is not None:
            code = 137 if code < 0 else code
            reason = {0: "Completed"}.get(code, "Error")
            states = [
                self._container(
                    self.main, terminated={"exitCode": code, "reason": reason, **ended_now}
                )
            ]
        if self._has_sidecar():
            over = {"terminated": {"exitCode": 0, "reason": "Completed", **now}}
            states.append(
                self._container(
                    SIDECAR, **over if self.sidecar_ended or self.evicted else {"running": now}
                )
            )
        if self.evicted:
            return {
                "phase": "Failed", "reason": "Evicted", "message": ("The node was low on resource: "
                                                                   "memory."),
                "conditions": scheduled, "containerStatuses": states,
            }  # fmt: skip
        ended = code is not None and (self.sidecar_ended or not self._has_sidecar())
        phase = "Running" if not ended else "Succeeded" if code == 0 else "Failed"
        return {"phase": phase, "conditions": scheduled, "containerStatuses": states}

    def document(self) -> dict[str, Any]:
        return self.spec | {"status": self.status()}

    def _has_sidecar(self) -> bool:
        return any(container["name"] == SIDECAR for container in self.spec["spec"]["containers"])

    def _container(self, name: str, **state: Any) -> dict[str, Any]:
        ready = "running" in state
        return {
            "name": name,
            "image": "i",
            "imageID": "",
            "ready": ready,
            "restartCount": 0,
            "state": state,
        }


class Cluster:
    """The double: pods by name, and the faults that the next pods meet."""

    def __init__(
        self, folder: Path, mount: Path, secrets: dict[str, dict[str, str]], warm: Path
    ) -> None:
        self.folder, self.mount, self.secrets, self.warm = folder, mount, secrets, warm
        self.pods: dict[str, Pod] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.applications: dict[str, dict[str, Any]] = {}
        self.submitted: list[dict[str, Any]] = []
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.faults: list[tuple[str, str]] = []  # (part of the pod's name, fault)
        self.url = ""

    # -- the API -----------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        spec = await request.json()
        _refuse_other_than("V1Pod", spec)
        return JSONResponse(self._add(spec).document(), 201)

    def _add(self, spec: dict[str, Any]) -> Pod:
        name = spec["metadata"]["name"]
        spec["metadata"] |= {
            "uid": name,
            "creationTimestamp": dt.datetime.now(dt.UTC).isoformat(),
            "resourceVersion": "1",
        }
        fault = next((what for part, what in self.faults if part in name), None)
        self.faults = [(part, what) for part, what in self.faults if part not in name]
        pod = Pod(spec, self.folder / name, fault)
        pod.folder.mkdir(parents=True)
        self.pods[name] = pod
        self.created.append(spec)
        if fault not in ("no_node", "image_pull"):
            self._start(pod)
        return pod

    async def create_job(self, request: Request) -> Response:
        job = await request.json()
        _refuse_other_than("V1Job", job)
        assert job["spec"]["completionMode"] == "Indexed"
        name = job["metadata"]["name"]
        job["metadata"] |= {"uid": name, "creationTimestamp": dt.datetime.now(dt.UTC).isoformat()}
        self.jobs[name] = job
        template = job["spec"]["template"]
        for index in range(job["spec"]["completions"]):
            metadata = template["metadata"] | {"name": f"{name}-{index}"}
            metadata["annotations"] = (metadata.get("annotations") or {}) | {INDEX: str(index)}
            self._add(
                json.loads(
                    json.dumps(
                        {**template, "metadata": metadata, "apiVersion": "v1", "kind": "Pod"}
                    )
                )
            )
        return JSONResponse(job, 201)

    async def read_job(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["name"])
        if job is None:
            return _missing()
        name = job["metadata"]["name"]
        codes = [
            pod.process.poll()
            for at, pod in self.pods.items()
            if at.startswith(f"{name}-") and pod.process
        ]
        ended = [pod.sidecar_ended for at, pod in self.pods.items() if at.startswith(f"{name}-")]
        conditions = []
        if any(codes):
            conditions = [
                {
                    "type": "Failed",
                    "status": "True",
                    "reason": "BackoffLimitExceeded",
                    "message": "failed",
                }
            ]
        elif codes and set(codes) == {0} and all(ended):
            conditions = [{"type": "Complete", "status": "True"}]
        return JSONResponse(job | {"status": {"conditions": conditions}})

    async def delete_job(self, request: Request) -> Response:
        job = self.jobs.pop(request.path_params["name"], None)
        if job is None:
            return _missing()
        for name in [name for name in self.pods if name.startswith(f"{job['metadata']['name']}-")]:
            self._remove(name)
        return JSONResponse({"kind": "Status", "status": "Success"})

    async def create_spark(self, request: Request) -> Response:
        """Like the Spark operator: the driver's pod.

        Executors are the driver's own threads here.
        """
        application = await request.json()
        spec, name = application["spec"], application["metadata"]["name"]
        assert (spec["type"], spec["mode"], spec["restartPolicy"]) == (
            "Python",
            "cluster",
            {"type": "Never"},
        )
        driver = spec["driver"]
        container = {
            "name": "spark-kubernetes-driver",
            "image": spec["image"],
            "command": [spec["mainApplicationFile"].removeprefix("local://")],
            "args": spec["arguments"],
            "env": driver["env"],
            "volumeMounts": driver["volumeMounts"],
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-driver",
                "labels": driver["labels"] | {"spark-role": "driver"},
            },
            "spec": {
                "containers": [container],
                "volumes": spec["volumes"],
                "securityContext": driver["podSecurityContext"],
            },
        }
        pod["metadata"]["namespace"] = request.path_params["namespace"]
        _refuse_other_than("V1Pod", pod)
        self.applications[name] = application
        self.submitted.append(application)
        self._add(pod)
        return JSONResponse(application, 201)

    async def read_spark(self, request: Request) -> Response:
        application = self.applications.get(request.path_params["name"])
        if application is None:
            return _missing()
        phase = self.pods[f"{request.path_params['name']}-driver"].status()["phase"]
        state = {"Pending": "SUBMITTED", "Running": "RUNNING", "Succeeded": "COMPLETED"}.get(
            phase, "FAILED"
        )
        return JSONResponse(application | {"status": {"applicationState": {"state": state}}})

    async def delete_spark(self, request: Request) -> Response:
        if self.applications.pop(request.path_params["name"], None) is None:
            return _missing()
        self._remove(f"{request.path_params['name']}-driver")
        return JSONResponse({"kind": "Status", "status": "Success"})

    async def list(self, request: Request) -> Response:
        labels = dict(
            part.split("=", 1) for part in _selector(request) if "=" in part and "!=" not in part
        )
        phases = request.query_params.get("fieldSelector", "").split(",")
        pods = [
            pod.document()
            for pod in self.pods.values()
            if labels.items() <= pod.spec["metadata"].get("labels", {}).items()
            and f"status.phase!={pod.status()['phase']}" not in phases
        ]
        return JSONResponse({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods})

    async def read(self, request: Request) -> Response:
        pod = self.pods.get(request.path_params["name"])
        return _missing() if pod is None else JSONResponse(pod.document())

    async def patch(self, request: Request) -> Response:
        pod = self.pods.get(request.path_params["name"])
        if pod is None:
            return _missing()
        change = await request.json()
        pod.spec["metadata"].setdefault("labels", {}).update(
            change.get("metadata", {}).get("labels", {})
        )
        return JSONResponse(pod.document())

    async def delete(self, request: Request) -> Response:
        pod = self._remove(request.path_params["name"])
        return _missing() if pod is None else JSONResponse(pod.spec)

    def _remove(self, name: str) -> Pod | None:
        pod = self.pods.pop(name, None)
        if pod is not None:
            self.deleted.append(name)
            if pod.process and pod.process.poll() is None:
                os.killpg(pod.process.pid, signal.SIGKILL)
        return pod

    async def events(self, request: Request) -> Response:
        return JSONResponse({"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": []})

    async def logs(self, request: Request) -> Response:
        pod = self.pods.get(request.path_params["name"])
        if pod is None:
            return _missing()
        if request.query_params.get("container") != pod.main:
            return PlainTextResponse("")

        async def lines() -> Any:
            with pod.log.open() as file:
                while True:
                    ended = pod.process is None or pod.process.poll() is not None
                    for line in file:
                        yield (
                            f"{dt.datetime.now(dt.UTC).strftime('%Y-%m-%dT%H:%M:%S.%f000Z')} {line}"
                        )
                    if ended:
                        return
                    await asyncio.sleep(0.1)

        return StreamingResponse(lines(), media_type="text/plain")

    async def exec(self, socket: WebSocket) -> None:
        """The sidecar's two uses: print the result, and end."""
        pod = self.pods[socket.path_params["name"]]
        await socket.accept(subprotocol="v4.channel.k8s.io")
        if socket.query_params.get("stdin") == "True":
            await socket.receive()
            pod.sidecar_ended = True
        else:
            result = pod.folder / "xcom" / "return.json"
            text = result.read_text() if result.exists() else "__airflow_xcom_result_empty__"
            await socket.send_bytes(b"\x01" + text.encode())
        await socket.send_bytes(
            b"\x03" + json.dumps({"status": "Success", "metadata": {}}).encode()
        )
        await socket.close()

    # -- processes ---------------------------------------------------------------------------------

    def _start(self, pod: Pod) -> None:
        container = next(c for c in pod.spec["spec"]["containers"] if c["name"] == pod.main)
        (pod.folder / "xcom").mkdir()
        places = {"/airflow/xcom/": f"{pod.folder}/xcom/", "/ecdctr/": f"{self.mount}/", **IMAGE}

        def local(text: str) -> str:
            for inside, outside in places.items():
                if text.startswith(inside):
                    return outside + text.removeprefix(inside)
            return text

        environment = dict(os.environ)
        for variable in container.get("env") or []:
            reference = variable.get("valueFrom") or {}
            if "fieldRef" in reference:
                path = reference["fieldRef"]["fieldPath"]
                assert path == f"metadata.annotations['{INDEX}']"
                environment[variable["name"]] = pod.spec["metadata"]["annotations"][INDEX]
            elif (
                variable["name"] == "MASTER_ADDR"
            ):  # the name of the first pod, which nothing resolves here
                assert (
                    variable["value"]
                    == f"{pod.spec['metadata']['name'][:-2]}-0.{pod.spec['spec']['subdomain']}"
                )
                environment["MASTER_ADDR"] = "127.0.0.1"
            elif reference:
                reference = variable["valueFrom"]["secretKeyRef"]
                environment[variable["name"]] = self.secrets[reference["name"]][reference["key"]]
            else:
                environment[variable["name"]] = variable.get("value") or ""
        command = [*map(local, [*container["command"], *(container.get("args") or [])])]
        with pod.log.open("w") as log:
            pod.process = self._run(command, environment, log.fileno())
        if pod.fault == "evict":
            threading.Timer(0.2, self._evict, [pod]).start()  # a tiny training takes a second

    def _run(
        self, command: list[str], environment: dict[str, str], log: int
    ) -> Forked | subprocess.Popen:
        """Run the image's program by the warm process, and Spark's by one of its own."""
        if command[0] == "ecdctr":
            return Forked(self.warm, command[1:], environment, log, log)
        return subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def _evict(self, pod: Pod) -> None:
        assert pod.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pod.process.pid, signal.SIGKILL)
        pod.process.wait()
        pod.evicted = True

    @contextlib.contextmanager
    def serving(self, port: int) -> Iterator[None]:
        one = PODS + "/{name}"
        routes = [
            Route(PODS, self.create, methods=["POST"]),
            Route(PODS, self.list, methods=["GET"]),
            Route(one, self.read, methods=["GET"]),
            Route(one + "/status", self.read, methods=["GET"]),
            Route(one, self.patch, methods=["PATCH"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(one + "/log", self.logs, methods=["GET"]),
            WebSocketRoute(one + "/exec", self.exec),
            Route(JOBS, self.create_job, methods=["POST"]),
            Route(JOBS + "/{name}", self.read_job, methods=["GET"]),
            Route(JOBS + "/{name}/status", self.read_job, methods=["GET"]),
            Route(JOBS + "/{name}", self.delete_job, methods=["DELETE"]),
            Route(SPARK, self.create_spark, methods=["POST"]),
            Route(SPARK + "/{name}/status", self.read_spark, methods=["GET"]),
            Route(SPARK + "/{name}", self.delete_spark, methods=["DELETE"]),
            Route("/api/v1/namespaces/{namespace}/events", self.events, methods=["GET"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), host="127.0.0.1", port=port, log_level="warning"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            threading.Event().wait(0.05)
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield
        finally:
            server.should_exit = True
            thread.join(10)

    def kubeconfig(self, path: Path) -> Path:
        access = {"apiVersion": "v1", "kind": "Config", "current-context": "c"}
        access |= {"clusters": [{"name": "c", "cluster": {"server": self.url}}]}
        access |= {"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}
        access |= {"users": [{"name": "u", "user": {}}]}
        path.write_text(yaml.safe_dump(access))
        return path


def _selector(request: Request) -> list[str]:
    return request.query_params.get("labelSelector", "").split(",")


def _missing() -> Response:
    return JSONResponse(
        {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}, 404
    )
