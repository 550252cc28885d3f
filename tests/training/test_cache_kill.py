"""Processes killed outright while they write a cache, and while they train on one."""

import json
import multiprocessing
import shutil

import pytest

from saekit.activations.cache.store import SHARDS, Store
from saekit.models.tiny import save_tiny
from tests import share, world
from tests.activations.cached import assert_same
from tests.training.in_a_process import done, killed
from tests.training.test_kill import weights

pytestmark = [
    # Every kill starts a process anew.
    pytest.mark.slow,
    pytest.mark.skipif(
        "forkserver" not in multiprocessing.get_all_start_methods(), reason="needs fork"
    ),
]
N_KILLS = share.part(20, 4)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Words of the command that writes, without its folder, and what it writes undisturbed."""
    base = tmp_path_factory.mktemp("base")
    model, text = save_tiny(base / "model"), world.text_file(base, n_docs=1500)
    words = ["cache", "write", "--model", model, "--corpus", text, "--site", "L1.resid_post"]
    words += ["--tokens", 60_000, "--dtype", "float32", "--precision", "float32", "--quiet"]
    words += ["--set", "n_ctx=32", "--set", "shard_bytes=100000", "--out"]
    assert done([*words, base / "whole"]) == 0
    return words, Store.open(base / "whole")


def test_a_writer_killed_at_random_loses_and_doubles_no_token(written, tmp_path):
    words, whole = written
    folder, n = tmp_path / "cut", 0

    def lines():
        path = folder / SHARDS
        return path.read_bytes().count(b"\n") if path.exists() else 0

    # A writer may end before it is killed: what it wrote is looked at, and the next begins anew.
    for _ in range(4 * N_KILLS):
        if killed([*words, folder], lines):
            n += 1
            if (folder / "manifest.json").exists():
                assert not Store.open(folder).damaged()
        else:
            assert_same(Store.open(folder), whole)
            shutil.rmtree(folder)
        if n == N_KILLS:
            break
    assert n == N_KILLS
    assert done([*words, folder]) == 0
    cut = Store.open(folder)
    assert_same(cut, whole)
    assert [r.first_row for r in cut.records] == [0, *[r.end_row for r in cut.records[:-1]]]
    assert (cut.n_rows, cut.n_kept) == (whole.n_rows, whole.n_kept)


def test_training_on_a_cache_killed_at_random_ends_with_the_same_weights(written, tmp_path):
    epochs = 3 * N_KILLS
    start = ["train", "--cache", written[1].folder, "--d-sae", 128, "--k", 8, "--tokens", 20_000]
    start += ["--epochs", epochs, "--quiet", "--set", "batch_tokens=256", "--set", "shuffle=full"]
    start += ["--set", "buffer_tokens=4096", "--set", "checkpoint_tokens=5000", "--out"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert done([*start, whole]) == 0

    def newest():
        return max((p.name for p in (cut / "checkpoints").glob("step-*")), default="")

    n, begun = 0, False
    for _ in range(4 * N_KILLS):
        words = ["train", "--resume", cut, "--quiet"] if begun else [*start, cut]
        begun = killed(words, newest)
        n += begun
        if n == N_KILLS:
            break
        if not begun:  # it ended before it was killed, and the next begins anew
            assert weights(whole) == weights(cut)
            shutil.rmtree(cut)
    assert n == N_KILLS
    assert done(["train", "--resume", cut, "--quiet"]) == 0
    assert weights(whole) == weights(cut)
    log = (cut / "log.jsonl").read_text().splitlines()
    tokens = [json.loads(line).get("tokens") for line in log]
    assert max(t for t in tokens if t is not None) == 20_000 * epochs
