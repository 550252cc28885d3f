import pytest
import torch

from saekit.activations.latents import LatentStoreWriter
from saekit.analysis.contexts import contexts, latent_records
from saekit.analysis.latent_stats import LatentStats
from saekit.analysis.max_acts import MaxActs
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError
from saekit.data.tokenise import Rows

N_ROWS, N_CTX, D_SAE, FIRST = 40, 10, 7, 3
SHARDS = [10, 30, 170, 10**6]


def corpus(levels=6):
    """Activations with few distinct values, so that ties are everywhere."""
    g = torch.Generator().manual_seed(1)
    acts = torch.randint(1, levels + 1, (N_ROWS, N_CTX, D_SAE), generator=g).float()
    acts *= torch.rand(acts.shape, generator=g) < torch.linspace(0, 0.5, D_SAE)
    kept = torch.rand(N_ROWS, N_CTX, generator=g) < 0.9
    acts = acts * kept[..., None]
    tokens = torch.arange(N_ROWS * N_CTX).view(N_ROWS, N_CTX)
    docs = (torch.rand(N_ROWS * N_CTX, generator=g) < 0.2).cumsum(0).view(N_ROWS, N_CTX)
    return acts, kept, tokens, docs


def stored(folder, data, shard_tokens=10**6):
    acts, kept, tokens, docs = data
    writer = LatentStoreWriter(folder, n_ctx=N_CTX, d_sae=D_SAE, meta={}, shard_tokens=shard_tokens)
    row, pos = kept.nonzero(as_tuple=True)
    writer.add(Rows(tokens, docs, FIRST), row + FIRST, pos, Codes.from_dense(acts[kept]))
    return writer.close()


def row_peaks(acts, latent):
    """Every row's strongest event, the first of equals, in text order."""
    found = []
    for row in range(N_ROWS):
        value, pos = max((float(acts[row, p, latent]), -p) for p in range(N_CTX))
        if value:
            found.append((row + FIRST, -pos, value))
    return found


def by_latent(peaks):
    found = {latent: [] for latent in range(D_SAE)}
    for latent, row, pos, value in zip(*(c.tolist() for c in peaks[:4]), strict=True):
        found[latent].append((row, pos, value))
    return found


@pytest.mark.parametrize("shard_tokens", SHARDS[1:])
@pytest.mark.parametrize("n", [1, 3, 50])
def test_top_equals_brute_force(tmp_path, shard_tokens, n):
    data = corpus()
    got = by_latent(MaxActs(n=n).peaks(stored(tmp_path, data, shard_tokens)))
    for latent in range(D_SAE):
        expected = sorted(row_peaks(data[0], latent), key=lambda e: (-e[2], e[0]))[:n]
        assert got[latent] == expected
    assert got[0] == []  # never on


def test_intervals_hold_one_peak_each_and_ignore_shards(tmp_path):
    data = corpus(levels=1000)
    runs = [
        by_latent(MaxActs(n=5, examples="intervals").peaks(stored(tmp_path / str(s), data, s)))
        for s in SHARDS
    ]
    assert all(run == runs[0] for run in runs)
    for latent in range(1, D_SAE):
        peaks = row_peaks(data[0], latent)
        most = float(data[0][..., latent].max())
        filled = {min(int(-(-e[2] * 5 // most)), 5) for e in peaks}
        chosen = [int(-(-e[2] * 5 // most)) for e in runs[0][latent]]
        assert set(runs[0][latent]) <= set(peaks)
        assert chosen == sorted(filled, reverse=True)


def test_intervals_are_not_all_from_the_first_rows(tmp_path):
    data = corpus(levels=2)
    chosen = MaxActs(n=2, examples="intervals").peaks(stored(tmp_path, data))
    assert chosen.row.double().mean() > FIRST + N_ROWS / 4


def test_table_ranks_within_each_latent(tmp_path):
    columns = MaxActs(n=3).run(stored(tmp_path, corpus())).columns
    for latent in range(1, D_SAE):
        ranks = [r for r, i in zip(columns["rank"], columns["latent"], strict=True) if i == latent]
        assert ranks == [0, 1, 2]


@pytest.mark.parametrize("shard_tokens", SHARDS)
def test_windows_stop_at_documents_and_rows(tmp_path, shard_tokens):
    data = corpus(levels=1000)
    acts, _, tokens, docs = data
    store = stored(tmp_path, data, shard_tokens)
    peaks = MaxActs(n=4, before=3, after=2).peaks(store)
    found = contexts(store, peaks, lambda ids: [str(i) for i in ids])
    seen = 0
    for latent, records in found.items():
        for record in records:
            row, pos = record["row"] - FIRST, record["pos"]
            near = range(max(0, pos - 3), min(N_CTX, pos + 3))
            inside = [p for p in near if docs[row, p] == docs[row, pos]]
            assert record["tokens"] == [str(int(tokens[row, p])) for p in inside]
            assert record["acts"] == [float(f"{acts[row, p, latent]:.4g}") for p in inside]
            assert inside[record["peak"]] == pos
            assert record["acts"][record["peak"]] == record["value"]
            assert record["doc"] == docs[row, pos]
            seen += 1
    assert seen == len(peaks.row) > 20


def test_stats_equal_brute_force(tmp_path):
    acts, kept, *_ = data = corpus(levels=1000)
    columns = LatentStats().run(stored(tmp_path, data, 30)).columns
    for latent in range(1, D_SAE):
        on = acts[..., latent][acts[..., latent] > 0].double()
        assert columns["density"][latent] == pytest.approx(len(on) / int(kept.sum()))
        assert columns["mean"][latent] == pytest.approx(float(on.mean()))
        assert columns["std"][latent] == pytest.approx(float(on.std(correction=0)))
        assert columns["max"][latent] == float(on.max())
    assert columns["density"][0] == 0
    assert all(columns[c][0] != columns[c][0] for c in ("mean", "max", "std"))  # nan


def test_records_of_an_index(tmp_path):
    store = stored(tmp_path, corpus())
    found = contexts(store, MaxActs(n=2).peaks(store), lambda ids: [str(i) for i in ids])
    logits = [{"promoted": [["a", 1.0]], "suppressed": []} for _ in range(D_SAE)]
    records = latent_records(LatentStats().run(store), found, logits)["latents"]
    assert [r["latent"] for r in records] == list(range(D_SAE))
    assert records[0]["contexts"] == [] and records[0]["max"] is None
    assert len(records[6]["contexts"]) == 2 and records[6]["promoted"] == [["a", 1.0]]


@pytest.mark.parametrize("wrong", [{"n": 0}, {"before": -1}, {"after": -1}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MaxActs(**wrong)
