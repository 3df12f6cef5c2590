"""Made `project.tar.xz`: a project, its call store and its registry, as CoWest 0b4f11c wrote them
on 28 November 2026.

Kept to say what is in the archive. It ran on that commit only, in the repository's root:
`PYTHONPATH=. python tests/old/make.py`.

- `model/` is a tiny Llama with random weights, `params.yaml` a turn on it. The strong model is an
  endpoint at PORT of this machine that answered while the archive was made.
- Three turns were decided: version 1 promoted, version 2 promoted over version 1, version 3 refused
  by its gate. Version 4 is a promotion that came too late: it was judged against version 1. The
  next turn starts where the third one did, from version 2, with the settings of the third.
- The call store holds the policy's drafts and the strong model's answers of those turns, and costs.
- `expected.json` says what was there: champion, decisions, number of calls, digests of the rows.
"""

import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from tests import tiny

HERE = Path(__file__).parent
PORT = 18443
ROWS = ("queries", "corpus", "drafts", "refinements", "feedback", "pairs", "trials")
TEMPLATES = HERE.parents[1] / "src" / "cowest" / "commands" / "scaffold"


class Endpoint(BaseHTTPRequestHandler):
    """Told everything by a draft that begins with a letter up to M, and nothing by another."""

    answers = ""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = body["messages"][-1]["content"]
        text = self.answers if re.search(r"(?m)^Notes: \W*[A-Ma-m]", asked) else "no idea"
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": len(asked.split()), "completion_tokens": 3, "total_tokens": 0}
        answer = {"id": "c", "model": "big-2026", "choices": [choice], "usage": usage}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def cowest(folder: Path, *words: str) -> str:
    """One command in the project."""
    command = [sys.executable, "-m", "cowest.cli", *words]
    surroundings = tiny.surroundings()
    done = subprocess.run(
        command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr, file=sys.stderr)
    assert done.returncode == 0
    return done.stdout


def make(folder: Path) -> None:
    """The project after its turns."""
    import torch
    import transformers

    tiny.make_raw(folder / "data" / "raw" / "handbook")
    tiny.make_model(folder / "model")
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(folder / "model", dtype=torch.bfloat16)
    model.save_pretrained(folder / "model")
    params = tiny.make_params(Path("model"), folder / "data" / "raw" / "handbook")
    Endpoint.answers = params["refine"]["strong"]["rules"][1]["replies"][0]
    strong = {
        "provider": "openai",
        "model": "big",
        "base_url": f"http://127.0.0.1:{PORT}/v1",
        "key_env": None,
        "price": {"prompt": 1.0, "completion": 4.0},
    }
    for stage in ("refine", "evaluate", "serve"):
        params[stage]["strong"] = strong
    params["pin"]["budget"] = {"usd": 5}
    params["sft"]["lora"] = {"r": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    made = {"dvc.yaml": "dvc.yaml", "dvcignore": ".dvcignore", "gitignore": ".gitignore"}
    for name, place in made.items():
        shutil.copy(TEMPLATES / f"{name}.template", folder / place)
    init = [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"]
    subprocess.run(init, cwd=folder, check=True)
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cowest(folder, "turn")
    kept = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(kept.replace("draws: 1000", "draws: 1001"))
    cowest(folder, "turn")
    (folder / "params.yaml").write_text(kept.replace("at_least: -1.0", "at_least: 0.99"))
    cowest(folder, "turn")
    late(folder)
    server.shutdown()


def late(folder: Path) -> None:
    """A promotion that lost its race."""
    from cowest.registry import RegistryConfig

    with tiny.standing_in(folder):
        registry = RegistryConfig(uri="sqlite:///mlflow.db", name="handbook").open()
        challenger = folder / "models" / "challenger"
        run = registry.upload(challenger, "0" * 64)
        from cowest.config import file_digest

        tags = {
            "turn": "0" * 64,
            "promote": "late",
            "against": "1",
            "reason": "judged against version 1",
            "digest": file_digest(challenger),
        }
        registry.append(run, tags)


def expected(folder: Path) -> dict[str, object]:
    """What the archive holds, as the commit that made it reads it."""
    status = json.loads(cowest(folder, "status", "--json"))
    with sqlite3.connect(folder / ".cowest" / "calls.sqlite") as db:
        calls = db.execute("SELECT model, COUNT(*) FROM calls GROUP BY model").fetchall()
    rows = {}
    for name in ROWS:
        content = (folder / "data" / f"{name}.jsonl").read_bytes()
        rows[name] = hashlib.sha256(content).hexdigest()
    return {"status": status, "calls": dict(calls), "rows": rows, "made_in": str(folder)}


def main() -> None:
    """Writes the archive and what is in it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve() / "project"
        folder.mkdir()
        make(folder)
        found = expected(folder)
        for place in (folder / ".cowest" / "calls.sqlite", folder / "mlflow.db"):
            settled(place)
        for gone in (".dvc/cache", ".dvc/tmp", "models/start"):
            shutil.rmtree(folder / gone, ignore_errors=True)
        (HERE / "expected.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        with tarfile.open(HERE / "project.tar.xz", "w:xz") as archive:
            archive.add(folder, arcname="project", filter=plain)
    print((HERE / "project.tar.xz").stat().st_size, "bytes")


def settled(place: Path) -> None:
    """One file, with nothing beside it: what SQLite still had in its log is in it."""
    copy = place.with_name("copy")
    with sqlite3.connect(place) as db, sqlite3.connect(copy) as fresh:
        db.backup(fresh)
    for beside in place.parent.glob(f"{place.name}*"):
        beside.unlink()
    copy.rename(place)


def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the owner and the time of this machine."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


if __name__ == "__main__":
    main()
