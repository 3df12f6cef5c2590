"""Finds the KFP API server, sends it requests, and explains its refusals.

`kfp.Client` can't make a schedule that runs the newest version of its pipeline: it demands one. It
also prints as it goes, sets no time limit, keeps a namespace in the home folder, and follows a
redirect to a login page, where it fails with an error of its parser. So the few requests that are
needed are made by `net.client`, under its rules. None is repeated: each command can be given again.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from cowest.errors import ClusterError, ConfigError
from cowest.net import address
from cowest.net.client import JSON, Client, Reply, decode, encode
from cowest.net.connections import NOT_HTTP, LostError

API = "/apis/v2beta1"
TIMEOUT = 30.0
"""Seconds that a request may take, from first byte to last."""
PAGE, PAGES = 100, 100
"""Entries of a page, and the most pages of a list that are read."""
IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
"""The server's own address in the cluster, where Kubeflow is installed as usual."""
TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105  a path
"""The token that a pod has by a projected volume of audience pipelines.kubeflow.org."""
NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
"""The file that holds a pod's own namespace."""
WORDS = 400
"""Characters of a server's message that are shown."""


@dataclass(frozen=True)
class Server:
    """An API server and the credentials for it."""

    host: str
    """http://host:port, perhaps with a path; no slash at the end."""
    namespace: str | None
    ui: str
    """Address of KFP's pages for people."""
    token: str | None = field(repr=False, default=None)


def find(
    host: str | None, namespace: str | None, token_file: str | None, env: Mapping[str, str]
) -> Server:
    """The server named by flags, or by the environment, or else the one of the pod's cluster.

    Raises ConfigError if there is none, or if a token would cross a network in clear.
    """
    inside = "KUBERNETES_SERVICE_HOST" in env
    host = host or env.get("KF_PIPELINES_ENDPOINT") or (IN_CLUSTER if inside else None)
    if not host:
        raise ConfigError(
            "no KFP server is named: give --host or KF_PIPELINES_ENDPOINT, such as "
            "http://127.0.0.1:8888 after "
            "`kubectl port-forward -n kubeflow svc/ml-pipeline 8888:8888`"
        )
    host = host.rstrip("/")
    objection = address.objection(host)
    if objection is not None:
        raise ConfigError(f"--host: {_shown(host)} {objection}")
    token = _token(token_file, env, inside)
    parts = urlsplit(host)
    if token and parts.scheme == "http" and address.outside(parts.hostname or ""):
        raise ConfigError(
            f"--host {host}: the token would cross the network in clear: give an https address, "
            "or forward the port to this machine"
        )
    namespace = namespace or env.get("COWEST_KFP_NAMESPACE") or _read(Path(NAMESPACE), inside)
    ui = (env.get("KF_PIPELINES_UI_ENDPOINT") or host).rstrip("/")
    return Server(host, namespace, ui, token)


def _shown(host: str) -> str:
    """An address without name and password."""
    return re.sub(r"//[^/@]*@", "//***@", host)


def _token(token_file: str | None, env: Mapping[str, str], inside: bool) -> str | None:
    """The token of a file, of the environment, or of the service account. Raises ConfigError."""
    if token_file is not None:
        token = _read(Path(token_file), True)
        if not token:
            raise ConfigError(
                f"--token-file {token_file}: the file is not there, or can't be read, or is empty"
            )
    else:
        path = Path(env.get("KF_PIPELINES_SA_TOKEN_PATH", TOKEN))
        named = inside or "KF_PIPELINES_SA_TOKEN_PATH" in env
        token = env.get("COWEST_KFP_TOKEN", "").strip() or _read(path, named)
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(
            "the token for KFP holds spaces or other characters that no token has: check "
            "--token-file, COWEST_KFP_TOKEN or KF_PIPELINES_SA_TOKEN_PATH"
        )
    return token


def _read(path: Path, wanted: bool) -> str | None:
    if not wanted:
        return None
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


