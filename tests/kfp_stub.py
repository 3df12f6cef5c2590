"""A stub of the KFP API server (v2beta1, REST), for want of a cluster.

It starts nothing. It keeps experiments, pipelines, versions, runs and recurring runs in memory, and
refuses what the real one refuses, as its sources of release 2.17 do: pipeline and platform specs
are parsed strictly into their protos, parameters are held against the spec, and names, cron
expressions, `max_concurrency`, filters, sorting and page tokens are checked. It is stricter where
the real one lets a slip pass: an unknown field of a body is refused.
"""

import base64
import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

API = "/apis/v2beta1"
FIELD = r"(\*|\?|[+]?\d+|[a-z]{3})(-([+]?\d+|[a-z]{3}))?(/[+]?\d+)?"
CRON = re.compile(rf"\s*({FIELD})(,{FIELD})*(\s+({FIELD})(,{FIELD})*){{4,5}}\s*", re.I)
"""A shape that robfig/cron takes: five or six fields. tests/unit/test_cron.py has its real answers.
"""
SORTED_BY = {
    "runs": {"created_at", "display_name", "finished_at", "state", "run_id"},
    "recurringruns": {"created_at", "display_name", "recurring_run_id"},
    "pipelines": {"created_at", "display_name", "pipeline_id"},
    "experiments": {"created_at", "display_name", "experiment_id"},
    "versions": {"created_at", "display_name", "pipeline_version_id"},
}
FILTERED_BY = {
    **SORTED_BY,
    "runs": SORTED_BY["runs"] | {"recurring_run_id", "storage_state"},
}
KINDS = {
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "STRING": (str,),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}


