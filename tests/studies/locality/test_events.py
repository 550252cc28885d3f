import csv
import math

import numpy as np
import pytest
import torch

from saekit.activations.latents import LatentStoreWriter
from saekit.core.errors import ConfigError, DataError, FormatError
from saekit.data.tokenise import Rows
from saekit.models.tiny import tiny
from saekit.saes.relu import ReLU
from saekit.studies.locality.events import event_files
from saekit.studies.locality.events.base import Event, distinct, from_store, strongest
from saekit.studies.locality.events.event_entropy import EventEntropy, by_latent
from saekit.studies.locality.influence.base import influence
from saekit.studies.locality.influence.entropy import entropy_bits

SITE = "L0.resid_post"


@pytest.fixture(scope="module")
def world():
    lm = tiny("llama", d_model=16)
    sae = ReLU(d_in=16, d_out=16, d_sae=24).build(torch.Generator().manual_seed(0))
    sae.b_enc.data.fill_(0.7)  # most latents on
    return lm, sae


def stored(folder, world, n_rows=6, n_ctx=20):
    """Rows with BOS of documents of 33 tokens each, and their codes."""
    lm, sae = world
    g = torch.Generator().manual_seed(1)
    text = torch.randint(0, 256, (n_rows * (n_ctx - 1),), generator=g)
    docs = torch.arange(len(text)) // 33
    bos = torch.full((n_rows, 1), 256)
    tokens = torch.cat([bos, text.view(n_rows, -1)], dim=1)
    doc_ids = docs.view(n_rows, -1)
    doc_ids = torch.cat([doc_ids[:, :1], doc_ids], dim=1)
    card = {"bos": True, "rules": {SITE: {"special_ids": [256, 257]}}}
    writer = LatentStoreWriter(folder, n_ctx=n_ctx, d_sae=24, meta={"card": card}, shard_tokens=60)
    x = list(lm.read(tokens, [lm.sites()[1]]).values())[0]  # any activations do
    kept = tokens != 256
    row, pos = kept.nonzero(as_tuple=True)
    with torch.no_grad():
        writer.add(Rows(tokens, doc_ids, 0), row, pos, sae.encode(x[kept]))
    return writer.close(), text, docs


