"""The journal's file: what survives tears, flips, kills and strangers."""

import json
import os
import signal
import struct
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
from joblib import Parallel, delayed

from blackvip import JournalError
from blackvip.journal import journal as journal_module
from blackvip.journal.journal import KEY_BYTES, Journal
from blackvip.journal.records import HEAD_BYTES, MAX_RECORD_BYTES

IDENTITY = {"parameters": {"a": 0.1}, "images": "ab"}
HEADER = 16  # bytes before the first record


def key(number):
    return sha256(str(number).encode()).digest()


def scores_of(number):
    return np.random.default_rng(number).normal(size=3)


def add(journal, *numbers, **kwargs):
    journal.add([key(n) for n in numbers], np.stack([scores_of(n) for n in numbers]), **kwargs)


def found_in(journal, among=range(20)):
    """The numbers whose answers are there, all of them to the bit."""
    places = {n: journal.find(key(n)) for n in among}
    for n, place in places.items():
        if place is not None:
            np.testing.assert_array_equal(journal.scores(place, 3), scores_of(n))
    return [n for n, place in places.items() if place is not None]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.journal"


@pytest.fixture
def written(path):
    """The bytes of a journal of three records, and the bytes at which each of these and the header end."""
    ends = []
    with Journal(path, IDENTITY) as journal:
        ends.append(path.stat().st_size)
        for numbers in ((0, 1), (2,), (3, 4, 5)):
            add(journal, *numbers)
            ends.append(path.stat().st_size)
    return path.read_bytes(), ends


def record(payload, mark=b"\xb1\xac\x0b\x1f"):
    """A record as the format has it, made anew here."""
    return mark + struct.pack("<I", len(payload)) + sha256(payload).digest()[:16] + payload


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
        np.testing.assert_array_equal(journal.scores(journal.find(key(3)), 3), odd[0])
        assert (journal.n_answers, journal.n_free, journal.n_aside) == (3, 0, 0)
        with pytest.raises(JournalError, match="an answer of 3 scores where 4 are expected"):
            journal.scores(journal.find(key(1)), 4)
    journal.close()
    with pytest.raises(JournalError, match="is closed in this process"):
        add(journal, 4)


def test_what_was_aside_or_not_billed_is_remembered_and_the_first_of_equal_keys_counts(path):
    with Journal(path, IDENTITY) as journal:
        add(journal, 1, 2, 3, n_free=2)
        add(journal, 4, aside=True)
        journal.add([key(4), key(1)], np.ones((2, 3)))
    with Journal(path, IDENTITY) as journal:
        assert found_in(journal) == [1, 2, 3, 4]
        assert (journal.n_answers, journal.n_free, journal.n_aside) == (4, 2, 1)
        assert [journal.is_aside(journal.find(key(n))) for n in (1, 4)] == [False, True]
        assert [journal.free_in(journal.find(key(n)).record) for n in (1, 4)] == [2, 0]


def test_each_answer_is_on_disk_when_add_returns(path):
    """What another process reads right after `add`, without any help of this one."""
    with Journal(path, IDENTITY) as journal:
        for n in range(3):
            add(journal, n)
            copy = path.with_name("copy")
            copy.write_bytes(path.read_bytes())
            with Journal(copy, IDENTITY) as other:
                assert found_in(other) == list(range(n + 1))


def test_many_answers_are_several_records(path):
    n, n_scores = 3, MAX_RECORD_BYTES // 8 // 2
    scores = np.arange(n * n_scores, dtype=float).reshape(n, n_scores)
    with Journal(path, IDENTITY) as journal:
        journal.add([key(n) for n in range(3)], scores, n_free=2)
    with Journal(path, IDENTITY) as journal:
        assert (journal.n_answers, journal.n_free) == (3, 2)
        for n in range(3):
            np.testing.assert_array_equal(journal.scores(journal.find(key(n)), n_scores), scores[n])


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
        assert [journal.find(key(n)) is not None for n in (1, 2, 3)] == [True] * 3
        assert np.isnan(journal.scores(journal.find(key(1)), 3)).all()


# Torn, flipped, damaged


def test_a_tail_torn_at_any_byte_is_cut_off_and_the_journal_goes_on(path, written):
    data, ends = written
    whole = {ends[0]: [], ends[1]: [0, 1], ends[2]: [0, 1, 2], ends[3]: [0, 1, 2, 3, 4, 5]}
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        end = max((end for end in ends if end <= cut), default=ends[0])
        with Journal(path, IDENTITY) as journal:
            assert found_in(journal) == whole[end], cut
            assert path.stat().st_size == end
            if cut % 9 == 0:
                add(journal, 9)
        if cut % 9 == 0:
            with Journal(path, IDENTITY) as journal:
                assert found_in(journal) == [*whole[end], 9]


