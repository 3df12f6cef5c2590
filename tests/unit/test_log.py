"""The log of answers and verdicts: what is written, what is survived, and who may read it."""

import errno
import os
import queue
import resource
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest.detectors import Detection
from cowest.online import appending, log, masked
from cowest.online.ids import Ids, secret_of
from cowest.online.interactions import Interaction, ServedCall
from cowest.online.log import Log, LogConfig, LogState
from cowest.online.verdicts import KeptVerdict
from cowest.records import Message
from tests.factories import make_interaction

HOSTILE = '\u2028 \r\n \x85 \x00 \x1b[2J \u202e {"id": 1} </script> ] } " \' \\ \U0001f600'


@contextmanager
def opened(folder: Path, **settings: Any) -> Iterator[Log]:
    with LogConfig(folder=folder, **settings).open() as found:
        yield found


def answers(folder: Path) -> list[Interaction]:
    unread: Counter[str] = Counter()
    found = list(log.read_answers(folder, unread))
    assert not unread
    return found


def verdicts(folder: Path) -> list[KeptVerdict]:
    return list(log.read_verdicts(folder, Counter()))


def test_answers_come_back_as_they_were_with_hostile_texts(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with opened(folder, mask=False) as kept:
        rows = [
            make_interaction(kept.new_id(), HOSTILE, answer=HOSTILE, failed=None),
            make_interaction(kept.new_id(), "x", answer=None, failed=HOSTILE, finish="failed"),
        ]
        for row in rows:
            kept.keep(row)
    assert answers(folder) == rows
    assert kept.state() == LogState(enabled=True, answers=2)


def test_a_fresh_folder_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "project" / "log"
    before = os.umask(0)
    try:
        with opened(folder) as kept:
            kept.keep(make_interaction(kept.new_id()))
            kept.keep_verdict(KeptVerdict(id=kept.new_id(), verdict="good", at=1.0)).result(5)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name.partition("-")[0]: path.stat().st_mode for path in folder.iterdir()}
    assert {name: stat.S_IMODE(mode) for name, mode in modes.items()} == {
        "answers": 0o600,
        "verdicts": 0o600,
        "secret": 0o600,
    }


def test_a_log_that_is_off_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with opened(folder, enabled=False) as kept:
        id = kept.new_id()
        kept.keep(make_interaction(id))
        assert not kept.made(id)
    assert not folder.exists()
    assert kept.state() == LogState(enabled=False)


def test_personal_data_is_masked_in_every_text(tmp_path: Path) -> None:
    mail, key = "ada@example.org", "AKIAIOSFODNN7EXAMPLE"
    call = ServedCall(model="s", finish="failed", failed=f"no {mail}", seconds=0.1)
    with opened(tmp_path, detection=Detection(terms=("Falcon",))) as kept:
        row = make_interaction(
            kept.new_id(),
            prompt=(
                Message(role="system", content=f"Write to {mail}."),
                Message(role="user", content=f"What is {key}?"),
            ),
            draft=f"{mail} has it",
            answer=f"Falcon, says {mail}",
            answering=call,
            failed=f"the endpoint says {key}",
        )
        kept.keep(row)
        said = KeptVerdict(id=row.id, better=f"Ask {mail}", comment=f"not {key}", at=1.0)
        kept.keep_verdict(said).result(5)
    written = b"".join(path.read_bytes() for path in tmp_path.glob("*.jsonl")).decode()
    for private in (mail, key, "Falcon"):
        assert private not in written
    (found,) = answers(tmp_path)
    assert found.prompt[0].content == "Write to [EMAIL_1]."
    assert (found.draft, found.answer) == ("[EMAIL_1] has it", "[TERM_1], says [EMAIL_1]")
    assert found.answering is not None and found.answering.failed == "no [EMAIL_1]"
    assert verdicts(tmp_path)[0].better == "Ask [EMAIL_1]"


def test_a_number_that_another_text_names_is_masked() -> None:
    texts = ["What is Ann Lee's SSN?", "", "219099998"]
    assert masked.masked(texts, Detection()) == [*texts[:2], "[NATIONAL_ID_1]"]


def test_masks_that_lengthen_a_better_answer_leave_a_row_that_is_read(tmp_path: Path) -> None:
    with opened(tmp_path, detection=Detection(detect=("term",), terms=("a",))) as kept:
        said = KeptVerdict(id=kept.new_id(), better="a " * 10_000, at=1.0)
        kept.keep_verdict(said).result(5)
    assert [row.better for row in verdicts(tmp_path)] == ["[TERM_1] " * 10_000]


