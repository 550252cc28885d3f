import json

import pytest
import torch

from saekit.activations.latents import LatentStore, LatentStoreWriter
from saekit.core.codes import Codes
from saekit.core.errors import DataError, FormatError, ShapeError, UnknownNameError
from saekit.data.tokenise import Rows

N_ROWS, N_CTX, D_SAE, FIRST = 13, 8, 11, 40


def dense_reference(seed=0, n_rows=N_ROWS):
    """Random activations of all places, which of them are kept, tokens and documents."""
    g = torch.Generator().manual_seed(seed)
    acts = torch.rand(n_rows, N_CTX, D_SAE, generator=g)
    acts = (acts * 8).ceil() * (torch.rand(acts.shape, generator=g) < 0.3)
    acts[..., 3] = 0.0  # never on
    kept = torch.rand(n_rows, N_CTX, generator=g) < 0.8
    kept[5] = False  # a row of which nothing is kept
    tokens = torch.randint(0, 500, (n_rows, N_CTX), generator=g)
    docs = (torch.rand(n_rows * N_CTX, generator=g) < 0.15).cumsum(0).view(n_rows, N_CTX)
    return acts, kept, tokens, docs


def write(folder, reference, *, shard_tokens=2**17, batch_rows=4, first=FIRST):
    acts, kept, tokens, docs = reference
    writer = LatentStoreWriter(
        folder, n_ctx=N_CTX, d_sae=D_SAE, meta={"sae": "x"}, shard_tokens=shard_tokens
    )
    for i in range(0, len(tokens), batch_rows):
        part = slice(i, i + batch_rows)
        row, pos = kept[part].nonzero(as_tuple=True)
        values, latents = acts[part][kept[part]].topk(6)  # fixed k: some values are 0
        codes = Codes.fixed(values, latents, D_SAE)
        writer.add(Rows(tokens[part], docs[part], first + i), row + i + first, pos, codes)
    return writer.close()


def truth(reference):
    acts, kept, _, _ = reference
    flat = acts[kept]
    return Codes.fixed(*flat.topk(6), D_SAE).dense()


@pytest.mark.parametrize(("shard_tokens", "batch_rows"), [(10**6, 4), (16, 4), (24, 13), (1, 5)])
def test_round_trip_equals_dense_reference(tmp_path, shard_tokens, batch_rows):
    reference = dense_reference()
    store = write(tmp_path, reference, shard_tokens=shard_tokens, batch_rows=batch_rows)
    expected = truth(reference)
    kept = reference[1]
    parts = list(store.by_token())
    assert torch.equal(torch.cat([p.codes.dense() for p in parts]), expected)
    row, pos = kept.nonzero(as_tuple=True)
    assert torch.equal(torch.cat([p.row for p in parts]), row + FIRST)
    assert torch.equal(torch.cat([p.pos for p in parts]), pos)
    assert all((p.codes.values != 0).all() for p in parts)
    assert (store.n_tokens, store.n_rows, store.d_sae) == (int(kept.sum()), N_ROWS, D_SAE)
    assert len(parts) == -(-N_ROWS // max(1, shard_tokens // N_CTX))
    assert store.meta == {"sae": "x"}


@pytest.mark.parametrize("shard_tokens", [10**6, 16])
def test_events_equal_brute_force(tmp_path, shard_tokens):
    reference = dense_reference()
    store = write(tmp_path, reference, shard_tokens=shard_tokens)
    expected, (row, pos) = truth(reference), reference[1].nonzero(as_tuple=True)
    for latent in range(D_SAE):
        on = expected[:, latent] != 0
        events = store.events(latent)
        assert torch.equal(events.value, expected[on, latent])
        assert torch.equal(events.row, row[on] + FIRST)
        assert torch.equal(events.pos, pos[on])
    with pytest.raises(UnknownNameError, match=r"latent 11.*0\.\.10"):
        store.events(D_SAE)


def test_latent_major_is_the_transpose(tmp_path):
    store = write(tmp_path, dense_reference(), shard_tokens=16)
    for shard in store.shards():
        entries, kept = shard.by_latent(), shard.by_token()
        dense = torch.zeros(D_SAE, 10**4)
        dense[entries.latents(), entries.row * N_CTX + entries.pos] = entries.values
        places = kept.row * N_CTX + kept.pos
        assert torch.equal(dense[:, places].T, kept.codes.dense())
        assert len(entries.values) == len(kept.codes.values)


@pytest.mark.parametrize("shard_tokens", [10**6, 16])
def test_totals(tmp_path, shard_tokens):
    reference = dense_reference()
    store, expected = write(tmp_path, reference, shard_tokens=shard_tokens), truth(reference)
    assert torch.equal(store.counts, (expected != 0).sum(0))
    assert torch.equal(store.sums, expected.double().sum(0))  # small integers: exact
    assert torch.equal(store.squares, expected.double().square().sum(0))
    assert torch.equal(store.maxima, expected.amax(0))
    assert store.counts[3] == 0 and store.maxima[3] == 0


def test_rows_in_any_order(tmp_path):
    reference = dense_reference()
    store = write(tmp_path, reference, shard_tokens=16)
    index = torch.tensor([52, 40, 45, 40])
    tokens, docs = store.rows(index)
    assert torch.equal(tokens, reference[2][index - FIRST])
    assert torch.equal(docs, reference[3][index - FIRST])
    with pytest.raises(UnknownNameError, match=r"row 53.*40\.\.52"):
        store.rows(torch.tensor([53]))


def test_wide_dictionaries_sort_too(tmp_path):
    d_sae = 2**16 + 5
    writer = LatentStoreWriter(tmp_path, n_ctx=2, d_sae=d_sae, meta={})
    latents = torch.tensor([[d_sae - 1, 7], [3, d_sae - 1]])
    codes = Codes.fixed(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), latents, d_sae)
    rows = Rows(torch.ones(1, 2).long(), torch.zeros(1, 2).long(), 0)
    writer.add(rows, torch.tensor([0, 0]), torch.tensor([0, 1]), codes)
    store = writer.close()
    assert store.events(d_sae - 1).value.tolist() == [1.0, 4.0]
    assert store.events(7).pos.tolist() == [0]


