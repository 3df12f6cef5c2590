"""The manifests of infra/kubernetes: strictly valid, and in agreement with what they serve."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cowest.kubeflow import cron, server
from tests import lines

FOLDER = lines.ROOT / "infra" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
VERSIONS = ("1.28", "1.32", "1.37")
KINDS = {
    "Job",
    "PersistentVolumeClaim",
    "Role",
    "RoleBinding",
    "Secret",
    "ServiceAccount",
}
"""An unknown kind would only warn."""


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def named(name: str, kind: str) -> dict[str, Any]:
    """One manifest of all."""
    found = [one for path in FILES for one in documents(path)]
    (one,) = [one for one in found if (one["metadata"]["name"], one["kind"]) == (name, kind)]
    return one


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_manifests_meet_the_schemas_strictly(path: Path, version: str) -> None:
    found = documents(path)
    assert found
    for one in found:
        kubernetes_validate.validate(one, version, strict=True)
        assert one["kind"] in KINDS
        assert one["metadata"]["namespace"] == "cowest"


def test_a_slip_would_be_found() -> None:
    slip = {**named("cowest-steps", "ServiceAccount"), "secrets_": []}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(slip, VERSIONS[0], strict=True)


def test_secrets_hold_no_values() -> None:
    for one in documents(FOLDER / "secrets.yaml"):
        assert set(one) == {"apiVersion", "kind", "type", "metadata"}


def test_who_submits_has_the_rights_that_the_commands_ask_for() -> None:
    """The server holds each request against resource and verb; recurring runs are jobs to it."""
    rights = {
        (resource, verb)
        for rule in named("cowest-operator", "Role")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {("jobs", verb) for verb in ("list", "create", "enable", "delete")}
    asked |= {(kind, verb) for kind in ("pipelines", "experiments") for verb in ("list", "create")}
    asked |= {("runs", verb) for verb in ("get", "list", "create")}
    assert rights >= asked
    assert not {verb for _, verb in rights} & {"*", "update", "terminate"}


def test_roles_are_given_to_accounts_that_are_there() -> None:
    for name in ("cowest-steps", "cowest-operator"):
        named(name, "ServiceAccount")
        named(name, "Role")
        (subject,) = named(name, "RoleBinding")["subjects"]
        assert subject == {"kind": "ServiceAccount", "name": name, "namespace": "cowest"}
    rules = named("cowest-steps", "Role")["rules"]
    assert all("*" not in rule["verbs"] and "*" not in rule["resources"] for rule in rules)


def test_the_job_schedules_as_the_commands_are_given() -> None:
    from cowest_pipelines.__main__ import parser

    pod = named("cowest-schedule", "Job")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "cowest_pipelines"]
    given = parser().parse_args(container["args"])
    assert cron.parse(given.cron).text == "0 0 2 * * *"
    assert given.service_account == "cowest-steps"
    (_, mount) = container["volumeMounts"]
    assert str(Path(mount["mountPath"]) / "token") == server.TOKEN
