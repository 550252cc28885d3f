"""Run folders and caches from somebody else: nothing in them runs, nothing outside is touched."""

import json
import os
import signal

import pytest
import torch

from saekit.activations.cache.caching import repair
from saekit.activations.cache.store import MANIFEST, SHARDS, Store
from saekit.activations.latents import LatentStore
from saekit.core.errors import FormatError
from saekit.core.files import sha256_of, write_json
from saekit.data.arrow import open_arrow
from saekit.models.tiny import tiny
from saekit.report.watch import runs_in
from saekit.training import checkpoint
from saekit.training.checkpoint import run_digest
from saekit.training.loop import train
from saekit.training.parallel.checkpoint import COMMIT
from tests import world
from tests.activations.cached import made


class Trap:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (exec, (f"open({str(self.mark)!r}, 'w').close()",))


def laid(folder, run, mark):
    """Write a run folder with a checkpoint in parts, as PyTorch wrote them, that is a trap."""
    home = folder / "checkpoints" / checkpoint.name_of(5)
    home.mkdir(parents=True)
    for name in (".metadata", "__0_0.distcp"):
        torch.save(Trap(mark), home / name, _use_new_zipfile_serialization=False)
    (home / ".metadata").write_bytes(
        b"\x80\x02cbuiltins\nexec\n(" + (f"Vopen({str(mark)!r}, 'w').close()\ntR.".encode())
    )
    write_json(
        home / COMMIT,
        {
            "step": 5,
            "run": run_digest(run.to_dict()),
            "values": {"stream": {}},
            "processes": 2,
            "sha256": {n: sha256_of(home / n) for n in (".metadata", "__0_0.distcp")},
            "latent_shards": 1,
            "torch": torch.__version__,
        },
    )
    write_json(folder / "run.json", run.to_dict())
    write_json(
        folder / "manifest.json",
        {"kind": "train", "status": "running", "model": tiny().provenance(), "cache": None},
    )


def test_resuming_a_given_folder_runs_no_pickle(tmp_path):
    run, mark = world.run(tmp_path), tmp_path / "ran"
    laid(tmp_path / "given", run, mark)
    with pytest.raises(FormatError, match=r"older saekit|No checkpoint"):
        train(run, tiny(), tmp_path / "given", resume=True, shown=False)
    assert not mark.exists()
    import pickle

    pickle.loads((tmp_path / "given/checkpoints/step-000000005/.metadata").read_bytes())
    assert mark.exists()  # the trap is a trap


def test_repairing_a_given_cache_stays_in_its_folder(tmp_path):
    """A record names a file elsewhere, that is damaged: it was written anew, where it named."""
    store = made(tmp_path, tiny())
    outside = tmp_path / "mine.safetensors"
    outside.write_bytes((store.folder / store.records[0].file).read_bytes()[:-1] + b"x")
    before = outside.read_bytes()
    lines = (store.folder / SHARDS).read_text().splitlines()
    for name in ("../mine.safetensors", str(outside)):
        first = json.loads(lines[0]) | {"file": name}
        (store.folder / SHARDS).write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
        with pytest.raises(FormatError, match="plain name"):
            repair(tiny(), store.folder, shown=False)
        with pytest.raises(FormatError, match="plain name"):
            Store.open(store.folder)
    assert outside.read_bytes() == before


def test_records_that_lead_elsewhere_are_refused_everywhere(tmp_path):
    write_json(
        tmp_path / "a/dataset_info.json", {"features": {"x": {"_type": "Array2D", "shape": [2, 3]}}}
    )
    write_json(tmp_path / "a/state.json", {"_data_files": [{"filename": "../../b.arrow"}]})
    write_json(tmp_path / "b/sweep.json", {"runs": {"../c": {}}})
    write_json(
        tmp_path / "d/manifest.json",
        {
            "format": "saekit.latents",
            "version": 1,
            "shards": [],
            "totals": {"file": "../x", "bytes": 3},
        },
    )
    for read in (
        lambda: open_arrow(tmp_path / "a"),
        lambda: runs_in(tmp_path / "b"),
        lambda: LatentStore.open(tmp_path / "d"),
    ):
        with pytest.raises(FormatError, match="plain name"):
            read()


@pytest.mark.parametrize("name", [MANIFEST, SHARDS, "00000.safetensors"])
def test_a_pipe_in_a_given_folder_is_refused_and_not_waited_for(name, tmp_path):
    store = made(tmp_path, tiny(), tokens=100)
    (store.folder / name).unlink()
    os.mkfifo(store.folder / name)

    def waits(*_):
        raise AssertionError("it waits for a writer of the pipe")

    before = signal.signal(signal.SIGALRM, waits)
    signal.alarm(60)
    try:
        with pytest.raises(FormatError, match="pipe"):
            Store.open(store.folder).text(0, 5)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