def test_events_hold_their_own_document_up_to_the_peak(tmp_path, world):
    store, text, docs = stored(tmp_path, world)
    place = torch.tensor([0, 5, 33, 50, 70, 113])
    events = from_store(
        store, torch.zeros(6, dtype=torch.int64), place, torch.arange(6.0), n_ctx=25
    )
    assert [e.place for e in events] == place.tolist()[::-1]
    assert [e.rank for e in events] == list(range(6))
    for event in events:
        begin = max(event.place - 24, 33 * (event.place // 33))
        assert list(event.ids) == text[begin : event.place + 1].tolist()
        assert event.doc == docs[event.place]
        assert event.ids[event.peak] == text[event.place]
    with pytest.raises(ConfigError, match="n_ctx"):
        from_store(store, place, place, place.float(), n_ctx=0)


def test_copies_of_text_count_once_and_the_strongest_stays():
    events = [Event(3, i, 9.0 - i, ids) for i, ids in enumerate([(1, 2, 3), (9, 2, 3), (5, 6, 7)])]
    events.append(Event(4, 0, 1.0, (1, 2, 3)))
    kept = distinct(events, same_tokens=2)
    assert [(e.latent, e.rank, e.value) for e in kept] == [(3, 0, 9.0), (3, 1, 7.0), (4, 0, 1.0)]
    assert len(distinct(events, same_tokens=3)) == 4
    assert [e.rank for e in strongest(kept, 1)] == [0, 0]


@pytest.mark.parametrize("bos", [None, 256])
def test_scores_equal_those_of_single_windows(world, bos):
    lm, sae = world
    g = torch.Generator().manual_seed(2)
    events = [
        Event(i % 5, i // 5, 1.0, tuple(torch.randint(0, 256, (n,), generator=g).tolist()))
        for i, n in enumerate([3, 12, 12, 7, 30, 12, 1, 12, 12, 8])
    ]
    scored = EventEntropy(n_ctx=10, batch_tokens=24).score(lm, sae, SITE, events, bos_id=bos)
    assert scored.n_positions.tolist() == [min(len(e.ids), 10) for e in events]
    n_ok = 0
    for i, event in enumerate(events):
        ids = list(event.ids[-10:])
        tokens = torch.tensor([([] if bos is None else [bos]) + ids])
        one = influence(lm, sae, tokens, SITE, latents=[event.latent])
        assert float(scored.activation[i]) == pytest.approx(float(one.activation), abs=1e-6)
        if not float(one.activation) > 0:
            assert scored.status[i] == "feature_below_threshold_at_peak"
            assert math.isnan(scored.H[i])
            continue
        if len(ids) == 1:
            assert scored.status[i] == "one_token_only" and math.isnan(scored.H[i])
            continue
        n_ok += 1
        J = one.J[:, -len(ids) :]
        torch.testing.assert_close(scored.J[i, 10 - len(ids) :], J[0], rtol=1e-4, atol=1e-7)
        assert scored.J[i, : 10 - len(ids)].isnan().all()
        assert float(scored.H[i]) == pytest.approx(float(entropy_bits(J)), abs=1e-4)
        outside = float(one.J[:, : -len(ids)].sum() / one.J.sum()) if bos else 0.0
        assert float(scored.bos_share[i]) == pytest.approx(outside, abs=1e-5)
    assert 3 <= n_ok < len(events)
    assert scored.ok.sum() == n_ok


def test_a_failing_event_is_told_and_takes_no_other_with_it(world, monkeypatch):
    from saekit.studies.locality.events import event_entropy

    lm, sae = world
    events = [Event(0, i, 1.0, (7 * i, 2, 3)) for i in range(4)]
    whole = EventEntropy(n_ctx=3).score(lm, sae, SITE, events)

    def broken(lm, sae, tokens, site, **kwargs):
        if (tokens[:, 0] == 14).any():
            raise DataError("gradients\nare not finite")
        return influence(lm, sae, tokens, site, **kwargs)

    monkeypatch.setattr(event_entropy, "influence", broken)
    scored = EventEntropy(n_ctx=3).score(lm, sae, SITE, events)
    assert scored.failures == ["compute_error: gradients are not finite"]
    others = torch.tensor([0, 1, 3])
    assert torch.allclose(scored.activation[others], whole.activation[others])
    assert math.isnan(scored.activation[2])


def test_files_of_events_come_back(tmp_path, world):
    lm, sae = world
    g = torch.Generator().manual_seed(2)
    events = [
        Event(a, r, 2.5, tuple(torch.randint(0, 256, (3 + 5 * r,), generator=g).tolist()))
        for a in range(6)
        for r in range(3)
    ]
    scored = EventEntropy(n_ctx=8).score(lm, sae, SITE, events)
    event_files.write(tmp_path, scored, lambda i: f"<{i}>", {1: 'says "hi",\nthere'})
    rows = event_files.read(tmp_path)[8]
    assert [(r.feature_id, r.event_idx) for r in rows] == [(e.latent, e.rank) for e in events]
    assert [r.status for r in rows] == scored.status
    assert rows[3].description == 'says "hi",\nthere'
    back = event_files.right_aligned(rows, 8)
    on = scored.ok
    assert torch.equal(back[on].nan_to_num(-1), scored.J[on].nan_to_num(-1))
    for row, bits, n in zip(rows, scored.H.tolist(), scored.n_positions.tolist(), strict=True):
        assert row.H_pos == pytest.approx(bits, nan_ok=True) and row.n_positions == n
    with (tmp_path / "ctx8.csv").open(newline="") as file:
        header = csv.reader(file).__next__()
    assert set(event_files.CURRENT) | set(event_files.OLDER) < set(header)
    means = by_latent(scored).columns
    of_two = [b for e, b in zip(events, scored.H.tolist(), strict=True) if e.latent == 2]
    of_two = [b for b in of_two if not math.isnan(b)]
    at = means["feature_id"].index(2)
    assert means["n_events"][at] == len(of_two)
    assert means["H_pos_mean"][at] == pytest.approx(sum(of_two) / len(of_two), nan_ok=True)


def test_both_published_generations_are_read(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/ctx64.csv").write_text(
        "feature_id,event_idx,H_pos,peak_token_idx,peak_value,sum_J,recall_alt\n"
        "7,0,1.5,3,20.0,0.1,0.9\n7,1,,3,19.0,0.1,0.9\n"
    )
    np.savez(tmp_path / "new/influences_ctx64.npz", **{"0": np.ones(4, np.float32)})
    rows = event_files.read(tmp_path / "new")[64]
    assert rows[0].H_pos == 1.5 and rows[0].J.tolist() == [1.0] * 4 and rows[0].status == "ok"
    assert rows[1].status == "undefined" and rows[1].J is None and rows[1].n_positions == 64

    old = tmp_path / "old"
    old.mkdir()
    header = ",".join(["feature_id", *event_files.OLDER])
    for tier in ("token", "phrase"):
        (old / f"ctx016_{tier}.csv").write_text(
            f"{header}\n9,{tier},d,2,5.0,100,16,85,2.25,16,1,2,3,the,ok\n"
        )
    np.savez(old / "influences_ctx016_phrase.npz", **{"9_2": np.arange(16, dtype=np.float32)})
    rows = event_files.read(old)[16]
    got = [(r.feature_id, r.event_idx, r.H_pos, r.token) for r in rows]
    assert got == [(9, 2, 2.25, "the")]  # once, with the influences that one of the files has
    assert rows[0].J.tolist() == list(range(16)) and rows[0].tier == "phrase"


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(FormatError, match=r"no ctx<N>\.csv"):
        event_files.read(tmp_path)
    (tmp_path / "ctx4.csv").write_text("feature_id,H_pos\n1,2\n")
    with pytest.raises(FormatError, match="line 2"):
        event_files.read(tmp_path)
    with pytest.raises(FormatError, match="length 9"):
        event_files.read(tmp_path, 9)
    (tmp_path / "ctx4.csv").write_text("feature_id,event_idx,H_pos,peak_value\n1,0,2,3\n")
    np.savez(tmp_path / "influences_ctx4.npz", **{"1_0": np.array([object()], dtype=object)})
    with pytest.raises(FormatError, match="not numbers"):
        event_files.read(tmp_path)
    with pytest.raises(ConfigError, match="n_ctx"):
        EventEntropy(n_ctx=1)


def test_windows_longer_than_the_model_are_refused(world):
    lm, sae = world
    with pytest.raises(ConfigError, match="longer"):
        EventEntropy(n_ctx=300).score(lm, sae, SITE, [Event(0, 0, 1.0, (1,) * 290)])
