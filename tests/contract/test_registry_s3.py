"""A registry whose log is in PostgreSQL and whose files are in a bucket, as a team would have
it.
"""

from pathlib import Path

import pytest

from cowest.config import file_digest
from cowest.errors import RegistryError
from cowest.registry.mlflow import RegistryConfig
from tests import s3, stores
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
