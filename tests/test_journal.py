"""The journal's file: what survives tears, flips, kills and strangers."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256

import numpy as np
import pytest
from joblib import Parallel, delayed

from blackvip import JournalError
from blackvip.journal import store as store_module
from blackvip.journal.journal import KEY_BYTES, Journal

IDENTITY = {"parameters": {"a": 0.1}, "images": "ab"}
HEADER_TABLE = "CREATE TABLE header (content TEXT, digest BLOB)"
ANSWERS_TABLE = (
    "CREATE TABLE answers (key BLOB PRIMARY KEY, billed INTEGER, off_path INTEGER, scores BLOB, digest BLOB)"
)
HOLDER_TABLE = "CREATE TABLE holder (process INTEGER)"


def key(number):
    return sha256(str(number).encode()).digest()


def scores_of(number):
    return np.random.default_rng(number).normal(size=3)


def add(journal, *numbers, **kwargs):
    journal.add([key(n) for n in numbers], np.stack([scores_of(n) for n in numbers]), **kwargs)


def found_in(journal, among=range(20)):
    """The numbers whose answers are there, all of them to the bit."""
    answers = dict(zip(among, journal.find([key(n) for n in among], 3)))
    for n, answer in answers.items():
        if answer is not None:
            np.testing.assert_array_equal(answer.scores, scores_of(n))
    return [n for n, answer in answers.items() if answer is not None]


def wal_of(path):
    """The file beside a journal that holds the last answers."""
    return path.with_name(path.name + "-wal")


def write(path, data, wal=b""):
    """A file with these bytes, and another beside it, as a kill leaves them."""
    path.write_bytes(data)
    wal_of(path).write_bytes(wal)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.journal"


@pytest.fixture
def killed(path):
    """What is left of a journal of three additions after a kill: both files, and where each addition ends."""
    ends = []
    with Journal(path, IDENTITY) as journal:
        for numbers in ((), (0, 1), (2,), (3, 4, 5)):
            if numbers:
                add(journal, *numbers)
            ends.append(wal_of(path).stat().st_size)
        return path.read_bytes(), wal_of(path).read_bytes(), ends


@pytest.fixture
def closed(path):
    """The bytes of the same journal after it was closed."""
    with Journal(path, IDENTITY) as journal:
        for numbers in ((0, 1), (2,), (3, 4, 5)):
            add(journal, *numbers)
    assert not wal_of(path).exists()
    return path.read_bytes()


# What is written is there


def test_answers_are_found_again_to_the_bit(path):
    odd = np.array([[np.nan, -np.inf, 5e-324]])
    with Journal(path, IDENTITY, {"seed": "7"}) as journal:
        add(journal, 1, 2)
        journal.add([key(3)], odd)
        assert found_in(journal, (0, 1, 2)) == [1, 2]
    with Journal(path, IDENTITY, {"seed": "8"}) as journal:
        assert journal.facts == {"seed": "7"}
        assert found_in(journal, (0, 1, 2)) == [1, 2]
        np.testing.assert_array_equal(journal.find([key(3)], 3)[0].scores, odd[0])
        assert (journal.n_answers, journal.n_free, journal.n_off_path) == (3, 0, 0)
        with pytest.raises(JournalError, match="an answer of 3 scores where 4 are expected"):
            journal.find([key(1)], 4)
    journal.close()
    with pytest.raises(JournalError, match="is closed in this process"):
        add(journal, 4)


def test_what_was_off_path_or_not_billed_is_remembered_and_the_first_of_equal_keys_counts(path):
    with Journal(path, IDENTITY) as journal:
        add(journal, 1, 2, 3, n_free=2)
        add(journal, 4, off_path=True)
        journal.add([key(4), key(1)], np.ones((2, 3)))
    with Journal(path, IDENTITY) as journal:
        assert found_in(journal) == [1, 2, 3, 4]
        assert (journal.n_answers, journal.n_free, journal.n_off_path) == (4, 2, 1)
        answers = journal.find([key(n) for n in (1, 2, 3, 4)], 3)
        assert [answer.off_path for answer in answers] == [False, False, False, True]
        assert [answer.billed for answer in answers] == [False, False, True, True]


def test_each_answer_is_on_disk_when_add_returns(path):
    """What another process reads right after `add`, without any help of this one."""
    with Journal(path, IDENTITY) as journal:
        for n in range(3):
            add(journal, n)
            copy = path.with_name("copy")
            shutil.copy(path, copy)
            shutil.copy(wal_of(path), wal_of(copy))
            with Journal(copy, IDENTITY) as other:
                assert found_in(other) == list(range(n + 1))


def test_answers_may_be_large(path):
    n, n_scores = 3, 2**20
    scores = np.arange(n * n_scores, dtype=float).reshape(n, n_scores)
    with Journal(path, IDENTITY) as journal:
        journal.add([key(n) for n in range(3)], scores, n_free=2)
    with Journal(path, IDENTITY) as journal:
        assert (journal.n_answers, journal.n_free) == (3, 2)
        for n in range(3):
            np.testing.assert_array_equal(journal.find([key(n)], n_scores)[0].scores, scores[n])


def test_answers_without_any_score_are_held_back_until_there_is_one(path):
    nothing = np.full((1, 3), np.nan)
    with Journal(path, IDENTITY) as journal:
        journal.add([key(1)], nothing)
        journal.add([key(2)], nothing)
    with Journal(path, IDENTITY) as journal:
        assert journal.n_answers == 0
        journal.add([key(1)], nothing)
        add(journal, 3)
        journal.add([key(2)], nothing)
    with Journal(path, IDENTITY) as journal:
        assert None not in journal.find([key(n) for n in (1, 2, 3)], 3)
        assert np.isnan(journal.find([key(1)], 3)[0].scores).all()


# Torn, flipped, damaged


def test_a_tail_torn_at_any_byte_is_cut_off_and_the_journal_goes_on(path, killed):
    data, wal, ends = killed
    whole = {ends[0]: [], ends[1]: [0, 1], ends[2]: [0, 1, 2], ends[3]: [0, 1, 2, 3, 4, 5]}
    near_ends = {end + shift for end in ends for shift in (-2, -1, 0, 1, 2)}
    for cut in sorted(near_ends | set(range(0, len(wal), 499))):
        if not 0 <= cut <= len(wal):
            continue
        write(path, data, wal[:cut])
        end = max(end for end in ends if end <= cut)
        with Journal(path, IDENTITY) as journal:
            assert found_in(journal) == whole[end], cut
            if cut % 3 == 0:
                add(journal, 9)
        if cut % 3 == 0:
            with Journal(path, IDENTITY) as journal:
                assert found_in(journal) == [*whole[end], 9]


@pytest.mark.parametrize("tail", [bytes(100), b"\xff" * 5000, os.urandom(3_000_000)], ids=len)
def test_whatever_else_is_behind_the_last_answer_is_ignored(path, killed, tail):
    data, wal, _ = killed
    write(path, data, wal + tail)
    with Journal(path, IDENTITY) as journal:
        assert found_in(journal) == [0, 1, 2, 3, 4, 5]
    assert path.stat().st_size < 100_000


@pytest.mark.parametrize("change", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_never_gives_a_wrong_answer_and_is_named_where_it_matters(path, closed, change):
    used = [place for place, byte in enumerate(closed) if byte]
    places = {*range(100), *used[change % 3 :: 3], *range(0, len(closed), 499)}
    errors = []
    for place in sorted(places):
        flipped = bytearray(closed)
        flipped[place] ^= change
        path.write_bytes(flipped)
        try:
            with Journal(path, IDENTITY) as journal:
                assert found_in(journal) == [0, 1, 2, 3, 4, 5], place
        except JournalError as error:
            errors.append(str(error))
            assert path.read_bytes()[100:] == flipped[100:]
    assert len(errors) > 0.8 * len(used) / 3
    for error in errors:
        assert re.search("is damaged|that blackvip did not|is not a journal|has the format version|readonly", error)


@pytest.mark.parametrize("change", [0x01, 0xFF])
def test_a_flipped_byte_in_what_a_kill_left_costs_answers_and_changes_none(path, killed, change):
    data, wal, ends = killed
    for place in range(0, len(wal), 311):
        flipped = bytearray(wal)
        flipped[place] ^= change
        write(path, data, flipped)
        with Journal(path, IDENTITY) as journal:
            assert found_in(journal) in ([], [0, 1], [0, 1, 2], [0, 1, 2, 3, 4, 5])
            if place >= ends[2]:
                assert found_in(journal)[:3] == [0, 1, 2]


def test_a_file_that_was_cut_is_an_error_and_stays_as_it_is(path, closed):
    for cut in range(1, len(closed), 97):
        path.write_bytes(closed[:cut])
        with pytest.raises(JournalError, match=r"is damaged|is not a journal|that blackvip did not"):
            Journal(path, IDENTITY)
        assert path.read_bytes() == closed[:cut]
    path.write_bytes(b"")
    with Journal(path, IDENTITY) as journal:
        assert found_in(journal) == []


def test_a_row_that_somebody_changed_is_named(path, closed):
    for change in (
        "UPDATE answers SET scores = zeroblob(24) WHERE rowid = 2",
        "UPDATE answers SET billed = 0 WHERE rowid = 2",
        "UPDATE answers SET key = zeroblob(32) WHERE rowid = 2",
        """UPDATE header SET content = '{"identity": {}, "facts": {}}'""",
    ):
        path.write_bytes(closed)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(change)
            connection.commit()
        with pytest.raises(JournalError, match="is damaged: .* is not as it was written. Restore the file"):
            Journal(path, IDENTITY)


def test_a_full_disk_leaves_what_was_there(path):
    resource = pytest.importorskip("resource")
    with Journal(path, IDENTITY) as journal:
        add(journal, 1)
        size = wal_of(path).stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, limits[1]))  # as a disk that is full
            with pytest.raises(JournalError, match="cannot be written: .*. The answers that came last"):
                add(journal, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        with pytest.raises(JournalError, match="cannot be written"):  # and nothing else is paid for
            journal.check_usable()
        with pytest.raises(JournalError, match="cannot be written"):
            add(journal, 3)
        assert found_in(journal) == [1]
    with Journal(path, IDENTITY) as journal:
        assert found_in(journal) == [1]
        add(journal, 2)
        assert found_in(journal) == [1, 2]


def test_a_folder_in_which_no_file_can_be_made_is_an_error(path):
    path.with_name(path.name + "-journal").mkdir()
    with pytest.raises(JournalError, match="cannot be used: unable to open database file. It and its folder must"):
        Journal(path, IDENTITY)


# One process at a time


def test_a_second_journal_in_this_process_is_refused(path):
    with Journal(path, IDENTITY) as journal:
        with pytest.raises(JournalError, match=rf"{path}' is in use by process {os.getpid()}; two at .* Wait for"):
            Journal(path, IDENTITY)
        add(journal, 1)
    with Journal(path, IDENTITY) as journal:
        assert found_in(journal) == [1]


HOLD = """
import sys, time
from blackvip.journal.journal import Journal
journal = Journal(sys.argv[1], {"parameters": {"a": 0.1}, "images": "ab"})
print("held", flush=True)
time.sleep(600)
"""


def test_a_journal_of_another_process_is_refused_until_that_is_killed(path, programs):
    with programs.start("-c", HOLD, path) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(JournalError, match=f"is in use by process {holder.pid}"):
            Journal(path, IDENTITY)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with Journal(path, IDENTITY) as journal:
        add(journal, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_neither_keeps_the_lock_nor_writes(path):
    journal = Journal(path, IDENTITY)
    asks, tells = os.pipe()
    child = os.fork()
    if not child:
        try:
            add(journal, 1)
        except JournalError as error:
            os.write(tells, str(error).encode())
        signal.pause()
        os._exit(0)
    try:
        assert "is closed in this process, as after a fork" in os.read(asks, 1000).decode()
        add(journal, 2)
        journal.close()
        with Journal(path, IDENTITY) as again:  # though the child lives
            assert found_in(again) == [2]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(asks)
        os.close(tells)


# Shared by several


def test_shared_journals_see_what_the_others_have_added(path):
    one, other = (Journal(path, IDENTITY, shared=True) for _ in range(2))
    assert found_in(other) == []
    add(one, 1)
    assert found_in(other) == [1]
    add(other, 2)
    add(one, 3)
    assert found_in(one) == [1, 2, 3]
    one.close()
    other.close()


def test_a_journal_that_somebody_has_for_itself_is_not_shared(path, monkeypatch):
    monkeypatch.setattr(store_module, "_PATIENCE", 0.05)
    with Journal(path, IDENTITY) as journal:
        add(journal, 1)
        with pytest.raises(JournalError, match=f"is in use by process {os.getpid()}"):
            Journal(path, IDENTITY, shared=True)


def add_all(path, numbers):
    with Journal(path, IDENTITY, shared=True) as journal:
        for n in numbers:
            add(journal, n)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_two_processes_make_the_file_and_add_at_the_same_time(path, backend):
    Parallel(n_jobs=2, backend=backend)(delayed(add_all)(path, range(first, 400, 4)) for first in range(4))
    with Journal(path, IDENTITY, shared=True) as journal:
        assert found_in(journal, range(400)) == list(range(400))


def test_a_file_that_was_deleted_meanwhile_is_an_error_and_a_new_one_can_be_made(path):
    for shared in (False, True):
        journal = Journal(path, IDENTITY, shared=shared)
        add(journal, 1)
        path.unlink()
        with pytest.raises(JournalError, match="does not exist any more; it was deleted or replaced"):
            add(journal, 2)
        assert journal.closed
        with Journal(path, IDENTITY, shared=shared) as again:
            assert found_in(again) == []
            add(again, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_parent_and_children_go_on_with_a_shared_journal(path):
    """Forks while a thread adds: no connection crosses a fork, and no answer is lost."""
    with Journal(path, IDENTITY, shared=True) as journal, ThreadPoolExecutor(1) as threads:
        added = threads.submit(lambda: [add(journal, n) for n in range(100)])
        children = []
        for number in range(4):
            child = os.fork()
            if not child:
                try:
                    for n in range(100 + number, 180, 4):
                        add(journal, n)
                finally:
                    os._exit(len(found_in(journal, range(100 + number, 180, 4))))
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [20] * 4
        added.result()
        assert found_in(journal, range(180)) == list(range(180))
    with Journal(path, IDENTITY) as journal:
        assert found_in(journal, range(180)) == list(range(180))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_ends_normally_leaves_its_parents_journal_alone(path, programs):
    code = """
