"""Writing a store: whole, in part, stopped, killed, on a full disk, damaged and repaired."""

import dataclasses
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest
import torch

from saekit.activations import passes
from saekit.activations.cache import caching
from saekit.activations.cache.store import CHANNELS, MANIFEST, SHARDS, Store
from saekit.core import lock
from saekit.core.errors import ConfigError, DataError, FormatError, Interrupted, ResourceError
from saekit.core.files import write_json
from saekit.models.sites import parse_site
from tests import world
from tests.activations.cached import SITES, TOKENS, Killed, assert_same, everything, made, spec


@pytest.fixture(autouse=True, scope="module")
def _small_passes():
    """Rows of a pass as few as shards of a small store need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "CPU_TOKENS", 512)
        yield


@pytest.fixture(scope="module")
def lm():
    return world.model()


@pytest.fixture(scope="module")
def whole(lm, tmp_path_factory):
    """A store that nothing happened to; not to be changed."""
    return made(tmp_path_factory.mktemp("whole"), lm)


def test_what_is_read_is_what_the_model_gave(lm, whole):
    sites = [parse_site(s) for s in SITES]
    assert len(whole.records) > 3
    given = caching.Caching.from_dict(whole.manifest["config"]).harvest(lm)
    row = 0
    for rows in given.stream.rows(16, n_rows=whole.n_rows):
        text = whole.text(row, 16)
        assert torch.equal(text.tokens, rows.tokens) and torch.equal(text.doc_ids, rows.doc_ids)
        direct = lm.read(rows.tokens, sites)
        for site in sites:
            found = whole.acts(site, row, len(rows.tokens))
            assert torch.equal(found, direct[site])
        row += len(rows.tokens)
    assert row == whole.n_rows


def test_parts_of_rows_and_single_tokens_are_found(whole):
    site = parse_site(SITES[1])
    every = whole.acts(site, 0, whole.n_rows)
    assert torch.equal(whole.acts(site, 13, 60), every[13:73])  # over borders of shards
    places = torch.tensor([5, 3, 300])
    first = whole.records[1].first_row
    flat = every[first : whole.records[1].end_row].flatten(0, 1)
    assert torch.equal(whole.take(1, site, places), flat[places])
    norms = torch.cat([whole.norms(i, site) for i in range(len(whole.records))])
    assert torch.equal(norms, every.norm(dim=-1))


def test_the_size_is_said_before_and_is_right(lm, tmp_path, capsys):
    store = caching.write(spec(tmp_path), lm, tmp_path / "cache", tokens=TOKENS)
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith("cache     0.001 GB for 3,000 tokens of L0.resid_post [32]")
    rows = caching._rows_for(Store.open(store.folder), TOKENS)
    assert abs(rows - store.n_rows) <= 0  # it has them
    fresh = dataclasses.replace(spec(tmp_path), precision="bfloat16")
    folder = tmp_path / "other"
    stopped = iter([None, "enough"])
    with pytest.raises(Interrupted):
        caching.write(fresh, lm, folder, tokens=TOKENS, stopped=lambda: next(stopped), shown=False)
    part = Store.open(folder)
    assert part.n_rows == 32
    assert abs(caching._rows_for(part, TOKENS) - store.n_rows) <= 16


def test_a_disk_that_is_too_small_is_refused_before(lm, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 1000}))
    with pytest.raises(ResourceError, match=r"needs about .* MB"):
        made(tmp_path, lm)
    assert not list((tmp_path / "cache").glob("*.safetensors"))


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_stop_writes_what_was_read_and_going_on_ends_the_same(lm, tmp_path, whole, at):
    asked = 0

    def stopped():
        nonlocal asked
        asked += 1
        return "SIGTERM" if asked == at else None

    config, folder = caching.Caching.from_dict(whole.manifest["config"]), tmp_path / "cache"
    with pytest.raises(Interrupted, match="--resume"):
        caching.write(config, lm, folder, tokens=TOKENS, stopped=stopped, shown=False)
    assert Store.open(folder).n_rows == 16 * at
    store = caching.write(config, lm, folder, tokens=TOKENS, shown=False)
    assert_same(store, whole)
    assert store.n_kept == whole.n_kept


POINTS = ["fsync", "replace", "between"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("at", range(1, 9))
def test_a_kill_at_any_write_loses_and_doubles_nothing(lm, tmp_path, whole, monkeypatch, point, at):
    """The n-th time the writer reaches a point it is gone; then another goes on."""
    config, folder = caching.Caching.from_dict(whole.manifest["config"]), tmp_path / "cache"
    done = 0

    def die(real):
        def call(*args, **kwargs):
            nonlocal done
            done += 1
            if done == at:
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        if point == "fsync":  # written, not yet renamed or not yet in the list
            patch.setattr(os, "fsync", die(os.fsync))
        elif point == "replace":
            patch.setattr(Path, "replace", die(Path.replace))
        else:  # the shard is there, its line is not
            from saekit.activations.cache import store_writer

            patch.setattr(store_writer, "_append", die(store_writer._append))
        try:
            caching.write(config, lm, folder, tokens=TOKENS, shown=False)
            assert done < at, "it was never killed"
        except Killed:
            pass
    store = caching.write(config, lm, folder, tokens=TOKENS, shown=False)
    assert_same(store, whole)
    firsts = [record.first_row for record in store.records]
    assert firsts == [0, *[record.end_row for record in store.records][:-1]]
    assert store.n_kept == whole.n_kept and not store.damaged()
    assert not list(folder.glob(".*.part"))


def test_a_torn_line_of_the_list_is_dropped(lm, tmp_path, whole):
    store = made(tmp_path, lm)
    lines = (store.folder / SHARDS).read_bytes().splitlines(keepends=True)
    (store.folder / SHARDS).write_bytes(b"".join(lines[:2]) + lines[2][:40])
    assert len(Store.open(store.folder).records) == 2
    config = caching.Caching.from_dict(store.manifest["config"])
    again = caching.write(config, lm, store.folder, tokens=TOKENS, shown=False)
    assert_same(again, whole)


def test_a_store_grows_where_more_is_asked(lm, tmp_path):
    small = made(tmp_path, lm, tokens=1000)
    before = everything(small)
    identity = small.identity
    config = caching.Caching.from_dict(small.manifest["config"])
    large = caching.write(config, lm, small.folder, tokens=4000, shown=False)
    assert large.n_kept >= 4000 and large.identity == identity
    for name, part in everything(large).items():
        assert torch.equal(part[: len(before[name])], before[name])


def test_text_that_ends_leaves_a_store_that_can_be_used(lm, tmp_path):
    with pytest.raises(DataError, match="The text ended after"):
        made(tmp_path, lm, tokens=10**6)
    store = Store.open(tmp_path / "cache")
    assert store.ended and store.n_kept > 5000 and not store.damaged()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, or a skip where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mounted, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def full_disk_then_room(lm, folder, whole, monkeypatch, make_room):
    """Write until the disk is full, make room, go on; the store must be the whole one."""
    config = caching.Caching.from_dict(whole.manifest["config"])
    monkeypatch.setattr(caching, "need_space", lambda *_: None)  # others may fill it later
    with pytest.raises(ResourceError, match=r"(?s)Could not write .*--resume .* --tokens 3000"):
        caching.write(config, lm, folder, tokens=TOKENS, shown=False)
    part = Store.open(folder)
    assert 0 < part.n_rows < whole.n_rows and not part.damaged()
    assert not list(folder.glob(".*.part"))
    make_room()
    store = caching.write(config, lm, folder, tokens=TOKENS, shown=False)
    assert_same(store, whole)


def test_a_disk_that_gets_full_is_a_clean_stop(lm, small_disk, whole, monkeypatch):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    folder = small_disk / "cache"
    full_disk_then_room(lm, folder, whole, monkeypatch, ballast.unlink)


@pytest.mark.parametrize("at", [4, 5, 6, 7])  # the manifest, then shards and lines by turns
def test_a_full_disk_at_a_given_write(lm, tmp_path, whole, monkeypatch, at):
    """Also while the list grows: the shard is then written again."""
    full = {"count": 0, "room": False}
    real = os.fsync

    def fsync(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):  # a folder, after a file was put in it
            return real(file)
        full["count"] += 1
        if full["count"] >= at and not full["room"]:
            raise OSError(28, "No space left on device")
        return real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    full_disk_then_room(lm, tmp_path / "cache", whole, monkeypatch, lambda: full.update(room=True))


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


DAMAGE = {
    "a byte of the activations": lambda p: flip(p, p.stat().st_size // 2),
    "a byte of the header": lambda p: flip(p, 30),
    "a byte of the last tensor": lambda p: flip(p, p.stat().st_size - 3),
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:-100]),
    "empty": lambda p: p.write_bytes(b""),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_named_and_repaired(lm, tmp_path, whole, kind):
    store = made(tmp_path, lm)
    path = store.folder / store.records[2].file
    DAMAGE[kind](path)
    store = Store.open(store.folder)
    wanted = rf"{path.name}.*saekit cache write --repair {store.folder}"
    with pytest.raises(FormatError, match=wanted):
        everything(store)
    assert list(store.damaged()) == [2]
    files = [r.file for r in store.records if r.file != path.name]
    others = {file: (store.folder / file).stat().st_mtime_ns for file in files}
    assert caching.repair(lm, store.folder, shown=False) == [path.name]
    assert_same(store, whole)
    assert not Store.open(store.folder).damaged()
    for file, when in others.items():
        assert (store.folder / file).stat().st_mtime_ns == when  # only that one was written
    assert caching.repair(lm, store.folder, shown=False) == []


def test_a_flipped_byte_is_found_by_those_who_read_it_only(lm, tmp_path):
    store = made(tmp_path, lm)
    flip(store.folder / store.records[0].file, store.records[0].n_bytes // 2)
    store = Store.open(store.folder)
    good = 0
    for site in store.sites:
        try:
            store.acts(site, 0, 1)
            good += 1
        except FormatError:
            continue
    assert good == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_ctx", 64), ("bos", False), ("sites", (SITES[0],)), ("precision", "bfloat16")],
)
def test_a_folder_with_another_cache_is_refused_and_the_field_named(lm, tmp_path, field, value):
    store = made(tmp_path, lm)
    other = dataclasses.replace(
        caching.Caching.from_dict(store.manifest["config"]), **{field: value}
    )
    with pytest.raises(ConfigError, match=f"`{field}`"):
        caching.write(other, lm, store.folder, tokens=TOKENS, shown=False)


def test_another_model_cannot_go_on(lm, tmp_path):
    store = made(tmp_path, lm)
    config = caching.Caching.from_dict(store.manifest["config"])
    with pytest.raises(ConfigError, match="`model.revision`"):
        caching.write(config, world.tiny(seed=1), store.folder, tokens=TOKENS, shown=False)


def test_a_text_that_changed_is_not_gone_on_with(lm, tmp_path):
    store = made(tmp_path, lm)
    text = tmp_path / "text.jsonl"
    lines = text.read_text().splitlines(keepends=True)
    text.write_text("".join(lines[:-1]))
    config = caching.Caching.from_dict(store.manifest["config"])
    for go_on in (
        lambda: caching.write(config, lm, store.folder, tokens=5000, shown=False),
        lambda: caching.repair(lm, store.folder, shown=False),
    ):
        with pytest.raises(ConfigError, match="`corpus` is not what it was"):
            go_on()


def test_a_folder_with_something_else_is_refused(lm, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="in use"):
        made(tmp_path, lm)


def test_two_writers_do_not_meet(lm, tmp_path):
    other = {"pid": os.getppid(), "host": socket.gethostname(), "started": None, "doing": "a test"}
    write_json(tmp_path / "cache" / lock.NAME, other)
    with pytest.raises(ConfigError, match=f"in use by process {os.getppid()}"):
        made(tmp_path, lm)


def test_a_writer_killed_before_its_manifest_does_not_stand_in_the_way(lm, tmp_path):
    whole = made(tmp_path, lm, precision="int8w")
    cut = tmp_path / "again" / "cache"
    cut.mkdir(parents=True)
    shutil.copy(whole.folder / CHANNELS, cut)
    made(tmp_path / "again", lm, precision="int8w")
    assert (cut / CHANNELS).read_bytes() == (whole.folder / CHANNELS).read_bytes()


def test_a_folder_without_a_cache_says_how_to_make_one(tmp_path):
    with pytest.raises(FormatError, match="saekit cache write"):
        Store.open(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(FormatError, match="not JSON"):
        Store.open(tmp_path)


def test_float16_is_refused_where_a_site_overflows(lm, tmp_path, monkeypatch):
    """The massive token may be late: what was written before it is there and whole."""
    real = type(lm).read

    def read(self, tokens, sites, **kwargs):
        found = real(self, tokens, sites, **kwargs)
        if torch.equal(tokens, late.tokens):
            found[parse_site(SITES[1])][3, 7, 5] = -88_093.0
        return found

    config = spec(tmp_path, precision="float16")
    late = next(iter(config.harvest(lm).stream.rows(16, first_row=80)))
    monkeypatch.setattr(type(lm), "read", read)
    with pytest.raises(DataError, match=r"L1.resid_post, in rows from 80: .*88,093.*bfloat16"):
        made(tmp_path, lm, precision="float16")
    store = Store.open(tmp_path / "cache")
    assert 0 < store.n_rows <= 80 and not store.damaged()


def test_activations_that_are_not_finite_are_refused(lm, tmp_path, monkeypatch):
    real = type(lm).read

    def read(self, tokens, sites, **kwargs):
        found = real(self, tokens, sites, **kwargs)
        found[parse_site(SITES[0])][0, 9, 0] = torch.nan
        return found

    monkeypatch.setattr(type(lm), "read", read)
    with pytest.raises(DataError, match="not finite"):
        made(tmp_path, lm)
