"""A stub of the part of a Kubernetes API that the SDK of Kubeflow Trainer asks, and no cluster.

It takes a TrainJob only if it meets the schema of Kubeflow Trainer, with no field that this has
not, and runs the command of its nodes as processes of this machine, with the variables that the
controller sets. A schema's rules in CEL are not run, nor is anything of JobSet or a scheduler.
"""

import json
import lzma
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml

from tests import lines
from tests.servers import free_port

CRDS = Path(__file__).parent / "crds"
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/test/trainjobs"
RUNTIME = lines.ROOT / "infra" / "trainer" / "runtime.yaml"
VERSION = "/api/v1/namespaces/kubeflow-system/configmaps/kubeflow-trainer-public"
PODS = "/api/v1/namespaces/test/pods"
RESERVED = re.compile(r"PET_|MASTER_(ADDR|PORT)$")
"""Variables that a TrainJob may not set: Trainer's webhook refuses them."""


def complaints(manifest: Any, kind: str) -> list[str]:
    """All in which a manifest does not meet the schema of its kind: `trainjobs` and the like."""
    with lzma.open(CRDS / f"{kind}.json.xz") as file:
        crd = json.load(file)
    schema = _closed(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    found = []
    for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest):
        found.append(f"{'.'.join(map(str, error.absolute_path))}: {error.message}")
    name = manifest["metadata"]["name"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
        found.append(f"metadata.name: {name}")
    for label, value in manifest["metadata"].get("labels", {}).items():
        if not re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", value):
            found.append(f"metadata.labels.{label}: {value}")
    return found


def _closed(schema: Any) -> Any:
    """The schema of a structure, in which no field is allowed that it does not name."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(one) for name, one in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found["additionalProperties"] = False
    return found


@dataclass
class Cluster:
    """The stub's state."""

    folder: Path
    """Each node has its own cache here, so that none sees another's files."""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    taken: list[dict[str, Any]] = field(default_factory=list)
    """Every TrainJob that was ever made."""
    nodes: dict[str, list["subprocess.Popen[bytes]"]] = field(default_factory=dict)
    runs: bool = True
    """False: no node ever comes, as where none is free."""
    says: str | None = None
    """All that a node does: it says this, and fails."""
    fewer: int = 0
    """Processes that each node starts fewer than it was asked for."""
    asked: set[tuple[str, str, str]] = field(default_factory=set)
    """Everything that was asked: verb, group of the API, resource."""
    down: int = 0
    """Looks that fail before the next is answered."""
    status: int = 503
    """The status of a look that fails."""
    refusal: str = "apiserver not ready"
    """The message of a look that fails."""
    fails: tuple[str, str] | None = None
    """Reason and message with which the controller fails every TrainJob, whose pods it deletes."""
    keeps: bool = False
    """True: a TrainJob that is deleted stays, as while somebody's finalizer holds it."""

    def make(self, job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        job["metadata"] |= {"namespace": "test", "creationTimestamp": "2026-11-29T12:00:00Z"}
        self.jobs[name] = job
        self.taken.append(job)
        self.nodes[name] = []
        if self.runs:
            port = free_port()
            for number in range(job["spec"]["trainer"]["numNodes"]):
                self.nodes[name].append(self._node(job, number, port))

    def _node(self, job: dict[str, Any], number: int, port: int) -> "subprocess.Popen[bytes]":
        trainer = job["spec"]["trainer"]
        command = [sys.executable, *trainer["command"][1:], *trainer["args"]]
        assert trainer["command"][0] == "python"
        if self.fewer:
            place = command.index("--nproc-per-node") + 1
            command[place] = str(int(command[place]) - self.fewer)
        if self.says is not None:
            command = [sys.executable, "-c", f"import sys; sys.exit({self.says!r})"]
        place = self.folder / f"node-{number}"
        place.mkdir(parents=True, exist_ok=True)
        controller = {
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": "auto",
            "PET_NODE_RANK": str(number),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            "COWEST_CACHE": str(place / "scratch"),
        }
        kept = {}
        for name, value in os.environ.items():
            if not name.startswith(("COWEST_", "KUBE")):
                kept[name] = value
        with (place / "log").open("w") as log:
            return subprocess.Popen(
                command, cwd=place, env={**kept, **controller}, stdout=log, stderr=log
            )

    def remove(self, name: str) -> None:
        del self.jobs[name]
        for node in self.nodes[name]:
            node.terminate()
        for node in self.nodes[name]:
            node.wait()

    def seen(self, name: str) -> dict[str, Any]:
        """A TrainJob with the state that its nodes are in."""
        if self.fails is not None:
            reason, message = self.fails
            failed = _condition("Failed") | {"reason": reason, "message": message}
            self.jobs[name]["status"] = {"conditions": [failed]}
            return self.jobs[name]
        ended = [node.poll() for node in self.nodes[name]]
        state = None
        if any(ended):
            state = "Failed"
        elif ended and not any(one is None for one in ended):
            state = "Complete"
        job = self.jobs[name]
        if state is not None:
            job["status"] = {"conditions": [_condition(state)]}
        return job

    def pods(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if self.fails is not None:
            return found
        for number, node in enumerate(self.nodes.get(name, ())):
            labels = {
                "jobset.sigs.k8s.io/jobset-name": name,
                "jobset.sigs.k8s.io/replicatedjob-name": "node",
                "batch.kubernetes.io/job-completion-index": str(number),
            }
            phase = {None: "Running", 0: "Succeeded"}.get(node.poll(), "Failed")
            found.append(
                {
                    "metadata": {"name": f"{name}-node-{number}", "labels": labels},
                    "spec": {"containers": [{"name": "node", "image": "cowest"}]},
                    "status": {"phase": phase},
                }
            )
        return found


def _condition(state: str) -> dict[str, str]:
    return {
        "type": state,
        "status": "True",
        "reason": "Stub",
        "message": "",
        "lastTransitionTime": "2026-11-29T12:00:00Z",
    }


@contextmanager
def stub(folder: Path) -> Iterator[Cluster]:
    """The stub, and beside it `folder/kubeconfig`, by which it is found."""
    cluster = Cluster(folder)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            cluster.asked.add(_right("get", self.path))
            if cluster.down:
                cluster.down -= 1
                self._answer(cluster.status, {"message": cluster.refusal})
                return
            self._answer(*_get(cluster, self.path))

        def do_POST(self) -> None:
            cluster.asked.add(_right("create", self.path))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(*_post(cluster, self.path, body))

        def do_DELETE(self) -> None:
            cluster.asked.add(_right("delete", self.path))
            name = self.path.rpartition("/")[2].partition("?")[0]
            if name not in cluster.jobs:
                self._answer(404, {"message": f"trainjobs {name} not found"})
                return
            if not cluster.keeps:
                cluster.remove(name)
            self._answer(200, {"status": "Success"})

        def _answer(self, status: int, body: Any) -> None:
            text = body if isinstance(body, str) else json.dumps(body)
            self.send_response(status)
            kind = "text/plain" if isinstance(body, str) else "application/json"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "stub",
        "contexts": [
            {"name": "stub", "context": {"cluster": "stub", "user": "stub", "namespace": "test"}}
        ],
        "clusters": [
            {"name": "stub", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "users": [{"name": "stub", "user": {}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    try:
        yield cluster
    finally:
        for name in list(cluster.jobs):
            cluster.remove(name)
        server.shutdown()
        server.server_close()


def _right(verb: str, address: str) -> tuple[str, str, str]:
    """The right that Kubernetes asks for a request."""
    parts = urlsplit(address).path.strip("/").split("/")
    group = parts[1] if parts[0] == "apis" else ""
    del parts[: 3 if group else 2]
    if parts[0] == "namespaces":
        del parts[:2]
    if verb == "get" and len(parts) == 1:
        verb = "list"
    return verb, group, "/".join([parts[0], *parts[2:]])


def _get(cluster: Cluster, address: str) -> tuple[int, Any]:
    path, asked = urlsplit(address).path, parse_qs(urlsplit(address).query)
    if path == VERSION:
        return 200, {"metadata": {"name": "x"}, "data": {"kubeflow_trainer_version": "2.3.0"}}
    if "/clustertrainingruntimes/" in path:
        runtime = yaml.safe_load(RUNTIME.read_text())
        if path.endswith(f"/{runtime['metadata']['name']}"):
            return 200, runtime
    if path == JOBS:
        wanted = _selected(asked)
        items = []
        for name, job in cluster.jobs.items():
            if wanted.items() <= job["metadata"]["labels"].items():
                items.append(cluster.seen(name))
        return 200, {"items": items}
    if path.startswith(f"{JOBS}/") and path.rpartition("/")[2] in cluster.jobs:
        return 200, cluster.seen(path.rpartition("/")[2])
    if path == PODS:
        name = asked["labelSelector"][0].partition("=")[2].partition(",")[0]
        return 200, {"apiVersion": "v1", "kind": "PodList", "items": cluster.pods(name)}
    if path.startswith(PODS) and path.endswith("/log"):
        number = path.split("/")[-2].rpartition("-")[2]
        return 200, (cluster.folder / f"node-{number}" / "log").read_text()
    return 404, {"message": f"{path} not found"}


def _post(cluster: Cluster, path: str, body: Any) -> tuple[int, Any]:
    assert path.partition("?")[0] == JOBS
    wrong = complaints(body, "trainjobs")
    for variable in body["spec"]["trainer"].get("env", []):
        if RESERVED.match(variable["name"]):
            wrong.append(f"spec.trainer.env: {variable['name']} is reserved")
    if wrong:
        return 422, {"message": "; ".join(wrong)}
    if body["metadata"]["name"] in cluster.jobs:
        return 409, {"message": "already exists"}
    cluster.make(body)
    return 201, body


def _selected(asked: Mapping[str, list[str]]) -> dict[str, str]:
    text = asked.get("labelSelector", [""])[0]
    return dict(part.split("=") for part in text.split(",") if part)