def test_interrupted_store_is_refused(tmp_path):
    with pytest.raises(FormatError, match="interrupted"):
        LatentStore.open(tmp_path)
    reference = dense_reference()
    write(tmp_path, reference)
    LatentStoreWriter(tmp_path, n_ctx=N_CTX, d_sae=D_SAE, meta={})  # begins anew, never closes
    with pytest.raises(FormatError, match="interrupted"):
        LatentStore.open(tmp_path)


def test_a_shorter_store_leaves_no_shard_of_the_longer_one(tmp_path):
    write(tmp_path, dense_reference(), shard_tokens=16)
    write(tmp_path, dense_reference(n_rows=6))
    assert [p.name for p in tmp_path.glob("shard-*")] == ["shard-00000.safetensors"]


def test_damage_is_found(tmp_path):
    store = write(tmp_path, dense_reference(), shard_tokens=32)
    store.verify()
    shard = tmp_path / "shard-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-3] + bytes(b ^ 1 for b in whole[-3:]))
    with pytest.raises(FormatError, match="shard-00001.*damaged"):
        LatentStore.open(tmp_path).verify()
    shard.write_bytes(whole[:-1])
    with pytest.raises(FormatError, match="shard-00001"):
        LatentStore.open(tmp_path)
    shard.unlink()
    with pytest.raises(FormatError, match="is missing"):
        LatentStore.open(tmp_path)
    with pytest.raises(FormatError, match="missing or damaged"):
        store.events(0)


@pytest.mark.parametrize(
    ("change", "said"), [({"version": 99}, "version 99"), ({"shards": None}, "lacks")]
)
def test_manifest_of_another_kind(tmp_path, change, said):
    write(tmp_path, dense_reference())
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text()) | change
    del manifest["seal"]  # as one of an earlier version
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))
    with pytest.raises(FormatError, match=said):
        LatentStore.open(tmp_path)


def one_row(**changes):
    given = {
        "rows": Rows(torch.ones(1, N_CTX).long(), torch.zeros(1, N_CTX).long(), 0),
        "row": torch.tensor([0, 0]),
        "pos": torch.tensor([1, 2]),
        "codes": Codes.fixed(torch.ones(2, 1), torch.tensor([[1], [2]]), D_SAE),
    }
    return given | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"pos": torch.tensor([2, 1])},
        {"pos": torch.tensor([1, 1])},
        {"pos": torch.tensor([1, N_CTX])},
        {"row": torch.tensor([0, 1])},
        {"codes": Codes.fixed(torch.ones(1, 1), torch.tensor([[1]]), D_SAE)},
        {"codes": Codes.fixed(torch.ones(2, 1), torch.tensor([[1], [2]]), D_SAE + 1)},
        {"rows": Rows(torch.ones(1, 5).long(), torch.zeros(1, 5).long(), 0)},
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path, changes):
    writer = LatentStoreWriter(tmp_path, n_ctx=N_CTX, d_sae=D_SAE, meta={})
    with pytest.raises(ShapeError):
        writer.add(**one_row(**changes))


def test_rows_must_go_on(tmp_path):
    writer = LatentStoreWriter(tmp_path, n_ctx=N_CTX, d_sae=D_SAE, meta={})
    writer.add(**one_row())
    with pytest.raises(ShapeError, match="go on from row 1"):
        writer.add(**one_row())


def test_nothing_finite_or_nothing_at_all(tmp_path):
    writer = LatentStoreWriter(tmp_path, n_ctx=N_CTX, d_sae=D_SAE, meta={})
    bad = Codes.fixed(torch.tensor([[torch.nan], [1.0]]), torch.tensor([[1], [2]]), D_SAE)
    with pytest.raises(DataError, match="not finite"):
        writer.add(**one_row(codes=bad))
    with pytest.raises(DataError, match="Not one token"):
        writer.close()