class RefusedError(Exception):
    """A request that the real server refuses, with its HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Stub:
    """Holds the server's objects, and its ways to misbehave."""

    token: str | None = None
    """The only bearer token that is let in, if any."""
    multi_user: bool = False
    pins: bool = False
    """As KFP before 2.5: a recurring run is tied to the version that is newest when it is made."""
    orphans: bool = True
    """False as in KFP before 2.16: deleting a recurring run ends its runs, whatever is asked."""
    page: Mapping[str, Any] | None = None
    """An answer that stands before the API: status, headers and body."""
    dies_after: int | None = None
    """Requests after which the caller is cut off: the last one takes effect, and has no answer."""
    holds: int | None = None
    """Number of the request, from now on, that takes effect and is not answered until `released`,
    so that its caller can be killed there."""
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    host: str = ""
    calls: list[str] = field(default_factory=list)
    rows: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {name: [] for name in SORTED_BY}
    )
    specs: dict[str, Any] = field(default_factory=dict)
    """The pipeline of each version."""
    clock: int = 1_796_000_000

    def now(self) -> str:
        """The time of the server: each look is a second later."""
        import datetime

        self.clock += 1
        at = datetime.datetime.fromtimestamp(self.clock, datetime.UTC)
        return at.isoformat().replace("+00:00", "Z")

    @property
    def schedules(self) -> list[dict[str, Any]]:
        return self.rows["recurringruns"]

    @property
    def runs(self) -> list[dict[str, Any]]:
        return self.rows["runs"]

    def enabled(self) -> list[dict[str, Any]]:
        """The recurring runs that would start runs."""
        return [one for one in self.schedules if one["status"] == "ENABLED"]

    def tick(self) -> None:
        """Starts the runs whose time has come, as the controller does: one a schedule at once."""
        for one in self.enabled():
            identity = one["recurring_run_id"]
            mine = [run for run in self.runs if run.get("recurring_run_id") == identity]
            going = [run for run in mine if run["state"] in ("PENDING", "RUNNING")]
            if len(going) >= one["max_concurrency"]:
                continue
            reference = dict(one["pipeline_version_reference"])
            reference.setdefault(
                "pipeline_version_id", self.newest(reference["pipeline_id"])["pipeline_version_id"]
            )
            self.runs.append(
                {
                    "run_id": str(uuid.uuid4()),
                    "display_name": f"{one['display_name']}-{len(mine) + 1}",
                    "experiment_id": one["experiment_id"],
                    "recurring_run_id": identity,
                    "pipeline_version_reference": reference,
                    "runtime_config": one["runtime_config"],
                    "state": "RUNNING",
                    "storage_state": "AVAILABLE",
                    "created_at": self.now(),
                    "finished_at": "1970-01-01T00:00:00Z",
                }
            )

    def newest(self, pipeline: str) -> dict[str, Any]:
        """The version that a schedule of a pipeline runs."""
        mine = [one for one in self.rows["versions"] if one["pipeline_id"] == pipeline]
        if not mine:
            raise RefusedError(404, f"Pipeline {pipeline} has no version")
        return max(mine, key=lambda one: one["created_at"])

    # The routes, by method and path.

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, kind: str) -> Any:
        """Returns the server's answer. Raises RefusedError."""
        parts = [unquote(part) for part in path.removeprefix(API).strip("/").split("/")]
        match (method, *parts):
            case ("GET", "healthz"):
                return {"multi_user": self.multi_user} if self.multi_user else {}
            case ("GET", "pipelines", pipeline, "versions"):
                mine = [one for one in self.rows["versions"] if one["pipeline_id"] == pipeline]
                return _page("versions", mine, query, "pipeline_versions")
            case ("GET", ("experiments" | "pipelines" | "runs" | "recurringruns") as kinds):
                return self._listed(kinds, query)
            case ("GET", ("runs" | "recurringruns") as kinds, identity):
                return self._one(kinds, identity)
            case ("POST", "pipelines", "upload"):
                return self._upload(query, _uploaded(body, kind))
            case ("POST", "pipelines", "upload_version"):
                return self._upload_version(query, _uploaded(body, kind))
            case ("POST", "experiments"):
                return self._experiment(_parsed(body, kfp_server_api.V2beta1Experiment))
            case ("POST", "runs"):
                return self._run(_parsed(body, kfp_server_api.V2beta1Run))
            case ("POST", "recurringruns"):
                return self._recurring(_parsed(body, kfp_server_api.V2beta1RecurringRun))
            case ("POST", "recurringruns", act):
                return self._mode(act)
            case ("DELETE", "recurringruns", identity):
                return self._delete(identity, query.get("propagation_policy", "BACKGROUND"))
        raise RefusedError(404, "Not Found")

    def _listed(self, kinds: str, query: dict[str, str]) -> Any:
        rows = self.rows[kinds]
        if "experiment_id" in query:
            rows = [one for one in rows if one["experiment_id"] == query["experiment_id"]]
        elif self.multi_user:
            if not query.get("namespace"):
                raise RefusedError(400, "A namespace is needed in multi-user mode")
            rows = [one for one in rows if one.get("namespace") == query["namespace"]]
        return _page(kinds, rows, query, "recurringRuns" if kinds == "recurringruns" else kinds)

    def _one(self, kinds: str, identity: str) -> dict[str, Any]:
        key = "run_id" if kinds == "runs" else "recurring_run_id"
        for one in self.rows[kinds]:
            if one[key] == identity:
                return one
        raise RefusedError(404, f"{kinds} {identity} not found")

    def _experiment(self, given: dict[str, Any]) -> dict[str, Any]:
        name = _named(given, 128)
        space = self._space(given.get("namespace"))
        if any(
            (one["display_name"], one.get("namespace")) == (name, space)
            for one in self.rows["experiments"]
        ):
            raise RefusedError(409, f"The name {name} already exists")
        return self._kept("experiments", "experiment_id", {**given, "namespace": space})

    def _upload(self, query: dict[str, str], content: bytes) -> dict[str, Any]:
        name = query.get("name") or ""
        if not name or len(name) > 128:
            raise RefusedError(400, "Pipeline.Name length cannot exceed 128")
        space = self._space(query.get("namespace"))
        spec = _spec(_loaded(content))
        if any(one["name"] == name for one in self.rows["pipelines"]):
            raise RefusedError(409, "Failed to create a pipeline and a pipeline version")
        given = {
            "name": name,
            "display_name": query.get("display_name") or name,
            "description": query.get("description", ""),
            "namespace": space,
        }
        made = self._kept("pipelines", "pipeline_id", given)
        self._version(made["pipeline_id"], name, query, spec)
        return made

    def _upload_version(self, query: dict[str, str], content: bytes) -> dict[str, Any]:
        name, pipeline = query.get("name") or "", query.get("pipelineid")
        if not name or len(name) > 127:
            raise RefusedError(400, "PipelineVersion.Name length cannot exceed 127")
        if not any(one["pipeline_id"] == pipeline for one in self.rows["pipelines"]):
            raise RefusedError(400, "Failed to create a pipeline version")
        if any(one["name"] == name for one in self.rows["versions"]):
            raise RefusedError(409, "Failed to create a pipeline version")
        spec = _spec(_loaded(content))
        return self._version(str(pipeline), name, query, spec)

    def _version(
        self, pipeline: str, name: str, query: dict[str, str], spec: Any
    ) -> dict[str, Any]:
        given = {
            "pipeline_id": pipeline,
            "name": name,
            "display_name": query.get("display_name") or name,
            "description": query.get("description", ""),
        }
        made = self._kept("versions", "pipeline_version_id", given)
        self.specs[made["pipeline_version_id"]] = spec
        return made

    def _run(self, given: dict[str, Any]) -> dict[str, Any]:
        _named(given, 10_000)
        self._in_experiment(given)
        if "pipeline_spec" in given:
            whole = given["pipeline_spec"]
            split = "pipeline_spec" in whole
            spec = _spec([whole["pipeline_spec"], whole["platform_spec"]] if split else [whole])
        else:
            reference = given.get("pipeline_version_reference") or {}
            spec = self.specs[
                reference.get("pipeline_version_id")
                or self.newest(reference.get("pipeline_id", ""))["pipeline_version_id"]
            ]
        _hold(spec, given)
        started = {"state": "PENDING", "storage_state": "AVAILABLE"}
        return self._kept("runs", "run_id", given | started)

    def _recurring(self, given: dict[str, Any]) -> dict[str, Any]:
        _named(given, 10_000)
        self._in_experiment(given)
        if not 1 <= int(given.get("max_concurrency", 0)) <= 10:
            raise RefusedError(
                400, "Max concurrency of a recurring run must be at least 1 and at most 10"
            )
        cron = ((given.get("trigger") or {}).get("cron_schedule") or {}).get("cron")
        if cron is not None and not CRON.fullmatch(cron):
            raise RefusedError(
                400,
                "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron)",
            )
        reference = given.get("pipeline_version_reference") or {}
        newest = self.newest(reference.get("pipeline_id", ""))["pipeline_version_id"]
        _hold(self.specs[reference.get("pipeline_version_id") or newest], given)
        mode = given.get("mode", "MODE_UNSPECIFIED")
        if mode not in ("ENABLE", "DISABLE", "MODE_UNSPECIFIED"):
            raise RefusedError(400, f"Recurring run's mode is invalid: {mode}")
        if self.pins:
            reference = {**reference, "pipeline_version_id": newest}
        made = {**given, "pipeline_version_reference": reference}
        made["status"] = "ENABLED" if mode == "ENABLE" else "DISABLED"
        return self._kept("recurringruns", "recurring_run_id", made)

    def _mode(self, act: str) -> dict[str, Any]:
        identity, _, verb = act.rpartition(":")
        if verb not in ("enable", "disable"):
            raise RefusedError(404, "Not Found")
        one = self._one("recurringruns", identity)
        one["status"], one["mode"] = verb.upper() + "D", verb.upper()
        return {}

    def _delete(self, identity: str, policy: str) -> dict[str, Any]:
        one = self._one("recurringruns", identity)
        self.schedules.remove(one)
        if policy != "ORPHAN" or not self.orphans:
            for run in self.runs:
                if run.get("recurring_run_id") == identity and run["state"] == "RUNNING":
                    run["state"] = "FAILED"
        return {}

    def _in_experiment(self, given: dict[str, Any]) -> None:
        """Puts a run into the namespace of its experiment."""
        for one in self.rows["experiments"]:
            if one["experiment_id"] == given.get("experiment_id"):
                given["namespace"] = one.get("namespace")
                return
        raise RefusedError(404, "Experiment not found")

    def _space(self, given: str | None) -> str | None:
        if self.multi_user and not given:
            raise RefusedError(400, "Namespace cannot be empty in multi-user mode")
        return given if self.multi_user else None

    def _kept(self, kinds: str, key: str, given: dict[str, Any]) -> dict[str, Any]:
        made = {**given, key: str(uuid.uuid4()), "created_at": self.now()}
        self.rows[kinds].append(made)
        return made


