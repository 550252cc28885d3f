"""The mean trace around peaks, where something is known."""

import math

import torch

from saekit.activations.latents import LatentStore
from saekit.analysis import traces
from saekit.analysis.document_peaks import DocPeaks


def test_the_mean_leaves_out_what_is_not_known(monkeypatch):
    each = torch.tensor([[0.0, 1.0, math.nan], [0.5, 1.0, 0.25]])
    monkeypatch.setattr(traces, "traces", lambda *_: each)
    store = LatentStore.__new__(LatentStore)  # it is not read here
    two = torch.zeros(2, dtype=torch.int64)
    peaks = DocPeaks(two, two, two, two, two, two, two.float())
    assert traces.mean_trace(store, peaks, 1) == [0.25, 1.0, 0.25]
    assert traces.mean_trace(store, peaks.only(two[:0]), 1) == []