@pytest.mark.parametrize("tail", [bytes(100), b"\xff" * 5000, b"\xb1\xac\x0b\x1f" * 3, os.urandom(3_000_000)])
def test_whatever_else_is_behind_the_last_record_is_cut_off(path, written, tail):
    data, ends = written
    path.write_bytes(data + tail)
    with Journal(path, IDENTITY) as journal:
        assert found_in(journal) == [0, 1, 2, 3, 4, 5]
        assert path.stat().st_size == ends[-1]


@pytest.mark.parametrize("change", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_never_gives_a_wrong_answer_and_is_named_unless_it_is_in_the_tail(path, written, change):
    data, ends = written
    starts = [HEADER, *ends[:-1]]
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= change
        path.write_bytes(flipped)
        if 8 <= place < HEADER:  # the process that had it
            with Journal(path, IDENTITY) as journal:
                assert found_in(journal) == [0, 1, 2, 3, 4, 5]
        elif place >= ends[-2]:  # the last record: it may as well be torn
            with Journal(path, IDENTITY) as journal:
                assert found_in(journal) == [0, 1, 2]
        else:
            start = max(start for start in starts if start <= place) if place >= HEADER else None
            message = "is no journal of blackvip" if start is None else f"the record at byte {start} is not as it was"
            with pytest.raises(JournalError, match=message):
                Journal(path, IDENTITY)
            assert path.read_bytes() == flipped


def test_an_error_after_a_part_of_a_record_was_written_leaves_no_trace(path):
    resource = pytest.importorskip("resource")
    with Journal(path, IDENTITY) as journal:
        add(journal, 1)
        size = path.stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, limits[1]))  # as a disk that is full
            with pytest.raises(JournalError, match="cannot be written: File too large. The answers that came last"):
                add(journal, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        with pytest.raises(JournalError, match="File too large"):  # and nothing else is paid for
            journal.check_usable()
        with pytest.raises(JournalError, match="File too large"):
            add(journal, 3)
        assert path.stat().st_size == size
    with Journal(path, IDENTITY) as journal:
        add(journal, 2)
        assert found_in(journal) == [1, 2]


# One process at a time


def test_a_second_journal_in_this_process_is_refused(path):
    with Journal(path, IDENTITY) as journal:
        with pytest.raises(JournalError, match=rf"{path}' is in use by process {os.getpid()}; two fits .* Wait for"):
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


def test_a_journal_of_another_process_is_refused_until_that_is_killed(path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(JournalError, match=f"is in use by process {holder.pid}"):
            Journal(path, IDENTITY)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
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
    add(one, 1)
    assert found_in(other) == []
    other.refresh()
    assert found_in(other) == [1]
    add(other, 2)
    add(one, 3)
    assert found_in(one) == [1, 2, 3]
    one.close()
    other.close()


def test_a_journal_that_somebody_has_for_itself_is_not_shared(path, monkeypatch):
    monkeypatch.setattr(journal_module, "_PATIENCE", 0.05)
    with Journal(path, IDENTITY) as journal:
        add(journal, 1)
        with pytest.raises(JournalError, match=f"is in use by process {os.getpid()}"):
            Journal(path, IDENTITY, shared=True)


def test_what_another_process_left_torn_is_cut_off_by_the_next_who_adds(path):
    with Journal(path, IDENTITY, shared=True) as journal:
        add(journal, 1)
        whole = path.read_bytes()
        with path.open("ab") as file:
            file.write(record(b"x" * 100)[:90])
        add(journal, 2)
        assert path.stat().st_size == len(whole) + HEAD_BYTES + 16 + KEY_BYTES + 24
    with Journal(path, IDENTITY, shared=True) as journal:
        assert found_in(journal) == [1, 2]


def add_all(path, numbers):
    with Journal(path, IDENTITY, shared=True) as journal:
        for n in numbers:
            add(journal, n)


@pytest.mark.slow
def test_two_processes_add_at_the_same_time(path):
    Parallel(n_jobs=2)(delayed(add_all)(path, range(first, 400, 2)) for first in range(2))
    with Journal(path, IDENTITY, shared=True) as journal:
        assert found_in(journal, range(400)) == list(range(400))


def test_a_file_that_was_cut_meanwhile_is_an_error(path):
    with Journal(path, IDENTITY, shared=True) as journal:
        add(journal, 1)
        os.truncate(path, 40)
        with pytest.raises(JournalError, match="has become shorter than the .* bytes that were written"):
            journal.refresh()


# Whose it is


def test_a_journal_of_something_else_is_refused_with_all_differences_named(path):
    with Journal(path, IDENTITY) as journal:
        add(journal, 1)
    before = path.read_bytes()
    other = {"parameters": {"a": 0.2, "b": None}, "images": "ab"}
    message = r"belongs to something else: parameters.a was 0.1 and is 0.2 now; parameters.b was not there and is None"
    with pytest.raises(JournalError, match=message):
        Journal(path, other)
    assert path.read_bytes()[HEADER:] == before[HEADER:]


def test_a_journal_without_answers_belongs_to_whoever_comes(path):
    Journal(path, IDENTITY, {"seed": "1"}).close()
    with Journal(path, {"other": 1}, {"seed": "2"}) as journal:
        assert journal.facts == {"seed": "2"}
        add(journal, 1)
    with pytest.raises(JournalError, match="other was 1 and is not there now"):
        Journal(path, IDENTITY)


def test_what_is_no_journal_stays_as_it_is(path, tmp_path):
    for data in (b"buy milk", b"\x8b", b"\x8bBVK" + bytes(100), os.urandom(1000)):
        path.write_bytes(data)
        if data == b"\x8b":  # torn after the first byte
            Journal(path, IDENTITY).close()
            continue
        with pytest.raises(JournalError, match="is no journal of blackvip, and stays as it is"):
            Journal(path, IDENTITY)
        assert path.read_bytes() == data
    with pytest.raises(JournalError, match="is not a file"):
        Journal(tmp_path, IDENTITY)
    with pytest.raises(JournalError, match="cannot be opened: No such file or directory"):
        Journal(tmp_path / "none" / "run.journal", IDENTITY)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(JournalError, match="is not a file"):
        Journal(path, IDENTITY)


# Files that somebody made up


def made_up(path, *payloads):
    path.write_bytes(b"\x8bBVJ\r\n\x1a\n" + bytes(8) + b"".join(map(record, payloads)))


def header(**changes):
    return json.dumps(
        {"format": "blackvip journal", "version": 1, "identity": IDENTITY, "facts": {}, **changes}
    ).encode()


def answers(n, n_scores, n_free=0, flags=0, size=None):
    body = bytes(n * (KEY_BYTES + 8 * n_scores) if size is None else size)
    return struct.pack("<IIII", n, n_scores, n_free, flags) + body


def test_the_format_is_as_written_down_here(path):
    made_up(path, header(), answers(1, 3))
    with Journal(path, IDENTITY) as journal:
        np.testing.assert_array_equal(journal.scores(journal.find(bytes(KEY_BYTES)), 3), np.zeros(3))


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"format": "blackvip journal", "version": 1, "identity": [], "facts": {}}',
        header(format="other"),
        header(version="1"),
        header(facts=None),
        b"\xff\xfe",
        b"9" * 10_000,
    ],
)
def test_made_up_headers_are_refused(path, first):
    made_up(path, first, answers(1, 3))
    with pytest.raises(JournalError, match="has a header that blackvip did not write"):
        Journal(path, IDENTITY)


