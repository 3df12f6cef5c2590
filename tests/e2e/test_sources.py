"""Raw data from a path, an address or a hub: whole, as announced, of the digest that was asked
for, and from nowhere that is no source.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest.cli import main
from cowest.domains import domain
from cowest.errors import ConfigError, CoWestError, InputError
from cowest.net import address, download
from cowest.raw import sources
from tests.published import INVENTED

ROWS = b'{"q": "Who?", "a": "Ada"}\n'


class Site:
    """A small web server: what lies under which path, and which requests came."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""

    def put(self, path: str, content: bytes, status: int = 200, **headers: str) -> str:
        self.pages[path] = (
            status,
            content,
            {name.replace("_", "-"): value for name, value in headers.items()},
        )
        return self.url + path


@contextmanager
def serving() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers.get("Authorization")))
            status, content, headers = site.pages.get(self.path, (404, b"", {}))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as found:
        yield found


def nothing_there(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


def test_an_address_gives_its_file_with_its_digest(tmp_path: Path, site: Site) -> None:
    url = site.put("/data/t.jsonl?X-Signature=secret", ROWS)
    digest = hashlib.sha256(ROWS).hexdigest()
    assert sources.fetch(url, tmp_path / "raw" / "t", sha256=digest.upper()) == [
        ("t.jsonl", len(ROWS), digest)
    ]
    assert (tmp_path / "raw" / "t" / "t.jsonl").read_bytes() == ROWS
    record = (tmp_path / "raw" / "t" / "source.yaml").read_text()
    assert yaml.safe_load(record) == {
        "source": f"{site.url}/data/t.jsonl",
        "files": {"t.jsonl": {"bytes": len(ROWS), "sha256": digest}},
    }
    assert "secret" not in record
    with pytest.raises(InputError, match="is there already"):
        sources.fetch(url, tmp_path / "raw" / "t")


def test_a_redirect_is_followed(tmp_path: Path, site: Site) -> None:
    site.put("/there.jsonl", ROWS)
    url = site.put("/t.jsonl", b"", 302, Location="/there.jsonl")
    assert sources.fetch(url, tmp_path / "t")[0][0] == "t.jsonl"
    for hop in range(address.HOPS):
        site.put(f"/{hop}.jsonl", b"", 302, Location=f"/{hop + 1}.jsonl")
    site.put(f"/{address.HOPS}.jsonl", ROWS)
    assert sources.fetch(site.url + "/0.jsonl", tmp_path / "far")
    site.put("/further.jsonl", b"", 302, Location="/0.jsonl")
    with pytest.raises(InputError, match="redirects more than 5 times"):
        sources.fetch(site.url + "/further.jsonl", tmp_path / "further")


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("http://169.254.169.254/latest/t.jsonl", "link-local or metadata"),
        ("http://0xA9FEA9FE/t.jsonl", "link-local or metadata"),
        ("http://metadata.google.internal/t.jsonl", "link-local or metadata"),
        ("file:///etc/passwd", "is not fetched from"),
        ("ftp://127.0.0.1/t.jsonl", "is not fetched from"),
        ("/t.jsonl", "can't be fetched|status 302"),
    ],
)
def test_a_redirect_to_where_no_data_are_is_not_followed(
    tmp_path: Path, site: Site, to: str, said: str
) -> None:
    url = site.put("/t.jsonl", b"", 302, Location=to)
    with pytest.raises(CoWestError, match=said):
        sources.fetch(url, tmp_path / "t")
    assert nothing_there(tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("http://169.254.169.254/t.jsonl", "link-local or metadata"),
        ("http://[fe80::1]/t.jsonl", "link-local or metadata"),
        ("file:///etc/t.jsonl", "give a path, http"),
        ("ftp://host/t.jsonl", "give a path, http"),
        ("s3://bucket/t.jsonl", "give a path, http"),
        ("http://user:word@127.0.0.1/t.jsonl", "holds a name or password"),
        ("http://127.0.0.1:1/t.jsonl", "can't be fetched"),
        ("http://127.0.0.1:99999/t.jsonl", "is no address"),
        ("http://127.0.0.1/t.exe", "is no table"),
        ("http://127.0.0.1/", "is no table"),
        ("hf://no-owner", "should be hf://owner/name"),
        ("no/such/file.jsonl", "no such file"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(CoWestError, match=said) as error:
        sources.fetch(source, tmp_path / "t")
    assert "word" not in str(error.value).replace("password", "") and nothing_there(tmp_path)


def test_a_name_that_leads_elsewhere_once_it_was_looked_at(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of the connection counts, not only what a name was when it was asked for."""
    monkeypatch.setattr(download, "forbidden", lambda host: host == "127.0.0.1")
    site.put("/t.jsonl", ROWS)
    with pytest.raises(ConfigError, match="leads to 127"):
        sources.fetch(site.url.replace("127.0.0.1", "localhost") + "/t.jsonl", tmp_path / "t")
    assert not site.asked


@pytest.mark.parametrize(
    ("content", "headers", "options", "said"),
    [
        (ROWS, {"Content_Length": "9999"}, {}, "was cut|can't be fetched"),
        (ROWS * 100, {}, {"limit": 1000}, "more than the 1000 bytes"),
        (ROWS, {}, {"sha256": "00" * 32}, "is not what it should be: its SHA-256 is"),
        (ROWS, {"Content_Encoding": "gzip"}, {}, "comes packed"),
        (b"\x1f\x8b" + ROWS, {}, {}, "packed by gzip"),
        (b"", {}, {}, "is empty"),
    ],
    ids=["cut", "too long", "another digest", "encoded", "gzip", "empty"],
)
def test_what_is_not_as_it_should_be_leaves_nothing(
    tmp_path: Path,
    site: Site,
    content: bytes,
    headers: dict[str, str],
    options: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(InputError, match=said):
        sources.fetch(site.put("/t.jsonl", content, **headers), tmp_path / "raw" / "t", **options)
    assert nothing_there(tmp_path / "raw")


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "asks for a key"), (403, "gated"), (404, "nothing there"), (503, "try again later")],
)
def test_a_refusal_in_words(tmp_path: Path, site: Site, status: int, said: str) -> None:
    with pytest.raises(InputError, match=rf"/t.jsonl: status {status}: .*{said}"):
        sources.fetch(site.put("/t.jsonl", b"", status), tmp_path / "t")


def test_a_file_and_a_folder_are_copied(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for name in ("train.jsonl", "test.jsonl", "notes.txt"):
        (tmp_path / "from" / name).write_bytes(ROWS)
    assert [name for name, *_ in sources.fetch(str(tmp_path / "from"), tmp_path / "a")] == [
        "test.jsonl",
        "train.jsonl",
    ]
    assert [
        name for name, *_ in sources.fetch(str(tmp_path / "from" / "test.jsonl"), tmp_path / "b")
    ] == ["test.jsonl"]
    (tmp_path / "from" / "link.jsonl").symlink_to(tmp_path / "from" / "test.jsonl")
    with pytest.raises(InputError, match="has links"):
        sources.fetch(str(tmp_path / "from"), tmp_path / "c")


def hub(
    site: Site, name: str, files: dict[str, bytes], revision: str = "main", large: bool = True
) -> None:
    """A data set as the hub has it: a listing, and files behind redirects to another host's
    name.
    """
    siblings = []
    for path, content in files.items():
        size = {"size": len(content)}
        lfs = {"lfs": {**size, "sha256": hashlib.sha256(content).hexdigest()}} if large else {}
        siblings.append({"rfilename": path, **size, **lfs})
        site.put(f"/cdn/{path}", content)
        cdn = site.url.replace("127.0.0.1", "localhost")
        site.put(f"/datasets/{name}/resolve/c0ffee/{path}", b"", 302, Location=f"{cdn}/cdn/{path}")
    listing = json.dumps(
        {
            "id": name,
            "sha": "c0ffee",
            "siblings": [*siblings, {"rfilename": "README.md", "size": 3}],
        }
    ).encode()
    site.put(f"/api/datasets/{name}/revision/{revision}?blobs=true", listing)


def parquet_files(folder: Path) -> dict[str, bytes]:
    import pyarrow
    from pyarrow import parquet

    INVENTED["medmcqa"](folder)
    rows = [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()]
    rows = [{**row, "cop": row["cop"] - 1} for row in rows]
    found = {}
    for name, its in (
        ("train-00000-of-00002", rows[:50]),
        ("train-00001-of-00002", rows[50:90]),
        ("validation-00000-of-00001", rows[90:]),
    ):
        parquet.write_table(pyarrow.Table.from_pylist(its), folder / "part.parquet")
        found[f"data/{name}.parquet"] = (folder / "part.parquet").read_bytes()
    return found


def test_a_data_set_of_the_hub_is_what_the_domain_reads(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url + "/")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.chdir(tmp_path)
    hub(site, "somebody/medmcqa", parquet_files(tmp_path), revision="refs%2Fconvert%2Fparquet")
    assert main(["data", "fetch", "hf://somebody/medmcqa@refs/convert/parquet"]) == 0
    raw = Path("data/raw/medmcqa")
    assert (
        yaml.safe_load((raw / "source.yaml").read_text())["source"]
        == "hf://somebody/medmcqa@c0ffee"
    )
    queries = list(domain({"domain": "medmcqa", "first": 0}).load(raw))
    assert {query.split for query in queries} == {"train", "dev"} and len(queries) > 90
    asked = [(path, key) for path, key in site.asked if path.startswith("/cdn/")]
    assert len(asked) == 3 and all(key is None for _, key in asked), (
        "the key goes to the hub and to nobody else"
    )
    assert all(
        key == "Bearer hf_secret" for path, key in site.asked if not path.startswith("/cdn/")
    )
    said = capsys.readouterr()
    assert "hf_secret" not in said.out + said.err and "data/raw/medmcqa" in said.out


def test_splits_are_named_by_patterns(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    files = {
        "plain/train-0.jsonl": ROWS,
        "plain/train-1.jsonl": ROWS,
        "plain/held.jsonl": ROWS,
        "extra/train-0.jsonl": ROWS,
    }
    hub(site, "a/b", files, large=False)
    found = sources.fetch(
        "hf://a/b", tmp_path / "b", splits={"train": "plain/train-*", "dev": "plain/held*"}
    )
    assert [name for name, *_ in found] == [
        "train-00000-of-00002.jsonl",
        "train-00001-of-00002.jsonl",
        "dev.jsonl",
    ]
    with pytest.raises(
        InputError, match=r"several files called train-0.jsonl: pick some with --split"
    ):
        sources.fetch("hf://a/b", tmp_path / "c")
    with pytest.raises(
        InputError, match=r"no table is like 'test\*': there are plain/train-0.jsonl"
    ):
        sources.fetch("hf://a/b", tmp_path / "c", splits={"test": "test*"})
    with pytest.raises(ConfigError, match="--sha256 is of one file"):
        sources.fetch("hf://a/b", tmp_path / "c", splits={"train": "plain/*"}, sha256="00" * 32)
    with pytest.raises(InputError, match="over the limit"):
        sources.fetch("hf://a/b", tmp_path / "c", splits={"train": "plain/*"}, limit=30)
    assert not (tmp_path / "c").exists()


def test_a_hub_that_gives_other_bytes_than_it_lists(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    hub(site, "a/b", {"train.jsonl": ROWS})
    site.put("/cdn/train.jsonl", ROWS.replace(b"Ada", b"Eve"))
    with pytest.raises(InputError, match="its SHA-256 is"):
        sources.fetch("hf://a/b", tmp_path / "b")
    with pytest.raises(InputError, match="status 404"):
        sources.fetch("hf://a/c", tmp_path / "b")
    site.put("/api/datasets/a/d/revision/main?blobs=true", b"<html>")
    with pytest.raises(InputError, match="does not answer as the hub does"):
        sources.fetch("hf://a/d", tmp_path / "b")
    assert nothing_there(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [["--split", "train"], ["--split", "other=a"], ["--split", "train=a", "--split", "train=b"]],
)
def test_a_split_that_is_none(
    wrong: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "fetch", "hf://a/b", "--name", "b", *wrong]) == 1
    assert "give each of train, dev and test once" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["nan", "inf", "-1", "0"])
def test_a_limit_that_is_none_is_refused(
    tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.jsonl").write_text("{}\n")
    assert main(["data", "fetch", "t.jsonl", f"--limit={limit}"]) == 1
    assert "--limit" in capsys.readouterr().err and not (tmp_path / "data" / "raw" / "t").exists()


@pytest.mark.parametrize(
    "source",
    [
        "https://user:hunter2@host.example/questions.csv",
        "https://user:hun@ter2@host.example/questions.csv",
        "HTTPS://hunter2@host.example/",
        "https:/user:hunter2@host.example/questions.csv",
        "https://user:hunter2@[host.example/questions.csv",
        "s3://key:hunter2@bucket/questions.csv",
        "hf://user:hunter2@host/name",
        "user:hunter2@host:/questions.csv",
        "//user:hunter2@host.example/questions.csv",
    ],
)
@pytest.mark.parametrize("name", [[], ["--name", "q"]])
def test_a_password_is_never_shown(
    source: str,
    name: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "fetch", source, *name]) == 1
    shown = "".join(capsys.readouterr())
    assert "ter2" not in shown and "holds a name or password" in shown and "take it out" in shown


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("https://host.example/at@home/mills.v2.tsv?at=@x", "data/raw/mills.v2 is there"),
        ("hf://some-body/mills@refs/pr/1", "data/raw/mills is there"),
        ("there/at@home/mills.csv", "data/raw/mills is there"),
        ("hf://mills@v1", "data/raw/mills is there"),
        ("https://[host/mills.csv", "the source is no address"),
        ("https://host.example", "'' is no name of a data set"),
    ],
)
def test_a_source_gives_the_name(
    source: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("mills", "mills.v2"):
        (tmp_path / "data" / "raw" / name).mkdir(parents=True)
        (tmp_path / "data" / "raw" / name / "t.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["data", "fetch", source]) == 1
    assert said in capsys.readouterr().err
    if "no address" in said:
        assert main(["data", "fetch", source, "--name", "q"]) == 1
        assert said in capsys.readouterr().err
