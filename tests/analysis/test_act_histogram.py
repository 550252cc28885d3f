"""Histograms of activations by size, counted by hand."""

import torch

from saekit.activations.latents import LatentStoreWriter
from saekit.analysis.act_histogram import ActHistogram
from saekit.core.codes import Codes
from saekit.data.tokenise import Rows


def test_sizes_are_counted_by_part_of_the_largest(tmp_path):
    acts = torch.zeros(12, 3)
    acts[:5, 0] = torch.tensor([1.0, 2.0, 4.0, 0.5, 4.0])  # parts of 4: 1, 2, 4, 1, 4
    acts[2:5, 1] = torch.tensor([-8.0, 2.0, 6.1])  # by size: 4, 1, 4
    tokens = torch.arange(12).view(3, 4)
    writer = LatentStoreWriter(tmp_path, n_ctx=4, d_sae=3, meta={})
    at = torch.arange(12)
    writer.add(Rows(tokens, torch.zeros_like(tokens), 0), at // 4, at % 4, Codes.from_dense(acts))
    store = writer.close()
    counts = ActHistogram(bins=4).counts(store)
    assert counts.tolist() == [[2, 1, 0, 2], [1, 0, 0, 2], [0, 0, 0, 0]]
    table = ActHistogram(bins=4).run(store)
    assert table.columns["bin_3"] == [2, 2, 0] and table.units["bin_0"] == "tokens"