def test_a_file_ends_when_it_is_full_and_with_its_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 86_400.0 * 20_000
    monkeypatch.setattr(appending.time, "time", lambda: now)
    growing = appending.Appending(tmp_path, "answers", 10)
    for _ in range(3):
        growing.add(b"12345\n")
    assert [path.stat().st_size for path in appending.files(tmp_path, "answers")] == [6, 6, 6]
    now += 86_400.0
    growing.end_day()
    growing.add(b"1\n")
    growing.add(b"2\n")
    growing.close()
    *_, last = appending.files(tmp_path, "answers")
    assert last.read_bytes() == b"1\n2\n"


def test_old_files_go_and_those_that_are_written_stay(tmp_path: Path) -> None:
    made = []
    for number in range(4):
        growing = appending.Appending(tmp_path, "answers", 10**6)
        growing.add(b"x" * 1000 + b"\n")
        made.append(growing)
        (path,) = set(appending.files(tmp_path, "answers")) - {one for one, _ in made[:-1]}
        made[-1] = (path, growing)
        os.utime(path, (number, 10**9 + number))
    for _, growing in made[1:]:
        growing.close()
    verdict = appending.Appending(tmp_path, "verdicts", 10**6)
    verdict.add(b"y\n")
    verdict.close()
    (tmp_path / "notes.jsonl").write_text("mine")
    os.utime(made[3][0])
    # The first is old, and its process lives.
    removed = appending.tidy(tmp_path, days=30, most=10**6)
    assert removed == [made[1][0], made[2][0]]
    assert appending.tidy(tmp_path, days=30, most=1500) == [made[3][0]]
    made[0][1].close()
    assert appending.tidy(tmp_path, days=30, most=0) == [made[0][0]]
    assert len(appending.files(tmp_path, "verdicts")) == 1
    assert (tmp_path / "notes.jsonl").exists()


def test_a_row_that_a_kill_cut_off_is_passed_over_and_counted(tmp_path: Path) -> None:
    with opened(tmp_path) as kept:
        row = make_interaction(kept.new_id())
        kept.keep(row)
    (path,) = appending.files(tmp_path, "answers")
    whole = path.read_bytes()
    later = path.with_name(path.name.replace("answers-2", "answers-3"))
    for length in range(1, len(whole) - 1, 9):
        later.write_bytes(whole[:length])
        unread: Counter[str] = Counter()
        assert list(log.read_answers(tmp_path, unread)) == [row]
        assert unread == {"rows cut off by a kill or a full disk": 1}, whole[:length]


def test_a_row_of_another_version_is_counted_apart(tmp_path: Path) -> None:
    with opened(tmp_path) as kept:
        kept.keep(make_interaction(kept.new_id()))
    (path,) = appending.files(tmp_path, "answers")
    path.write_bytes(path.read_bytes().replace(b'"version"', b'"revision"') + b"\n[]\n")
    unread: Counter[str] = Counter()
    assert list(log.read_answers(tmp_path, unread)) == []
    assert unread == {"rows of another version of CoWest": 2}


def test_a_full_disk_is_counted_and_said_and_passes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit on the size of files stands in for the disk: a write ends after some of its bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path) as kept:
        good = make_interaction(kept.new_id(), "before")
        kept.keep(good)
        kept.keep_verdict(KeptVerdict(id=good.id, verdict="good", at=1.0)).result(5)
        (path,) = appending.files(tmp_path, "answers")
        (said,) = appending.files(tmp_path, "verdicts")
        whole = path.read_bytes(), said.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, before[1]))
        try:
            kept.keep(make_interaction(kept.new_id(), "lost"))
            long = KeptVerdict(id=good.id, better="x" * 5_000, at=2.0)
            with pytest.raises(OSError, match="File too large"):
                kept.keep_verdict(long).result(5)
            state = kept.state()
            assert (state.answers, state.lost, state.refused) == (1, 1, 1)
            assert state.failing is not None and "File too large" in state.failing
            # Nothing of the rows that did not fit is left.
            assert (path.read_bytes(), said.read_bytes()) == whole
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        kept.keep_verdict(long).result(5)
        assert kept.state().failing is None
        kept.keep(make_interaction(kept.new_id(), "after"))
    # It is said once when it begins, and once when it ends.
    begun, ended = caplog.messages
    assert "File too large" in begun and "written again: 1 were lost" in ended
    assert [row.prompt[0].content for row in answers(tmp_path)] == ["before", "after"]
    assert len(verdicts(tmp_path)) == 2