class Api:
    """Requests to one server, one after the other."""

    def __init__(self, server: Server, client: Client, runner: asyncio.Runner) -> None:
        self.server = server
        self._client, self._runner = client, runner
        self.namespace = server.namespace
        """None on a single-user server, which has no namespaces."""

    def begin(self) -> None:
        """Asks the server whether it is well, and whether it is shared by namespaces.

        Raises ClusterError if it is no KFP server, and ConfigError if it wants a namespace.
        """
        several = self.get("/healthz").get("multi_user") is True
        if several and self.namespace is None:
            raise ConfigError(
                f"the KFP server at {self.server.host} is shared by namespaces: give --namespace "
                "or COWEST_KFP_NAMESPACE"
            )
        if not several:
            self.namespace = None

    def get(self, path: str, **query: str | int | None) -> dict[str, Any]:
        """Reads one thing. Raises ClusterError."""
        return self._ask("GET", path, query)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Makes or changes one thing. Raises ClusterError."""
        return self._ask("POST", path, {}, encode(body) if body is not None else None)

    def delete(self, path: str, **query: str | int | None) -> bool:
        """Deletes one thing; False if it was gone already. Raises ClusterError."""
        try:
            self._ask("DELETE", path, query)
        except ClusterError as error:
            if error.status == 404:
                return False
            raise
        return True

    def upload(self, path: str, content: bytes, **query: str | None) -> dict[str, Any]:
        """Uploads a compiled pipeline. Raises ClusterError."""
        # A mark that is in the file only if somebody looked for it.
        mark = hashlib.sha256(content).hexdigest()
        head = (
            f"--{mark}\r\n"
            'Content-Disposition: form-data; name="uploadfile"; filename="turn.yaml"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        data = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        return self._ask("POST", path, query, data, f"multipart/form-data; boundary={mark}")

    def find(self, path: str, key: str, **query: str | int | None) -> Iterator[dict[str, Any]]:
        """Reads a list page by page. Raises ClusterError."""
        token = None
        for _ in range(PAGES):
            page = self.get(path, page_size=PAGE, page_token=token, **query)
            for one in _list(page, key):
                # An entry that the server can't read has an id and the reason.
                if isinstance(one, dict):
                    yield one
            token = page.get("next_page_token")
            if not token:
                return
        raise ClusterError(
            f"{self.server.host}: {path} has more than {PAGE * PAGES} entries: delete old ones"
        )

    def filtered(
        self, path: str, key: str, predicates: list[dict[str, Any]], **query: str | None
    ) -> Iterator[dict[str, Any]]:
        """The entries of a list that meet all of KFP's predicates. Raises ClusterError."""
        return self.find(path, key, filter=json.dumps({"predicates": predicates}), **query)

    def named(self, path: str, key: str, name: str) -> list[dict[str, Any]]:
        """The entries of a list that have a name, in our namespace. Raises ClusterError."""
        found = self.filtered(path, key, [equal("display_name", name)], namespace=self.namespace)
        return [one for one in found if one.get("display_name") == name]

    def link(self, page: str) -> str:
        """The address of a page for people."""
        return f"{self.server.ui}/#/{page}"

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int | None],
        data: bytes | None = None,
        kind: str = JSON,
    ) -> dict[str, Any]:
        given = {name: value for name, value in query.items() if value is not None}
        url = f"{self.server.host}{API}{path}" + (f"?{urlencode(given)}" if given else "")
        try:
            reply = self._runner.run(self._client.send(method, url, data, kind))
        except LostError as error:
            raise ClusterError(self._lost(method, error)) from None
        return self._read(reply, f"{method} {path}")

    def _lost(self, method: str, error: LostError) -> str:
        """The error message for a request that got no answer."""
        reason = "no answer in HTTP" if str(error) == NOT_HTTP else str(error)
        if not error.reached:
            reason += "; check the address, and that its port is forwarded if it has to be"
        elif method != "GET":
            reason += (
                "; the server may have done it all the same: look with `status` before you ask "
                "again"
            )
        return f"the KFP server at {self.server.host}: {reason}"

    def _read(self, reply: Reply, asked: str) -> dict[str, Any]:
        """Returns the object that a reply holds. Raises ClusterError."""
        try:
            body = decode(reply.content) if reply.content.strip() else {}
        except (ValueError, RecursionError):
            body = None
        if reply.status == 200 and isinstance(body, dict):
            return body
        raise ClusterError(
            f"the KFP server at {self.server.host}: {self._refusal(reply, body, asked)}",
            reply.status,
        )

    def _refusal(self, reply: Reply, body: Any, asked: str) -> str:
        """The error message for a reply that is no answer."""
        said = self._said(body)
        if reply.status == 401:
            return (
                "401, it wants a valid token: give --token-file or COWEST_KFP_TOKEN, or renew "
                f"the one given{said}"
            )
        if reply.status == 403:
            return (
                f"403, this account may not {asked}: give its role that right "
                f"(infra/kubernetes/roles.yaml){said}"
            )
        if reply.status == 404 and not said:
            return f"404 to {asked}: no KFP of version 2 answers there: check the address"
        redirected = 300 <= reply.status < 400
        if redirected or (not isinstance(body, dict) and reply.status < 500):
            page = "a redirect" if redirected else "a page"
            return (
                f"{reply.status}, {page} in place of an answer: a login stands before it, or it is "
                "another server: give a token that passes the login, or forward the port of "
                "svc/ml-pipeline"
            )
        return f"{reply.status} to {asked}{said}"

    def _said(self, body: Any) -> str:
        """The server's own message, cut, on one line, without our token."""
        if not isinstance(body, dict):
            return ""
        text = next(
            (
                body[key]
                for key in ("message", "error_message", "error_details", "error")
                if isinstance(body.get(key), str) and body[key]
            ),
            "",
        )
        if self.server.token:
            text = text.replace(self.server.token, "***")
        said = plain(text, WORDS)
        return f": {said}" if said else ""


@contextmanager
def connected(server: Server, timeout: float = TIMEOUT) -> Iterator[Api]:
    """Opens a server for requests, once it has answered. Raises ClusterError and ConfigError."""
    client = Client(server.host, server.token, timeout)
    with asyncio.Runner() as runner:
        api = Api(server, client, runner)
        try:
            api.begin()
            yield api
        finally:
            runner.run(client.close())


def _list(page: Mapping[str, Any], key: str) -> list[Any]:
    """The entries of a page; the server leaves out an empty list."""
    found = page.get(key)
    return found if isinstance(found, list) else []


def text_of(one: Mapping[str, Any], key: str) -> str:
    """A required field of an answer, such as an id. Raises ClusterError."""
    value = one.get(key)
    if not isinstance(value, str) or not value:
        raise ClusterError(f"the KFP server answered without {key}: is it a KFP of version 2?")
    return value


def plain(text: Any, most: int) -> str:
    """A text of the server, cut, on one line, without control characters for terminals."""
    words = "".join(sign if sign.isprintable() else " " for sign in str(text)).split()
    found = " ".join(words)
    return found if len(found) <= most else f"{found[:most]}..."


def equal(field: str, value: str) -> dict[str, Any]:
    """KFP's predicate that a field has a value."""
    return {"operation": "EQUALS", "key": field, "string_value": value}


def part(identity: str) -> str:
    """An id, quoted as a part of a path."""
    return quote(identity, safe="")
