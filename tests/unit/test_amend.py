from pathlib import Path

import pytest

from cowest.amend import amend
from cowest.config import load
from cowest.errors import ConfigError

TEXT = """\
# what it is
models:
  policy: &policy {provider: hf, path: a/b}   # ours
seed: &seed 7  # of everything
draft:
  policy: *policy
  seed: *seed
  sampling: {temperature: 0.8, n: 4}
dpo:
  # how hard
  beta: 0.1  # as in the paper
  limit:
list: [{name: one}, &one {name: two}]
listed: *one
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("assignment", "old", "new"),
    [
        ("dpo.beta=0.2", "beta: 0.1  #", "beta: 0.2  #"),
        ("seed=8", "&seed 7  #", "&seed 8  #"),
        ("models.policy.path=c/d", "path: a/b}", "path: c/d}"),
        ("draft.sampling.top_p=0.9", "{temperature", "{top_p: 0.9, temperature"),
        ("dpo.epochs=2", "  # how hard\n  beta", "  # how hard\n  epochs: 2\n  beta"),
        ("dpo.limit=[1, 2]", "limit:", "limit: [1, 2]"),
        ("draft.sampling={n: 8}", "{temperature: 0.8, n: 4}", "{n: 8}"),
        ("draft.sampling=null", "{temperature: 0.8, n: 4}", "null"),
        ("dpo.beta='a # b'", "beta: 0.1", "beta: 'a # b'"),
    ],
)
def test_one_setting_changes_and_nothing_else(
    params: Path, assignment: str, old: str, new: str
) -> None:
    said = amend(params, assignment)
    assert said is not None
    assert assignment.partition("=")[0] in said
    assert params.read_text() == TEXT.replace(old, new)


def test_who_shares_a_setting_follows(params: Path) -> None:
    amend(params, "seed=8")
    amend(params, "models.policy.path=c/d")
    assert load(params)["draft"]["seed"] == 8
    assert load(params)["draft"]["policy"]["path"] == "c/d"


@pytest.mark.parametrize("assignment", ["dpo.beta=0.1", "dpo.limit=", "seed=7"])
def test_what_is_so_already_is_not_written(params: Path, assignment: str) -> None:
    before = params.stat().st_mtime_ns
    assert amend(params, assignment) is None
    assert params.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("assignment", "why"),
    [
        ("draft.policy.path=x", "same as models.policy"),
        ("draft.seed=1", "same as seed"),
        ("nothing.here=1", "no section nothing"),
        ("dpo.beta.deep=1", "dpo.beta is no section"),
        ("dpo=1", "a whole section: set what is in it"),
        ("models.policy=null", "others may share it"),
        ("dpo=null", "a whole section: take its lines out"),
        ("dpo.beta", "section.setting=value"),
        ("dpo.beta=[1", "not YAML"),
        ("draft.sampling={n: 4, n: 8}", "--set .*: 'n' is written twice"),
        ("listed.name=x", "listed is the same as list.1: set it there"),
        ("dpo.limit=2026-31-12", "not YAML"),
    ],
)
def test_what_cannot_be_set_is_said_and_the_file_stays(
    params: Path, assignment: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        amend(params, assignment)
    assert params.read_text() == TEXT


def test_line_ends_a_link_and_the_mode_stay(tmp_path: Path) -> None:
    kept = tmp_path / "kept.yaml"
    kept.write_bytes(TEXT.replace("\n", "\r\n").encode())
    kept.chmod(0o600)
    named = tmp_path / "params.yaml"
    named.symlink_to(kept)
    amend(named, "dpo.beta=0.2")
    amend(named, "dpo.epochs=2")
    new = TEXT.replace("beta: 0.1 ", "beta: 0.2 ").replace("  beta", "  epochs: 2\n  beta")
    assert kept.read_bytes() == new.replace("\n", "\r\n").encode()
    assert named.is_symlink() and kept.stat().st_mode & 0o777 == 0o600


def test_no_password_is_said(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("registry: {uri: 'postgresql://u:OLD@db/m', name: a}\n")
    assert amend(path, "registry.uri=postgresql://u:NEW@db/m") == (
        f"{path}: registry.uri is postgresql://u@db/m (was postgresql://u@db/m)"
    )
    assert load(path)["registry"]["uri"] == "postgresql://u:NEW@db/m"
    with pytest.raises(ConfigError, match=r"--set no\.uri=postgresql://u@db/m: there is no"):
        amend(path, "no.uri=postgresql://u:NEW@db/m")
    said = amend(path, "registry={uri: 'postgresql://u:NEWER@db/m', name: a}")
    assert said is not None and "NEW" not in said
