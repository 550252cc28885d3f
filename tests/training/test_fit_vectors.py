"""An SAE on vectors from anywhere: in memory, in files of each kind, stopped and resumed."""

import contextlib
import io
import os
import random
import signal
import tarfile
import threading

import numpy as np
import pytest
import torch

import saekit
from saekit.core.errors import ConfigError, DataError, Interrupted, SaekitError, ShapeError
from saekit.data.vector_files import READERS
from saekit.data.vectors import open_vectors
from saekit.training.fit_vectors import resume_fit
from saekit.training.vector_stream import Split, VectorStream
from tests import world

N, WIDTH = 900, 12
SMALL = {"epochs": 3, "lr": 1e-2, "batch_tokens": 64, "log_steps": 5, "shown": False}
KIND = saekit.TopK(k=3, d_sae=32)


def planted(seed=0, n=N, width=WIDTH):
    chance = torch.Generator().manual_seed(seed)
    directions = torch.randn(24, width, generator=chance)
    codes = torch.rand(n, 24, generator=chance) * (torch.rand(n, 24, generator=chance) < 0.1)
    return codes @ directions + 1


def parquet(path, values, fixed=True):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    flat = arrow.array(values.flatten())
    if fixed:
        column = arrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
    else:
        starts = arrow.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1])
        column = arrow.ListArray.from_arrays(starts, flat)
    table = arrow.table({"id": list(range(len(values))), "emb": column})
    pyarrow.parquet.write_table(table, path, row_group_size=100)


def tar(path, values, rows=1):
    with tarfile.open(path, "w") as file:
        for i in range(0, len(values), rows):
            part = values[i] if rows == 1 else values[i : i + rows]
            for name, array in ((f"{i:05d}.emb.npy", part), (f"{i:05d}.cls.npy", np.arange(3))):
                data = io.BytesIO()
                np.save(data, array)
                entry = tarfile.TarInfo(f"shard/{name}")
                entry.size = len(data.getvalue())
                file.addfile(entry, io.BytesIO(data.getvalue()))


def written(folder, values, kind):
    """Write vectors in two files of a kind; return what is given and the name within."""
    from safetensors.numpy import save_file

    halves = (values[:500], values[500:])
    folder.mkdir(exist_ok=True)
    for i, part in enumerate(halves):
        part = np.ascontiguousarray(part)
        if kind == "npy":
            np.save(folder / f"{i}.npy", np.asfortranarray(part) if i else part)
        elif kind == "safetensors":
            save_file({"emb": part, "ids": np.arange(len(part))}, folder / f"{i}.safetensors")
        elif kind == "npz":
            (np.savez_compressed if i else np.savez)(folder / f"{i}.npz", emb=part, name=["a"])
        elif kind in ("parquet", "lists"):
            parquet(folder / f"{i}.parquet", part, fixed=kind == "parquet")
        else:
            tar(folder / f"{i}.tar", part, rows=7 if i and kind == "tar_of_rows" else 1)
    return folder, "emb" if kind.startswith("tar") else None