def _named(given: Mapping[str, Any], most: int) -> str:
    name = given.get("display_name")
    if not name or len(name) > most:
        raise RefusedError(400, "a name is empty or too long")
    return str(name)


def _parsed(body: bytes, kind: Any) -> dict[str, Any]:
    """A body whose fields the API knows."""
    try:
        given = json.loads(body)
    except ValueError:
        raise RefusedError(400, "invalid JSON") from None
    unknown = set(given) - set(kind.attribute_map.values())
    if unknown:
        raise RefusedError(400, f"unknown fields {sorted(unknown)}")
    runtime = set(given.get("runtime_config") or {})
    if runtime - set(kfp_server_api.V2beta1RuntimeConfig.attribute_map.values()):
        raise RefusedError(400, f"unknown fields of runtime_config {sorted(runtime)}")
    assert isinstance(given, dict)
    return given


def _uploaded(body: bytes, kind: str) -> bytes:
    """The file of a form."""
    message = BytesParser(policy=HTTP).parsebytes(
        b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body
    )
    for part in message.iter_parts():
        if part.get_param("name", header="content-disposition") == "uploadfile":
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            return content
    raise RefusedError(400, "Failed to read pipeline from file")


def _loaded(content: bytes) -> list[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return list(yaml.load_all(content, loader))


def _spec(documents: list[Any]) -> Any:
    """Parses a pipeline, and the settings of its platform, strictly."""
    try:
        spec = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
        for platform in documents[1:]:
            parsed = json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
            kubernetes = json_format.MessageToDict(parsed)["platforms"]["kubernetes"]
            for config in kubernetes["deploymentSpec"]["executors"].values():
                json_format.ParseDict(
                    config, kubernetes_executor_config_pb2.KubernetesExecutorConfig()
                )
    except (json_format.ParseError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise RefusedError(400, f"invalid pipeline spec: {error}") from None
    if not spec.pipeline_info.name or not spec.root.dag.tasks:
        raise RefusedError(400, "invalid pipeline spec: no name or no task")
    return spec


def _hold(spec: Any, given: Mapping[str, Any]) -> None:
    """Holds the parameters of a run against its pipeline."""
    values = (given.get("runtime_config") or {}).get("parameters") or {}
    wanted = json_format.MessageToDict(spec)["root"].get("inputDefinitions", {})
    parameters = wanted.get("parameters", {})
    for name, one in parameters.items():
        if name not in values and "defaultValue" not in one and not one.get("isOptional"):
            raise RefusedError(400, f"parameter {name} is not optional, yet has no value")
    for name, value in values.items():
        if name not in parameters:
            raise RefusedError(400, f"parameter(s) provided are not required by pipeline: {name}")
        kind = parameters[name]["parameterType"]
        fits = isinstance(value, KINDS[kind]) and (kind == "BOOLEAN" or value not in (True, False))
        if not fits:
            raise RefusedError(400, f"input parameter {name} requires type {kind}")


def _page(kinds: str, rows: list[dict[str, Any]], query: dict[str, str], key: str) -> Any:
    """One page of a list, filtered and sorted."""
    criteria = [query.get("filter", ""), query.get("sort_by", "")]
    begin = 0
    if query.get("page_token"):
        try:
            token = json.loads(base64.b64decode(query["page_token"], validate=True))
            begin, meant = token["begin"], token["criteria"]
        except (ValueError, KeyError, TypeError):
            raise RefusedError(400, "Invalid page token") from None
        if any(criteria) and meant != criteria:
            raise RefusedError(400, "page token does not match the supplied sort by or filter")
    wanted = _predicates(kinds, criteria[0])
    rows = [one for one in rows if all(_meets(one, predicate) for predicate in wanted)]
    words = criteria[1].lower().split() or ["created_at"]
    if (
        len(words) > 2
        or words[0] not in SORTED_BY[kinds]
        or words[1:] not in ([], ["asc"], ["desc"])
    ):
        raise RefusedError(400, f"Invalid sorting field: {criteria[1]!r}")
    rows = sorted(rows, key=lambda one: str(one.get(words[0], "")), reverse=words[1:] == ["desc"])
    size = int(query.get("page_size") or 20)
    if size < 0:
        raise RefusedError(400, "The page size should be greater than 0")
    end = begin + min(size, 200)
    page: dict[str, Any] = {"total_size": len(rows)}
    if rows[begin:end]:
        page[key] = rows[begin:end]
    if len(rows) > end:
        token = json.dumps({"begin": end, "criteria": criteria})
        page["next_page_token"] = base64.b64encode(token.encode()).decode()
    return page


def _predicates(kinds: str, text: str) -> list[dict[str, Any]]:
    if not text:
        return []
    try:
        given = json.loads(unquote(text))
        found = given["predicates"]
    except (ValueError, KeyError, TypeError):
        raise RefusedError(400, "failed to parse valid filter") from None
    assert isinstance(found, list)
    for one in found:
        if one.get("key") not in FILTERED_BY[kinds]:
            raise RefusedError(400, f"no support for filtering on unrecognized field {one}")
    return found


def _meets(one: Mapping[str, Any], predicate: Mapping[str, Any]) -> bool:
    key = predicate["key"]
    match predicate:
        case {"operation": "EQUALS" | 1, "string_value": wanted}:
            return one.get(key) == wanted
        case {"operation": "EQUALS" | 1, "stringValue": wanted}:
            return one.get(key) == wanted
        case {"operation": "IN", "string_values": {"values": list(wanted)}}:
            return one.get(key) in wanted
    raise RefusedError(400, f"invalid predicate {predicate}")


@contextmanager
def serving(**given: Any) -> Iterator[Stub]:
    """A stub that answers on a port of this machine; `host` is its address."""
    stub = Stub(**given)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def handle_all(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                stub.calls.append(f"{self.command} {parts.path.removeprefix(API)}")
                if stub.dies_after is not None:
                    stub.dies_after -= 1
                status, headers, content = self._reply(parts.path, parts.query, body)
                dead = stub.dies_after is not None and stub.dies_after <= 0
                if stub.holds is not None:
                    stub.holds -= 1
                    dead = dead or stub.holds == 0
                holds = stub.holds == 0
            if holds:
                stub.held.set()
                stub.released.wait()
            if dead:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _reply(self, path: str, query: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
            if stub.dies_after is not None and stub.dies_after < 0:
                return 503, {}, b""
            if stub.page is not None:
                page = stub.page
                return page["status"], page.get("headers", {}), page.get("body", b"")
            try:
                given = self.headers.get("Authorization", "")
                if stub.token is not None and given != f"Bearer {stub.token}":
                    raise RefusedError(401, "Unauthenticated: no valid token")
                if not path.startswith(API):
                    raise RefusedError(404, "Not Found")
                kind = self.headers.get("Content-Type", "")
                answer = stub.answer(self.command, path, dict(parse_qsl(query)), body, kind)
                status = 200
            except RefusedError as error:
                status = error.status
                answer = {"error": str(error), "code": 3, "message": str(error), "details": []}
            head = {"Content-Type": "application/json"}
            return status, head, json.dumps(answer).encode()

        do_GET = do_POST = do_DELETE = handle_all

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.host = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
