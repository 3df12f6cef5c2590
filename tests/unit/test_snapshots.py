"""Pointers to data that somebody else wrote: any text is a pointer to what lies beside it, or an
InputError.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest.errors import InputError
from cowest.raw import vcs
from cowest.raw.snapshots import pointer_of

FILE = Path("data/raw/handbook.dvc")
MD5 = "81a2dc6cbdbb1307bdd59c5e8899c294.dir"
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(("handbook", "..", "/etc", MD5, "md5")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("outs", "path", "md5", "hash", "wdir", "cmd")), inner)
    ),
)


def pointer(out: dict[str, Any] | None = None, **more: Any) -> str:
    return json.dumps(
        {"outs": [{"md5": MD5, "hash": "md5", "path": "handbook", **(out or {})}], **more}
    )


def test_a_pointer_names_the_digest_of_what_lies_beside_it() -> None:
    found = pointer_of(FILE, pointer({"size": 3, "nfiles": 1}, meta={"by": "us"}, desc="x"), "it")
    assert (found.md5, found.tracked) == (MD5, Path("data/raw/handbook"))


@given(st.text() | VALUES.map(json.dumps))
def test_any_text_is_a_pointer_or_an_error(text: str) -> None:
    with suppress(InputError):
        assert pointer_of(FILE, text, "it").tracked == Path("data/raw/handbook")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (pointer({"path": "../handbook"}), "points elsewhere"),
        (pointer({"path": "/etc/passwd"}), "points elsewhere"),
        (pointer({"path": "./handbook"}), "points elsewhere"),
        (pointer(wdir="/"), "points elsewhere"),
        (pointer(cmd="touch owned"), "holds a command"),
        (pointer({"md5": "../../x"}), "no MD5"),
        (pointer({"hash": None}), "no MD5 of the data as DVC 3"),
        (json.dumps({"outs": []}), "no pointer to one data set"),
        ("!!python/object/apply:os.system [touch owned]", "no pointer to one data set"),
        ("[" * 5000, "no pointer to one data set"),
        ("x" * 70_000, "too long"),
    ],
)
def test_a_hostile_pointer_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=f"it .*{said}.*cowest data add"):
        pointer_of(FILE, text, "it")
    assert not Path("owned").exists()


def test_secrets_are_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdef123")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").write_text(
        "['remote \"team\"']\n    password = hunter2!\n    url = s3://bucket/path\n"
    )
    said = vcs.hide(
        "s3://bucket/path said hunter2! to abcdef123 at https://me:hidden@host/x", tmp_path
    )
    assert said == "s3://bucket/path said ... to ... at https://...@host/x"
