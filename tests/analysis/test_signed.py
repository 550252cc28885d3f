"""Latents that are on with negative activations: counted by hand on three rows of four tokens."""

import json

import pytest
import torch

from saekit.activations.latents import LatentStore, LatentStoreWriter
from saekit.analysis.active_places import active_places
from saekit.analysis.autocorrelation import Autocorrelation
from saekit.analysis.cofiring import Cofiring
from saekit.analysis.contexts import contexts
from saekit.analysis.document_peaks import DocumentPeaks
from saekit.analysis.firing import Firing
from saekit.analysis.latent_stats import LatentStats
from saekit.analysis.max_acts import MaxActs
from saekit.analysis.traces import traces
from saekit.core.codes import Codes
from saekit.core.files import read_json, read_tensors, sha256_of, write_json, write_tensors
from saekit.data.tokenise import Rows
from saekit.studies.locality.events.base import from_store

#  token   0   1   2   3 |  4   5   6   7 |  8   9  10  11
FIRST = (-5.0, 0, 0, -4.0, 0, -3.0, 0, -6.0, 0, -2.0, 0, 0.1)
OTHER = (1.0, 0, 0, 2.0, 0, 1.0, 0, 1.0, 0, 1.0, 0, 0)


def store(folder, shard_tokens=10**6) -> LatentStore:
    writer = LatentStoreWriter(folder, n_ctx=4, d_sae=2, meta={}, shard_tokens=shard_tokens)
    tokens, at = torch.arange(12).view(3, 4), torch.arange(12)
    docs = torch.arange(3)[:, None].expand(3, 4).contiguous()
    codes = Codes.from_dense(torch.tensor([FIRST, OTHER]).t())
    writer.add(Rows(tokens, docs, 0), at // 4, at % 4, codes)
    return writer.close()


@pytest.fixture(params=[4, 10**6])
def signed(request, tmp_path):
    return store(tmp_path, request.param)


def test_totals(signed):
    assert signed.counts.tolist() == [6, 5]
    assert signed.maxima.tolist() == [-6.0, 2.0]
    columns = LatentStats().run(signed).columns
    assert columns["density"] == [0.5, pytest.approx(5 / 12)]
    assert columns["max"] == [-6.0, 2.0]
    assert columns["mean"] == pytest.approx([-19.9 / 6, 1.2])


def test_a_store_of_an_older_version_is_looked_through(signed):
    """It kept the largest of signed activations, and does not say that it did otherwise."""
    manifest = read_json(signed.folder / "manifest.json")
    del manifest["maxima"], manifest["seal"]
    totals = read_tensors(signed.folder / "totals.safetensors")
    totals["maxima"] = torch.tensor([0.1, 2.0])
    write_tensors(signed.folder / "totals.safetensors", totals)
    manifest["totals"]["bytes"] = (signed.folder / "totals.safetensors").stat().st_size
    manifest["totals"]["sha256"] = sha256_of(signed.folder / "totals.safetensors")
    write_json(signed.folder / "manifest.json", manifest)
    assert LatentStore.open(signed.folder).maxima.tolist() == [-6.0, 2.0]


def test_firing_and_cofiring(signed):
    columns = Firing(min_count=1).run(signed).columns
    assert columns["count"] == [6, 5]
    assert columns["n_docs"] == [3, 3]
    assert columns["top_tokens"][0] == "0:1 3:1 5:1 7:1 9:1"
    assert Firing(threshold=2.5).run(signed).columns["count"] == [4, 0]
    assert Cofiring().count(signed).both.tolist() == [[6, 5], [5, 5]]
    assert Cofiring(threshold=0.5).count(signed).both.tolist() == [[5, 5], [5, 5]]


def test_the_strongest_are_the_largest_in_size_and_keep_their_sign(signed):
    top = MaxActs(n=3).run(signed).columns
    mine = [v for v, i in zip(top["value"], top["latent"], strict=True) if i == 0]
    assert mine == [-6.0, -5.0, -2.0]  # one a row
    peaks = DocumentPeaks(n=3).run(signed).columns
    mine = [v for v, i in zip(peaks["value"], peaks["latent"], strict=True) if i == 0]
    assert mine == [-6.0, -5.0, -2.0]
    spread = MaxActs(n=3, examples="intervals").peaks(signed)
    first, last = spread.value[spread.latent == 0].tolist()
    assert first in (-6.0, -5.0)  # one drawn of sizes in (4, 6]
    assert last == -2.0  # of those in (0, 2]


def test_contexts_show_signed_activations(signed):
    found = contexts(signed, MaxActs(n=1).peaks(signed), lambda ids: [str(i) for i in ids])
    assert found[0][0]["value"] == -6.0
    assert found[0][0]["acts"] == [0.0, -3.0, 0.0, -6.0]
    json.dumps(found)


def test_along_the_text(signed):
    places = active_places(signed, [0], 100)
    assert places.value.tolist() == pytest.approx([v for v in FIRST if v])
    assert len(active_places(signed, [0], 100, threshold=1.0).value) == 5
    peaks = DocumentPeaks(n=1).peaks(signed).of(torch.tensor([0]))
    assert traces(signed, peaks, 2)[0, :3].tolist() == [0.5, 0.0, 1.0]
    curves = Autocorrelation(lags=2).curves(signed)
    assert curves.counts.tolist() == [6, 5]
    f = torch.tensor(FIRST, dtype=torch.float64).view(3, 4)
    moved = f - f.mean()
    assert float(curves.acts[0, 1]) == pytest.approx(
        float((moved[:, 1:] * moved[:, :-1]).mean() / moved.square().mean())
    )


def test_events_are_ranked_by_size(signed):
    value = torch.tensor([0.1, -6.0, -5.0])
    events = from_store(signed, torch.zeros(3).long(), torch.tensor([11, 7, 0]), value, n_ctx=4)
    assert [e.value for e in events] == pytest.approx([-6.0, -5.0, 0.1])
    assert [e.rank for e in events] == [0, 1, 2]