KINDS = ["npy", "safetensors", "npz", "parquet", "lists", "tar", "tar_of_rows"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_files_of_every_kind_give_the_rows_that_were_written(tmp_path, kind, dtype):
    values = planted().numpy().astype(dtype)
    vectors = open_vectors(*written(tmp_path / "v", values, kind))
    assert (vectors.n, vectors.width, vectors.dtype) == (N, WIDTH, dtype)
    rows = torch.tensor([0, 1, 99, 100, 499, 500, 501, 640, N - 1])
    assert torch.equal(vectors.take(rows), torch.from_numpy(values[rows]).float())
    assert set(READERS) >= {p.suffix for p in (tmp_path / "v").iterdir()}


def test_bfloat16_is_read_of_a_tensor_and_of_a_file(tmp_path):
    from safetensors.torch import save_file

    values = planted().bfloat16()
    save_file({"x": values}, tmp_path / "x.safetensors")
    rows = torch.tensor([3, 600])
    for source in (values, tmp_path / "x.safetensors"):
        assert torch.equal(open_vectors(source).take(rows), values[rows].float())


def test_vectors_in_memory_and_in_files_give_the_same_sae_and_learn(tmp_path):
    values = planted()
    one = saekit.fit(values, KIND, out=tmp_path / "a", **SMALL)
    other = saekit.fit(values.numpy(), KIND, **SMALL)
    folder, _ = written(tmp_path / "v", values.numpy(), "npy")
    third = saekit.fit(folder, KIND, **SMALL)
    for name, weight in one.sae.state_dict().items():
        assert torch.equal(weight, other.sae.state_dict()[name])
        assert torch.equal(weight, third.sae.state_dict()[name])
    held = one.card.provenance["held_out"]
    assert held["fvu"]["low"] < held["fvu"]["value"] < held["fvu"]["high"] < 0.6
    assert held["l0"]["value"] == 3 and held["n_rows"] == 90
    loaded = saekit.load(tmp_path / "a")
    codes = loaded.encode(values.half())
    assert codes.d_sae == 32 and loaded.card.model["name"] == "none"
    assert loaded.card.corpus["vectors"]["shape"] == [N, WIDTH]
    assert "vectors of no model" in str(loaded)


def test_the_numbers_are_of_rows_that_no_step_saw(tmp_path):
    split = Split.of(N, 0.1)
    out, inside = split.rows(split.held_out), split.rows(split.train)
    assert len(out) == 90 and sorted([*out.tolist(), *inside.tolist()]) == list(range(N))
    values = planted()
    values[out] = planted(seed=5)[: len(out)] * 50  # what was held out is like nothing else
    sae = saekit.fit(values, KIND, **SMALL)
    assert sae.card.provenance["held_out"]["fvu"]["value"] > 0.9
    assert saekit.score(sae, values[inside]).scores["fvu"].value < 0.6


@pytest.mark.parametrize("n", [100, 1000, 9000, 100_003])
def test_a_split_holds_out_runs_of_neighbours_whatever_the_number(n):
    split = Split.of(n, 0.1)
    both = torch.cat([split.rows(split.held_out), split.rows(split.train)])
    assert torch.equal(both.sort().values, torch.arange(n))
    assert split.count(split.train) == len(split.rows(split.train))
    assert len(split.held_out) >= min(n // 10, 128)


@pytest.mark.parametrize("buffer", [None, 130])
def test_each_row_comes_once_an_epoch_in_another_order(buffer):
    values = torch.arange(N, dtype=torch.float32)[:, None].expand(-1, 2).clone()
    vectors, split = open_vectors(values), Split.of(N, 0.1)
    stream = VectorStream(
        [vectors],
        split,
        rows=810,
        epochs=2,
        batch_rows=100,
        buffer_rows=buffer or N,
        seed=0,
        device="cpu",
    )
    came = torch.cat([stream.batch()[0][:, 0] for _ in range(17)]).long()
    one, other = came[:810], came[810:]
    assert stream.served_tokens == 1620
    assert one.sort().values.tolist() == sorted(split.rows(split.train).tolist())
    assert one.sort().values.tolist() == other.sort().values.tolist()
    assert not torch.equal(one, other) and not torch.equal(one, one.sort().values)


def test_a_transcoder_predicts_the_other_vectors(tmp_path):
    x = planted()
    y = torch.cat([x.flip(1), x[:, :4]], 1) * 3
    sae = saekit.fit(x, KIND, y=y, **SMALL)
    assert (sae.d_in, sae.d_out) == (WIDTH, WIDTH + 4)
    scores = saekit.score(sae, x, y).scores
    assert scores["fvu"].value < 0.8 and sae.card.transcodes
    with pytest.raises(ShapeError, match="900 to read and 899 to predict"):
        saekit.fit(x, KIND, y=y[1:], **SMALL)


class Stop:
    """Sends SIGINT when so many batches were asked for."""

    def __init__(self, monkeypatch, at):
        batch, self.left = VectorStream.batch, at

        def stopping(stream):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return batch(stream)

        monkeypatch.setattr(VectorStream, "batch", stopping)


@pytest.mark.parametrize("buffer", [None, 200])
def test_a_stopped_fit_goes_on_to_the_same_bits(tmp_path, monkeypatch, buffer):
    assert threading.current_thread() is threading.main_thread()
    folder, _ = written(tmp_path / "v", planted().numpy(), "npy")
    settings = SMALL | {"buffer_tokens": buffer, "epochs": 4}
    whole = saekit.fit(folder, KIND, out=tmp_path / "whole", **settings)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="--resume"):
        Stop(patch, at=17)
        saekit.fit(folder, KIND, out=tmp_path / "cut", **settings)
    with pytest.raises(ConfigError, match="tokens"):  # another fit than the one in the folder
        saekit.fit(folder, KIND, out=tmp_path / "cut", resume=True, **settings | {"tokens": 400})
    cut = resume_fit(tmp_path / "cut", shown=False)
    for name, weight in whole.sae.state_dict().items():
        assert torch.equal(weight, cut.sae.state_dict()[name]), name
    assert cut.card.provenance["held_out"] == whole.card.provenance["held_out"]
    with pytest.raises(ConfigError, match="is finished"):
        resume_fit(tmp_path / "cut", shown=False)


def test_a_fit_does_not_go_on_with_other_vectors(tmp_path, monkeypatch):
    folder, _ = written(tmp_path / "v", planted().numpy(), "npy")
    for source, out in ((folder, "files"), (planted(), "memory")):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            Stop(patch, at=9)
            saekit.fit(source, KIND, out=tmp_path / out, **SMALL)
    np.save(folder / "1.npy", planted(seed=1).numpy()[500:])
    with pytest.raises(ConfigError, match=r"1\.npy is new, gone or changed"):
        resume_fit(tmp_path / "files", shown=False)
    with pytest.raises(ConfigError, match="in memory. Go on in Python"):
        resume_fit(tmp_path / "memory", shown=False)
    with pytest.raises(ConfigError, match="begun on other vectors"):
        saekit.fit(planted(seed=1), KIND, out=tmp_path / "memory", resume=True, **SMALL)
    saekit.fit(planted(), KIND, out=tmp_path / "memory", resume=True, **SMALL)


def odd(name):
    """Return a function that writes files which cannot be used, and what is said of them."""

    def nan(folder):
        values = planted().numpy()
        values[700, 3] = np.nan
        np.save(folder / "b.npy", values)

    def wide(folder):
        np.save(folder / "b.npy", planted(width=13).numpy())

    def half(folder):
        np.save(folder / "b.npy", planted().half().numpy())

    def empty(folder):
        np.save(folder / "b.npy", np.empty((0, WIDTH), np.float32))

    def ints(folder):
        np.save(folder / "b.npy", np.ones((5, WIDTH), np.int64))

    def cube(folder):
        np.save(folder / "b.npy", np.ones((5, 2, WIDTH), np.float32))

    def torn(folder):
        data = io.BytesIO()
        np.save(data, planted().numpy())
        (folder / "b.npy").write_bytes(data.getvalue()[:-8])

    def objects(folder):
        np.save(folder / "b.npy", np.array([{"a": 1}]), allow_pickle=True)

    def mixed(folder):
        np.savez(folder / "b.npz", planted().numpy())

    return {
        "nan": (nan, r"Row 700 of .*b\.npy is not finite"),
        "wide": (wide, r"b\.npy has vectors of width 13; those of .*a\.npy have 12"),
        "half": (half, r"b\.npy holds float16; .*a\.npy holds float32"),
        "empty": (empty, r"b\.npy is empty"),
        "ints": (ints, r"b\.npy must hold floats; it holds int64"),
        "cube": (cube, r"b\.npy must have the shape \[rows, width\]"),
        "torn": (torn, r"b\.npy is damaged"),
        "objects": (objects, r"b\.npy is not numbers"),
        "mixed": (mixed, r"several kinds, \.npy and \.npz"),
    }[name]


@pytest.mark.parametrize(
    "name", ["nan", "wide", "half", "empty", "ints", "cube", "torn", "objects", "mixed"]
)
def test_files_that_cannot_be_used_are_named(tmp_path, name):
    np.save(tmp_path / "a.npy", planted().numpy())
    write, said = odd(name)
    write(tmp_path)
    with pytest.raises(SaekitError, match=said):
        saekit.fit(tmp_path, KIND, **SMALL)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (torch.ones(5), r"shape \[n, width\]"),
        (torch.ones(5, 3).long(), "must be floats; got int64"),
        (np.array([["a", "b"]]), "must be floats"),
        (torch.full((200, 4), torch.inf), "Row 0 of the vectors is not finite"),
        (np.full((200, 4), 1e300), "is not finite in float32"),
        (torch.rand(20, 4), "There are 20 vectors"),
        (torch.ones(500, 4), "do not vary"),
        ("nowhere", "is no file, folder or match"),
        ("text.txt", "must end in one of"),
    ],
)
def test_vectors_that_cannot_be_used_are_refused(tmp_path, monkeypatch, source, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a")
    with pytest.raises(SaekitError, match=said):
        saekit.fit(source, saekit.TopK(k=2, d_sae=8), **SMALL)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gives_its_rows_or_an_error_in_words(tmp_path, kind):
    # A tar has an entry or two a row: a few rows are damaged in as many ways.
    folder, key = written(tmp_path / "v", planted(n=120 if kind == "tar" else N).numpy(), kind)
    whole = sorted(folder.iterdir())[kind == "tar_of_rows"]  # its first has a row an entry
    data, chance = whole.read_bytes(), random.Random(kind)
    hurt = tmp_path / f"hurt{whole.suffix}"
    for i in range(120):
        bad = bytearray(data[: chance.randrange(len(data))] if i % 4 == 0 else data)
        for _ in range(0 if i % 4 == 0 else chance.randint(1, 8)):
            near = min(len(bad), chance.choice([100, 600, len(bad)]))
            at = chance.randrange(near)
            bad[at if i % 2 else -1 - at] = chance.randrange(256)
        hurt.write_bytes(bad)
        with contextlib.suppress(SaekitError):
            vectors = open_vectors(hurt, key)
            assert vectors.take(torch.arange(vectors.n)).isfinite().all()


def test_a_key_names_one_of_several(tmp_path):
    values = planted().numpy()
    np.savez(tmp_path / "two.npz", a=values, b=values * 2)
    with pytest.raises(DataError, match="several: a, b. Name it with `key`"):
        open_vectors(tmp_path / "two.npz")
    with pytest.raises(DataError, match="nothing called `c`"):
        open_vectors(tmp_path / "two.npz", "c")
    doubled = open_vectors(tmp_path / "two.npz", "b").take(torch.tensor([5]))
    assert torch.equal(doubled, torch.from_numpy(values[5:6] * 2))


@pytest.mark.parametrize("settings", [{"tokens": 811}, {"k": 3}, {"test_share": 0.0}])
def test_settings_that_do_not_fit_are_refused(settings):
    with pytest.raises(SaekitError, match=r"not held out|no setting `k`|test_share"):
        saekit.fit(planted(), KIND, **SMALL | settings)
    with pytest.raises(ConfigError, match="site jointly"):
        saekit.fit(planted(), saekit.Crosscoder(k=3, d_sae=32, n_sites=2), **SMALL)


def test_what_needs_a_model_refuses_in_a_sentence():
    sae, lm = saekit.fit(planted(width=32), KIND, **SMALL), world.model()
    for use in (
        lambda: saekit.evaluate(sae, lm, corpus=["some text"]),
        lambda: saekit.index(sae, lm, out="x", corpus=["some text"]),
        lambda: saekit.splice(lm, sae),
        lambda: saekit.steer(lm, sae, latent=1, add=1.0, prompt="a"),
    ):
        with pytest.raises(ConfigError, match="fitted to vectors, not to a site"):
            use()


def test_vectors_that_a_model_gave_after_all_have_their_site_said(tmp_path):
    lm, text = world.model(), world.text_file(tmp_path)
    acts = lm.read(["the cat sat on the mat and then the dog ran under it"] * 12, "L1.resid_post")
    vectors = acts.flatten(0, 1)
    saekit.fit(vectors, KIND, out=tmp_path / "a", **SMALL)
    sae = saekit.load(tmp_path / "a", site="L1.resid_post")
    result = saekit.evaluate(sae, lm, corpus=text, n_tokens=300, ce_tokens=0, shown=False)
    assert result.scores["fvu"].value > 0


def test_a_fit_begins_from_the_weights_of_another():
    first = saekit.fit(planted(), KIND, **SMALL)
    again = saekit.fit(planted(), start_from=first, **SMALL | {"lr": 1e-30, "epochs": 1})
    for name, weight in first.sae.state_dict().items():
        assert torch.allclose(weight, again.sae.state_dict()[name], atol=1e-5), name
    assert again.card.provenance["start_from"]["weights_sha256"] == again.card.run["start_from"]
    with pytest.raises(ConfigError, match="those of the SAE to begin from"):
        saekit.fit(planted(), KIND, start_from=first, **SMALL)
