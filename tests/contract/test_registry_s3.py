"""A registry whose log is in PostgreSQL and whose files are in a bucket, as a team would have
it.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cowest.config import file_digest
from cowest.errors import RegistryError
from cowest.registry.mlflow import RegistryConfig
from tests import lines, s3, stores, tiny
from tests.registries import make_version, migrated_database, serving


def test_versions_are_kept_in_a_bucket_and_come_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = stores.server().database(like=migrated_database())
    with s3.server(tmp_path / "s3") as bucket:
        for name, value in {**bucket.environment(), "MLFLOW_S3_ENDPOINT_URL": bucket.url}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        config = RegistryConfig(
            uri=database, name="handbook", artifacts=f"{bucket.bucket}/registry"
        )
        folder = make_version(tmp_path / "version", curves='{"step": 1}\n')
        made = config.open().decide(
            folder,
            turn="aa",
            promote=True,
            against=None,
            reason="better",
            tags={},
            serving=serving(),
        )
        another = config.open()
        assert another.champion() == made.version == 1
        another.fetch(1, tmp_path / "champion")
        assert file_digest(tmp_path / "champion") == file_digest(folder)
        elsewhere = RegistryConfig(
            uri=database, name="elsewhere", artifacts="s3://nobody-made-this/registry"
        ).open()
        with pytest.raises(RegistryError, match="nobody-made-this") as refused:
            elsewhere.decide(
                folder, turn="bb", promote=True, against=None, reason="better", tags={}
            )
        assert bucket.secret not in str(refused.value) and "\n" not in str(refused.value)
        assert elsewhere.log() == []
    assert not any((tmp_path / name).exists() for name in ("mlruns", "mlartifacts"))


AS_IN_THE_IMAGE = """
import importlib.abc, json, re, sys
from importlib.metadata import distribution, distributions
from pathlib import Path
from packaging.requirements import Requirement

def with_what_it_needs(wanted):
    found, waiting = {}, [Requirement(line) for line in wanted]
    while waiting:
        one = waiting.pop()
        name = re.sub("[-_.]+", "-", one.name).lower()
        extras = one.extras or {""}
        if name not in found:
            found[name] = distribution(one.name)
            for line in found[name].requires or []:
                further = Requirement(line)
                mark = further.marker
                if mark is None or any(mark.evaluate({"extra": extra}) for extra in extras):
                    waiting.append(further)
    return found

requirements, registry, folder = sys.argv[1:]
lines = Path(requirements).read_text().replace("+cpu", "").splitlines()
installed = with_what_it_needs([line for line in lines if line and line[0] not in "#-"])
# It has MLflow's client alone, which shares its folder with the rest of MLflow.
assert "mlflow" not in installed and "pandas" not in installed
client = {str(file) for file in installed["mlflow-skinny"].files}

def modules_of(found):
    return {file.parts[0].partition(".")[0] for one in found for file in one.files or []}

absent = modules_of(distributions()) - modules_of(installed.values()) - {"cowest"}
assert {"pandas", "kfp", "flask"} <= absent

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        place = name.replace(".", "/")
        of_client = {f"{place}.py", f"{place}/__init__.py"} & client
        known = of_client if name.startswith("mlflow") else name.partition(".")[0] not in absent
        if not known:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from cowest.ledger.store import open_store
from cowest.registry.mlflow import RegistryConfig
opened = RegistryConfig(**json.loads(registry)).open()
number = opened.champion()
opened.fetch(number, Path(folder))
calls = open_store()
calls.read(calls.turn)
print(number, "boto3" in sys.modules, "psycopg" in sys.modules, "pandas" in sys.modules)
"""
"""Fetches the champion with nothing importable but what the serving image installs."""


def test_the_packages_of_the_serving_image_fetch_from_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No engine is needed: what the image does not install can't be imported."""
    database = stores.server().database(like=migrated_database())
    with s3.server(tmp_path / "s3") as bucket:
        environment = {
            **bucket.environment(),
            "MLFLOW_S3_ENDPOINT_URL": bucket.url,
            "COWEST_STORE": stores.server().database(),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        config = RegistryConfig(
            uri=database, name="handbook", artifacts=f"{bucket.bucket}/registry"
        )
        folder = make_version(tmp_path / "version")
        given = {"turn": "aa", "promote": True, "against": None, "reason": "better", "tags": {}}
        config.open().decide(folder, serving=serving(), **given)
        requirements = str(lines.ROOT / "serving" / "requirements.txt")
        told = json.dumps(config.model_dump(mode="json"))
        done = subprocess.run(
            [sys.executable, "-c", AS_IN_THE_IMAGE, requirements, told, str(tmp_path / "got")],
            env={**tiny.surroundings(), **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout.split() == ["1", "True", "True", "False"]
        assert file_digest(tmp_path / "got") == file_digest(folder)
