"""Examples of each latent, by band, against a definition that looks at every entry."""

import numpy as np
import pytest
import torch

from saekit.activations.latents import LatentStoreWriter
from saekit.analysis import examples
from saekit.analysis.examples import ORDER, find_examples
from saekit.analysis.firing import Firing
from saekit.core.codes import Codes
from saekit.data.tokenise import Rows

N_ROWS, N_CTX, D_SAE, VOCAB = 60, 12, 10, 7


def text():
    g = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, VOCAB, (N_ROWS, N_CTX), generator=g)
    docs = torch.arange(N_ROWS * N_CTX).div(9, rounding_mode="floor").view(N_ROWS, N_CTX)
    dense = torch.rand(N_ROWS * N_CTX, D_SAE, generator=g)
    dense *= torch.rand(N_ROWS * N_CTX, D_SAE, generator=g) < 0.06
    dense[:, 3] = 0.0  # never on
    dense[:, 4] = torch.where(tokens.flatten() == 2, 1.5, 0.0)  # on at each of its token
    dense[:, 5] *= -1
    kept = torch.rand(N_ROWS * N_CTX, generator=g) < 0.9
    return tokens, docs, dense, kept


def store(folder, shard_tokens):
    tokens, docs, dense, kept = text()
    place = kept.nonzero()[:, 0]
    writer = LatentStoreWriter(folder, n_ctx=N_CTX, d_sae=D_SAE, meta={}, shard_tokens=shard_tokens)
    codes = Codes.from_dense(dense[kept])
    writer.add(Rows(tokens, docs, 0), place // N_CTX, place % N_CTX, codes)
    return writer.close()


def found(folder, shard_tokens):
    made = store(folder, shard_tokens)
    return find_examples(made, Firing().measure(made))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return found(tmp_path_factory.mktemp("whole"), 10**6)


def grid():
    """The activations [row, pos, latent], NaN at tokens that do not count."""
    _, _, dense, kept = text()
    out = dense.clone()
    out[~kept] = torch.nan
    return out.view(N_ROWS, N_CTX, D_SAE).numpy()


def rows_of(e, band, latent):
    mine = (e.band == ORDER.index(band)) & (e.latent == latent)
    return np.flatnonzero(mine)


@pytest.mark.parametrize("shard_tokens", [36, 100, 12])
def test_shards_change_nothing(whole, tmp_path, shard_tokens):
    for one, other in zip(whole, found(tmp_path / "s", shard_tokens), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_strongest_and_the_weakest_rows(whole):
    acts = grid()
    for latent in range(D_SAE):
        peaks = np.nanmax(np.abs(acts[:, :, latent]), axis=1)
        rows = np.flatnonzero(peaks > 0)
        wanted = np.sort(peaks[rows])[::-1][: examples.TOP]
        at = rows_of(whole, "top", latent)
        np.testing.assert_allclose(np.abs(whole.value[at]), wanted, rtol=1e-6)
        weak = rows_of(whole, "boundary", latent)
        wanted = np.sort(peaks[rows])[: examples.BOUNDARY]
        np.testing.assert_allclose(np.abs(whole.value[weak]), wanted, rtol=1e-6)
        for i in (*at, *weak):  # a row once in a band, and its value is that of the text
            assert acts[whole.row[i], whole.pos[i], latent] == whole.value[i]
        assert len(set(whole.row[at])) == len(at)


def test_quarters_go_from_weak_to_strong(whole):
    for latent in (0, 1, 5):
        sizes = [np.abs(whole.value[rows_of(whole, q, latent)]) for q in ("q1", "q2", "q3", "q4")]
        assert all(len(s) == examples.QUARTER for s in sizes)
        assert all(a.max() <= b.min() for a, b in zip(sizes, sizes[1:], strict=False))


def test_windows_are_the_documents_part_of_the_row_and_hold_every_activation(whole):
    tokens, docs, _, _ = text()
    acts = grid()
    for i in range(len(whole.latent)):
        row, start, end = whole.row[i], whole.start[i], whole.end[i]
        same = np.flatnonzero(docs[row].numpy() == whole.doc[i])
        assert (start, end) == (same[0], same[-1] + 1) and start <= whole.pos[i] < end
        inside = np.nan_to_num(acts[row, start:end, whole.latent[i]])
        at = whole.at[whole.starts[i] : whole.starts[i + 1]]
        np.testing.assert_array_equal(at, np.flatnonzero(inside))
        np.testing.assert_array_equal(whole.acts[whole.starts[i] : whole.starts[i + 1]], inside[at])


def test_negatives_have_the_latents_token_where_it_is_off(whole, tmp_path):
    tokens, _, _, _ = text()
    acts, made = grid(), store(tmp_path / "s", 10**6)
    fired = Firing().measure(made)
    usual = Firing(top=examples.TRIGGERS).top_tokens(fired.triggers, D_SAE)
    seen = 0
    for latent in range(D_SAE):
        at = rows_of(whole, "negative", latent)
        seen += len(at)
        clean = [whole.starts[i + 1] == whole.starts[i] for i in at]
        assert clean == sorted(clean, reverse=True)  # off in the whole part of the row first
        for i in at:
            row, pos = whole.row[i], whole.pos[i]
            assert acts[row, pos, latent] == 0 and whole.value[i] == 0  # NaN: it does not count
            assert int(tokens[row, pos]) in [token for token, _ in usual[latent]]
        assert len(set(whole.row[at])) == len(at)
    assert seen >= 30
    assert not len(rows_of(whole, "negative", 4))  # on wherever its token is
    assert not (whole.latent == 3).any()


def test_long_rows_are_cut_about_the_peak(tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "WINDOW", 5)
    monkeypatch.setattr(examples, "BEFORE", 3)
    e = found(tmp_path / "s", 100)
    assert (e.end - e.start).max() == 5
    assert (e.pos - e.start <= 3).sum() > len(e.pos) / 2 and (e.pos < e.end).all()


def test_no_latent_is_on(tmp_path):
    writer = LatentStoreWriter(tmp_path, n_ctx=4, d_sae=3, meta={})
    rows = Rows(torch.ones(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64), 0)
    codes = Codes.from_dense(torch.zeros(4, 3))
    writer.add(rows, torch.zeros(4, dtype=torch.int64), torch.arange(4), codes)
    made = writer.close()
    assert not len(find_examples(made, Firing().measure(made)).latent)
