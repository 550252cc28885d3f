"""Claims: one writer a place, whoever starts first; the dead stand in nobody's way."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading

import pytest

from saekit.core import lock, parts
from saekit.core.errors import ConfigError, ResourceError
from saekit.core.lock import claimed, claimed_file, holder, made_whole

TRY = """
import sys, time
from pathlib import Path
from saekit.core.errors import ConfigError
from saekit.core.lock import claimed
out = Path(sys.argv[1])
sys.stdin.readline()
for i in range(60):
    place = out / str(i)
    try:
        with claimed(place, "a try"):
            with (place / "winners").open("a") as winners:
                winners.write("x")
            time.sleep(0.005)
            assert (place / "winners").read_text() == "x"
            (place / "winners").write_text("")
    except ConfigError:
        pass
print("done")
"""


def process(code, *words):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_of_processes_that_start_together_one_writes_at_a_time(tmp_path):
    started = [process(TRY, tmp_path) for _ in range(4)]
    for one in started:  # all wait for this line, then run into each other 60 times
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in started:
        out, err = one.communicate(timeout=120)
        assert out == "done\n", err


def test_a_living_holder_is_named_and_a_killed_one_does_not_block(tmp_path):
    code = TRY.replace("time.sleep(0.005)", "print('held', flush=True); time.sleep(100)")
    one = process(code, tmp_path)
    one.stdin.write("go\n")
    one.stdin.flush()
    assert one.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"process {one.pid} on {socket.gethostname()}"):
        claimed(tmp_path / "0", "a test").__enter__()
    assert holder(tmp_path / "0").pid == one.pid
    one.kill()
    one.communicate()
    assert (tmp_path / "0" / lock.NAME).exists() and holder(tmp_path / "0") is None
    with claimed(tmp_path / "0", "a test"):
        assert holder(tmp_path / "0").pid == os.getpid()
    assert not (tmp_path / "0" / lock.NAME).exists()


def signed(path, **changes):
    said = {"pid": os.getpid(), "host": socket.gethostname(), "started": None, "doing": "a test"}
    path.write_text(json.dumps(said | changes))


def test_a_number_that_another_process_has_now_is_no_holder(tmp_path):
    signed(tmp_path / lock.NAME, pid=os.getppid(), started="another boot/1")
    assert holder(tmp_path) is None
    with claimed(tmp_path, "a test"):
        pass


def test_a_holder_on_another_host_may_live_and_the_message_says_what_to_do(tmp_path):
    signed(tmp_path / lock.NAME, host="elsewhere", pid=1)
    with pytest.raises(ConfigError, match="process 1 on elsewhere .* delete"):
        claimed(tmp_path, "a test").__enter__()


def test_a_planted_link_is_not_followed(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    place = tmp_path / "place"
    place.mkdir()
    (place / lock.NAME).symlink_to(theirs)
    with claimed(place, "a test"):
        assert not (place / lock.NAME).is_symlink()
    assert theirs.read_text() == "precious"


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_is_no_file_in_the_place_of_a_lock_does_not_hang(tmp_path, kind):
    os.mkfifo(tmp_path / lock.NAME) if kind == "fifo" else (tmp_path / lock.NAME).mkdir()
    with claimed(tmp_path, "a test"):
        pass


def test_claiming_again_is_the_same_claim_and_another_thread_is_refused(tmp_path):
    met = []

    def other():
        try:
            claimed(tmp_path / "a", "another thread").__enter__()
        except ConfigError as error:
            met.append(str(error))

    with claimed(tmp_path / "a", "outer") as outer, claimed(tmp_path / "a", "inner") as inner:
        assert inner is outer
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another thread" in met[0]


def test_nothing_is_left_of_a_claim_that_came_to_nothing(tmp_path):
    with claimed(tmp_path / "a" / "b", "a test"):
        pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(ResourceError, match="cannot be written"):
        (tmp_path / "file").write_text("")
        claimed(tmp_path / "file" / "b", "a test").__enter__()
    with pytest.raises(ConfigError, match="it is a file"):
        claimed(tmp_path / "file", "a test").__enter__()


def test_parts_of_dead_writers_go_and_those_of_living_ones_and_other_files_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    inside = tmp_path / "checkpoints"
    gone = [tmp_path / f".a.json.{dead.pid}.part", inside / f".step-1.{dead.pid}.part"]
    stay = [tmp_path / f".b.{os.getppid()}.part", tmp_path / ".c.part", tmp_path / "d.1.part"]
    inside.mkdir()
    for path in (*gone[:1], *stay):
        path.write_text("")
    gone[1].mkdir()
    (gone[1] / "x").write_text("")
    with claimed(tmp_path, "a test"):
        assert not any(path.exists() for path in gone)
        assert all(path.exists() for path in stay)


def test_a_folder_is_made_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), made_whole(out, "a test") as part:
        (part / "a").write_text("")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with made_whole(out, "a test") as part:
        (part / "a").write_text("1")
    with pytest.raises(ConfigError, match="in use"), made_whole(out, "a test"):
        pass
    with made_whole(out, "a test", replaces=lambda _: True) as part:
        (part / "b").write_text("2")
        assert (out / "a").read_text() == "1"  # the older one stays until now
    assert [p.name for p in out.iterdir()] == ["b"] and list(tmp_path.iterdir()) == [out]


def test_a_folder_is_replaced_also_where_names_cannot_be_swapped(tmp_path, monkeypatch):
    monkeypatch.setattr(parts.ctypes, "CDLL", lambda *_, **__: None)
    for name in ("a", "b"):
        with made_whole(tmp_path / "out", "a test", replaces=lambda _: True) as part:
            (part / name).write_text("")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_one_file_is_claimed_next_to_it(tmp_path):
    with claimed_file(tmp_path / "eval/core.json", "a test"):
        assert stat.S_ISREG((tmp_path / "eval/.core.json.lock").stat().st_mode)
        with claimed_file(tmp_path / "eval/other.json", "a test"):
            pass
    assert not list((tmp_path / "eval").iterdir())
