import math

import pytest
import torch

from saekit.activations.text_axis import axis_of
from saekit.analysis.document_peaks import DocumentPeaks
from saekit.analysis.traces import traces
from saekit.core.errors import ConfigError
from tests.analysis.running_text import random_text, store


def brute(acts, docs, latent, n):
    found = []
    for doc in docs.unique().tolist():
        places = (docs == doc).nonzero()[:, 0]
        values = acts[places, latent]
        if values.max() > 0:
            at = int(places[values.argmax()])
            found.append((float(acts[at, latent]), at, doc, at - int(places[0])))
    return sorted(found, key=lambda e: (-e[0], e[1]))[:n]


@pytest.mark.parametrize("shard_tokens", [16, 100, 10**6])
@pytest.mark.parametrize("n", [1, 3, 50])
def test_equals_brute_force(tmp_path, shard_tokens, n):
    acts, docs, kept = random_text()
    acts = (acts * 20).round() / 20  # ties
    made = store(tmp_path, acts, docs, kept=kept, shard_tokens=shard_tokens)
    peaks = DocumentPeaks(n=n).peaks(made)
    for latent in range(5):
        mine = peaks.of(torch.tensor([latent]))
        columns = (mine.value, mine.place, mine.doc, mine.doc_pos)
        got = list(zip(*(c.tolist() for c in columns), strict=True))
        assert got == [pytest.approx(e) for e in brute(acts, docs, latent, n)]
        assert mine.rank.tolist() == list(range(len(got)))


def test_rows_and_positions_name_the_token(tmp_path):
    acts, docs, kept = random_text()
    made = store(tmp_path, acts, docs, kept=kept)
    table, axis = DocumentPeaks(n=2).run(made).columns, axis_of(made)
    assert axis.skipped == 1
    for latent, row, pos, value in zip(
        *(table[c] for c in ("latent", "row", "pos", "value")), strict=True
    ):
        assert acts[row * 15 + pos - 1, latent] == value


@pytest.mark.parametrize("shard_tokens", [16, 10**6])
def test_traces_are_the_text_around_the_peak(tmp_path, shard_tokens):
    acts, docs, kept = random_text()
    made = store(tmp_path, acts, docs, kept=kept, shard_tokens=shard_tokens)
    peaks = DocumentPeaks(n=4).peaks(made)
    got = traces(made, peaks, radius=20)
    assert (got[:, 20] == 1).all()
    each = zip(peaks.latent.tolist(), peaks.place.tolist(), strict=True)
    for i, (latent, place) in enumerate(each):
        for j in range(41):
            at = place + j - 20
            inside = 0 <= at < len(docs) and docs[at] == docs[place] and bool(kept[at])
            value = float(got[i, j])
            if inside:
                assert value == pytest.approx(float(acts[at, latent] / acts[place, latent]))
            else:
                assert math.isnan(value)


def test_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(ConfigError, match="`n`"):
        DocumentPeaks(n=0)
    acts, docs, _ = random_text()
    made = store(tmp_path, acts, docs)
    with pytest.raises(ConfigError, match="radius"):
        traces(made, DocumentPeaks().peaks(made), 0)