def test_half_a_row_that_can_not_be_taken_back_costs_no_other_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = appending.Appending(tmp_path, "answers", 10**6)
    growing.add(b"first\n")
    write = os.write

    def full(file: int, data: Any) -> int:
        if len(data) <= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:-3])

    def stuck(file: int, size: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        broken.setattr(os, "ftruncate", stuck)
        with pytest.raises(OSError, match="No space"):
            growing.add(b"second\n")
    growing.add(b"third\n")
    growing.close()
    (path,) = appending.files(tmp_path, "answers")
    assert path.read_bytes().split(b"\n") == [b"first", b"seco", b"third", b""]


def test_the_last_answers_are_on_the_disk_within_a_second_or_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: queue.Queue[float] = queue.Queue()
    fsync = os.fsync

    def watched(file: int) -> None:
        fsync(file)
        if stat.S_ISREG(os.fstat(file).st_mode):
            synced.put(time.monotonic())

    with opened(tmp_path) as kept:
        monkeypatch.setattr(os, "fsync", watched)
        # The second comes just after the disk has the first, and no other row follows it.
        for _ in range(2):
            began = time.monotonic()
            kept.keep(make_interaction(kept.new_id()))
            assert synced.get(timeout=30) - began < 3 * log.SYNC


def test_a_verdict_is_acknowledged_after_the_disk_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(file: int) -> None:
        if stat.S_ISREG(os.fstat(file).st_mode):
            entered.set()
            assert go_on.wait(30)
        fsync(file)

    with opened(tmp_path) as kept:
        monkeypatch.setattr(os, "fsync", slow)
        promised = kept.keep_verdict(KeptVerdict(id=kept.new_id(), verdict="good", at=1.0))
        assert entered.wait(30)
        assert not promised.done()
        go_on.set()
        assert promised.result(30) is None


def test_a_verdict_whose_file_ends_and_is_refused_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two verdicts of one write: the second ends the first one's file, which the disk refuses."""
    entered, go_on = threading.Event(), threading.Event()
    fsync = os.fsync
    failing = []

    def breaks(file: int) -> None:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return
        if not entered.is_set():
            entered.set()
            assert go_on.wait(30)
        elif not failing:
            failing.append(file)
            raise OSError(errno.EIO, "I/O error")
        fsync(file)

    with opened(tmp_path, mask=False, file_megabytes=1) as kept:
        monkeypatch.setattr(os, "fsync", breaks)
        promised = []
        for better in ("short", "x" * 600_000, "y" * 600_000):
            said = KeptVerdict(id=kept.new_id(), better=better, at=1.0)
            promised.append(kept.keep_verdict(said))
            # The others wait together while the disk takes the first.
            assert entered.wait(30)
        go_on.set()
        assert promised[0].result(30) is None
        for one in promised[1:]:
            with pytest.raises(OSError, match="I/O error"):
                one.result(30)
    assert (kept.state().verdicts, kept.state().refused) == (1, 2)


def test_a_row_that_the_masking_breaks_on_costs_no_other_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = masked.find

    def breaks(text: str, detection: Detection) -> Any:
        if "deep" in text:
            raise RecursionError("too deep")
        return find(text, detection)

    with opened(tmp_path) as kept:
        monkeypatch.setattr(masked, "find", breaks)
        kept.keep(make_interaction(kept.new_id(), "so deep"))
        said = KeptVerdict(id=kept.new_id(), comment="deep", at=1.0)
        with pytest.raises(OSError, match="too deep"):
            kept.keep_verdict(said).result(30)
        kept.keep_verdict(said.model_copy(update={"comment": "well"})).result(30)
        kept.keep(make_interaction(kept.new_id(), "well"))
    assert kept.state() == LogState(enabled=True, answers=1, verdicts=1, lost=1, refused=1)


def test_a_log_whose_thread_has_ended_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise MemoryError

    before = threading.enumerate()
    with opened(tmp_path) as kept:
        monkeypatch.setattr(log, "tidy", breaks)
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        monkeypatch.setattr(log, "TIDY", -1.0)
        kept.keep_verdict(KeptVerdict(id=kept.new_id(), verdict="good", at=1.0)).result(30)
        for thread in threading.enumerate():
            if thread.name == "log" and thread not in before:
                thread.join(300)
        kept.keep(make_interaction(kept.new_id()))
        assert kept.state().lost == 1
        assert (
            kept.state().failing == "the thread that writes the log has ended: restart the service"
        )


def test_a_verdict_that_the_disk_refuses_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    with opened(tmp_path) as kept:
        said = KeptVerdict(id=kept.new_id(), verdict="good", at=1.0)
        kept.keep_verdict(said).result(5)
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", refuse)
            with pytest.raises(OSError, match="I/O error"):
                kept.keep_verdict(said).result(5)
        kept.keep_verdict(said).result(5)
        # What a failed sync left behind nobody knows, so a new file began.
        assert len(appending.files(tmp_path, "verdicts")) == 2
        assert kept.state().refused == 1


def test_the_queue_is_bounded_and_never_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MOST", 10)
    begun, go_on = threading.Event(), threading.Event()
    write = os.write

    def slow(file: int, data: Any) -> int:
        begun.set()
        assert go_on.wait(30)
        return write(file, data)

    with opened(tmp_path) as kept, monkeypatch.context() as slowed:
        slowed.setattr(os, "write", slow)
        kept.keep(make_interaction(kept.new_id()))
        assert begun.wait(30)
        for _ in range(50):
            kept.keep(make_interaction(kept.new_id()))
        assert kept.state().lost == 40
        go_on.set()
    assert len(answers(tmp_path)) == 11


def test_texts_in_the_queue_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MOST_CHARACTERS", 1000)
    with opened(tmp_path) as kept:
        kept.keep(make_interaction(kept.new_id(), "x" * 2000))
        kept.keep(make_interaction(kept.new_id(), "y"))
    assert kept.state().lost == 1
    assert [row.prompt[0].content for row in answers(tmp_path)] == ["y"]


def test_a_folder_that_can_not_be_made_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with opened(tmp_path / "file" / "log") as kept:
        id = kept.new_id()
        kept.keep(make_interaction(id))
        assert not kept.ready and not kept.made(id)
    state = kept.state()
    assert state.lost == 1
    assert state.failing is not None and "Not a directory" in state.failing


def test_after_it_is_closed_nothing_waits_for_it(tmp_path: Path) -> None:
    with opened(tmp_path) as kept:
        pass
    kept.keep(make_interaction(kept.new_id()))
    with pytest.raises(OSError, match="closed"):
        kept.keep_verdict(KeptVerdict(id=kept.new_id(), verdict="bad", at=1.0)).result(5)
    assert (kept.state().lost, kept.state().refused) == (1, 1)


def test_ids_are_known_after_a_restart_and_by_nobody_else(tmp_path: Path) -> None:
    with opened(tmp_path) as kept:
        ids = {kept.new_id() for _ in range(1000)}
    assert len(ids) == 1000
    with opened(tmp_path) as again:
        assert all(map(again.made, ids))
        for id in list(ids)[:20]:
            for place in range(len("chatcmpl-"), len(id)):
                other = "1" if id[place] == "0" else "0"
                assert not again.made(id[:place] + other + id[place + 1 :])
    with opened(tmp_path / "another") as another:
        assert not any(map(another.made, ids))
    for wrong in ("", "chatcmpl-", "chatcmpl-" + "0" * 32, "é" * 41, f"{next(iter(ids))}\n"):
        assert not again.made(wrong)
    assert Interaction.model_validate(make_interaction(next(iter(ids))))


def test_processes_that_begin_at_once_share_one_secret(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(secret_of(tmp_path / "log")))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16 and len(set(found)) == 1
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["secret"]
    assert Ids(found[0]).made(Ids(secret_of(tmp_path / "log")).new())


def test_a_folder_without_links_has_a_secret_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("os.link", link)
    test_processes_that_begin_at_once_share_one_secret(tmp_path)
    assert (tmp_path / "log" / "secret").stat().st_mode & 0o777 == 0o600
    with opened(tmp_path / "log") as kept:
        assert kept.made(kept.new_id())


def test_a_secret_that_another_process_is_writing_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may start the other one late.
    monkeypatch.setattr("cowest.online.ids.TRIES", 1000)
    path = tmp_path / "secret"
    path.touch()
    late = threading.Timer(0.05, path.write_bytes, [b"s" * 32])
    late.start()
    assert secret_of(tmp_path) == b"s" * 32
    late.join()


@pytest.mark.parametrize("other", [b"", b"t" * 32], ids=["alone", "beside another"])
def test_a_secret_that_could_not_be_written_takes_no_other_along(
    other: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log" / "secret"

    def link(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    def sync(_: int) -> None:
        if path.exists():
            if other:
                path.write_bytes(other)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.link", link)
    monkeypatch.setattr("os.fsync", sync)
    with pytest.raises(OSError, match="No space left"):
        secret_of(tmp_path / "log")
    found = [one.read_bytes() for one in (tmp_path / "log").iterdir()]
    assert found == ([other] if other else [])


def test_an_answer_that_is_written_ends_no_alarm_about_the_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "secret").write_bytes(b"short")
    with opened(tmp_path) as kept:
        kept.keep(make_interaction(kept.new_id()))
    assert kept.state().answers == 1
    assert "holds no secret" in (kept.state().failing or "")
    assert "written again" not in caplog.text


def test_half_a_secret_is_none(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"short")
    with opened(tmp_path) as kept:
        assert not kept.ready
        assert "holds no secret" in (kept.state().failing or "")


def test_the_switch_is_one_that_yaml_reads_as_it_is_written() -> None:
    """In YAML 1.1 `on`, `off`, `yes` and `no` are no names, but true and false."""
    for name in LogConfig.model_fields:
        assert yaml.safe_load(f"{{{name}: null}}") == {name: None}
    assert not LogConfig.model_validate(yaml.safe_load("{enabled: false}")).enabled