def test_another_version_is_refused(path):
    made_up(path, header(version=2), answers(1, 3))
    with pytest.raises(JournalError, match="has the format version 2; this release of blackvip goes on with version 1"):
        Journal(path, IDENTITY)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"x" * 15,
        answers(1, 3, size=0),
        answers(1, 3, size=55),
        answers(2**32 - 1, 2**32 - 1, size=8),
        answers(0, 0, n_free=1),
        answers(2, 3, n_free=3),
        answers(1, 3, flags=2),
        answers(1, 3) + b"x",
    ],
)
def test_made_up_records_are_refused(path, payload):
    made_up(path, header(), payload, answers(1, 3))
    with pytest.raises(JournalError, match=r"has a record at byte \d+ that blackvip did not write"):
        Journal(path, IDENTITY)


def test_a_length_beyond_the_file_or_the_limit_is_that_of_a_torn_record(path):
    made_up(path, header())
    for length in (2**32 - 1, MAX_RECORD_BYTES, 1000):
        with path.open("ab") as file:
            file.write(b"\xb1\xac\x0b\x1f" + struct.pack("<I", length) + bytes(16) + b"x" * 100)
        with Journal(path, IDENTITY) as journal:
            assert journal.n_answers == 0


def test_a_tail_full_of_marks_does_not_take_forever(path):
    made_up(path, header(), answers(1, 3))
    head = b"\xb1\xac\x0b\x1f" + struct.pack("<I", 1_000_000) + bytes(16)
    with path.open("ab") as file:
        file.write(head * 100_000)
    with pytest.raises(JournalError, match="is damaged"):  # in doubt, nothing is cut off
        Journal(path, IDENTITY)