import os, sys
from blackvip.journal.journal import Journal
journal = Journal(sys.argv[1], {"parameters": {"a": 0.1}, "images": "ab"})
if not os.fork():
    sys.exit()  # Python clears its modules
os.wait()
os.kill(os.getpid(), 9)
"""
    with Journal(path, IDENTITY) as journal:
        add(journal, 1)
    code = code.replace("if not", 'journal.add([b"x" * 32], __import__("numpy").ones((1, 3)))\nif not')
    assert programs.run("-c", code, path).returncode == -signal.SIGKILL
    assert wal_of(path).stat().st_size > 0  # the child did not take the file for its own
    with Journal(path, IDENTITY) as journal:
        assert journal.n_answers == 2


# Whose it is


def test_a_journal_of_something_else_is_refused_with_all_differences_named(path):
    with Journal(path, IDENTITY) as journal:
        add(journal, 1)
    before = path.read_bytes()
    other = {"parameters": {"a": 0.2, "b": None}, "images": "ab"}
    message = r"belongs to something else: parameters.a was 0.1 and is 0.2 now; parameters.b was not there and is None"
    with pytest.raises(JournalError, match=message):
        Journal(path, other)
    assert path.read_bytes() == before


def test_a_journal_without_answers_belongs_to_whoever_comes(path):
    Journal(path, IDENTITY, {"seed": "1"}).close()
    with Journal(path, {"other": 1}, {"seed": "2"}) as journal:
        assert journal.facts == {"seed": "2"}
        add(journal, 1)
    with pytest.raises(JournalError, match="other was 1 and is not there now"):
        Journal(path, IDENTITY)


def test_what_is_no_journal_stays_as_it_is(path, tmp_path):
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE notes (text)")
        connection.commit()
    for data in (b"buy milk", b"S", b"SQLite format 3\0", os.urandom(1000), (tmp_path / "other.db").read_bytes()):
        path.write_bytes(data)
        with pytest.raises(JournalError, match="is not a journal of blackvip, and was not changed"):
            Journal(path, IDENTITY)
        assert path.read_bytes() == data
        assert sorted(os.listdir(tmp_path)) == ["other.db", "run.journal"]
    with pytest.raises(JournalError, match="is not a file"):
        Journal(tmp_path, IDENTITY)
    with pytest.raises(JournalError, match="cannot be opened: No such file or directory"):
        Journal(tmp_path / "none" / "run.journal", IDENTITY)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(JournalError, match="is not a file"):
        Journal(path, IDENTITY)


def test_a_killed_transaction_of_another_program_stays_as_it_is(path):
    """A database of somebody else, whose last commit is still in the file beside it."""
    code = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("CREATE TABLE notes (text)")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(path)])
    before = path.read_bytes(), wal_of(path).read_bytes()
    with pytest.raises(JournalError, match="is not a journal of blackvip, and was not changed"):
        Journal(path, IDENTITY)
    assert (path.read_bytes(), wal_of(path).read_bytes()) == before


# Files that somebody made up


def digest(*parts):
    return sha256(b"".join(parts)).digest()[:16]


def header(text=None):
    text = json.dumps({"identity": IDENTITY, "facts": {}}) if text is None else text
    return text, digest(text.encode() if isinstance(text, str) else b"")


def answer(key=bytes(KEY_BYTES), billed=1, off_path=0, scores=bytes(24)):
    parts = key, bytes([billed % 256, off_path % 256]), scores
    return key, billed, off_path, scores, digest(*(part if isinstance(part, bytes) else b"" for part in parts))


def made_up(path, headers, *answers, tables=(HEADER_TABLE, ANSWERS_TABLE, HOLDER_TABLE), version=1):
    """A journal, made anew here as the format has it."""
    with closing(sqlite3.connect(path)) as connection:
        for table in tables:
            connection.execute(table)
        connection.execute(f"PRAGMA application_id={int.from_bytes(b'bvJ' + bytes(1))}")
        connection.execute(f"PRAGMA user_version={version}")
        if headers or answers:
            connection.executemany("INSERT INTO header VALUES (?, ?)", headers)
            connection.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", answers)
        connection.commit()


def test_the_format_is_as_written_down_here(path):
    made_up(path, [header()], answer())
    with Journal(path, IDENTITY) as journal:
        np.testing.assert_array_equal(journal.find([bytes(KEY_BYTES)], 3)[0].scores, np.zeros(3))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("SELECT * FROM answers").fetchall() == [answer()]
        assert connection.execute("SELECT process FROM holder").fetchall() == [(os.getpid(),)]


@pytest.mark.parametrize(
    "headers",
    [
        [header("")],
        [header("null")],
        [header("[]")],
        [header("{}")],
        [header("[" * 100_000)],
        [header('{"identity": [], "facts": {}}')],
        [header('{"identity": {}, "facts": null}')],
        [header("9" * 10_000)],
        [header(7)],
        [header(), header()],
    ],
)
def test_made_up_headers_are_refused(path, headers):
    made_up(path, headers, answer())
    with pytest.raises(JournalError, match="has a header that blackvip did not write|its header is not as it was"):
        Journal(path, IDENTITY)


def test_another_version_is_refused(path):
    made_up(path, [header()], answer(), version=2)
    with pytest.raises(JournalError, match="has the format version 2; this release of blackvip reads version 1"):
        Journal(path, IDENTITY)


@pytest.mark.parametrize(
    "tables",
    [
        (HEADER_TABLE,),
        (HEADER_TABLE, ANSWERS_TABLE),
        (HEADER_TABLE, ANSWERS_TABLE.replace(" PRIMARY KEY", ""), HOLDER_TABLE),
        (HEADER_TABLE, HOLDER_TABLE, "CREATE TABLE rows (key, billed)", "CREATE VIEW answers AS SELECT * FROM rows"),
        (HEADER_TABLE, ANSWERS_TABLE, HOLDER_TABLE, "CREATE TRIGGER t AFTER INSERT ON answers BEGIN SELECT 1; END"),
    ],
)
def test_other_tables_views_and_triggers_are_refused(path, tables):
    made_up(path, [], tables=tables)
    with pytest.raises(JournalError, match="has tables that blackvip did not make"):
        Journal(path, IDENTITY)


@pytest.mark.parametrize(
    "changes",
    [
        {"key": b""},
        {"key": bytes(31)},
        {"key": "x" * 32},
        {"billed": 2},
        {"billed": -1},
        {"off_path": 0.5},
        {"off_path": 2**40},
        {"scores": bytes(23)},
        {"scores": 1.5},
    ],
)
def test_made_up_answers_are_refused(path, changes):
    row = list(answer())
    for name, value in changes.items():
        row[["key", "billed", "off_path", "scores"].index(name)] = value
    made_up(path, [header()], row, answer(key(1)))
    with pytest.raises(JournalError, match="has an answer that blackvip did not write"):
        Journal(path, IDENTITY)
