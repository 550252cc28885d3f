import math

import pytest
import torch

from saekit.analysis.autocorrelation import Autocorrelation
from saekit.core.errors import ConfigError
from tests.analysis.running_text import random_text, store


def by_fft(acts, docs, kept, lags):
    """The definition, another way: FFT of each padded document, for one latent."""
    mean = acts[kept].mean()
    spread = ((acts[kept] - mean) ** 2).mean()
    top, pairs = torch.zeros(lags + 1).double(), torch.zeros(lags + 1).double()
    for doc in docs.unique():
        here = docs == doc
        x = ((acts[here] - mean) * kept[here]).double()
        for out, series in ((top, x), (pairs, kept[here].double())):
            size = 2 * len(series) + lags
            full = torch.fft.irfft(torch.fft.rfft(series, size).abs() ** 2, size)
            out += full[: lags + 1]
    return top / pairs.round() / spread, pairs.round()


@pytest.mark.parametrize("shard_tokens", [16, 100, 10**6])
@pytest.mark.parametrize("bos", [True, False])
def test_equals_the_definition_by_fft(tmp_path, shard_tokens, bos):
    acts, docs, kept = random_text()
    n_ctx = 16 if bos else 15
    made = store(tmp_path, acts, docs, n_ctx=n_ctx, kept=kept, shard_tokens=shard_tokens, bos=bos)
    got = Autocorrelation(lags=20).curves(made)
    for latent in range(1, 5):
        wide = acts[:, latent].float().double()
        expected, pairs = by_fft(wide, docs, kept, 20)
        torch.testing.assert_close(got.acts[latent], expected, rtol=1e-9, atol=1e-9)
        assert got.n_pairs.tolist() == pairs.tolist()
        expected, _ = by_fft((wide > 0).double(), docs, kept, 20)
        torch.testing.assert_close(got.on[latent], expected, rtol=1e-9, atol=1e-9)
    assert got.acts[0].isnan().all()
    assert got.acts[1:, 0].sub(1).abs().max() < 1e-12


def test_a_known_process_has_its_closed_form(tmp_path):
    # On/off with stay probabilities p and q is 1[f > 0] with rho(l) = (p + q - 1)^l.
    stay_on, stay_off, n = 0.8, 0.9, 60_000
    g = torch.Generator().manual_seed(3)
    draws = torch.rand(n, 3, generator=g).tolist()
    state, chain = [0, 0, 0], []
    for row in draws:
        both = zip(state, row, strict=True)
        state = [int(u < stay_on) if s else int(u > stay_off) for s, u in both]
        chain.append(list(state))
    acts = torch.tensor(chain).float()
    acts[:, 1] = acts[torch.randperm(n, generator=g), 1]  # the same rate, no memory
    docs = torch.arange(n) // 500
    curves = Autocorrelation(lags=12).curves(store(tmp_path, acts, docs, n_ctx=60, bos=False))
    expected = torch.tensor([(stay_on + stay_off - 1) ** lag for lag in range(13)]).double()
    for latent in (0, 2):
        assert (curves.acts[latent] - expected).abs().max() < 0.03
    assert curves.acts[1, 1:].abs().max() < 0.02
    lengths = curves.lengths().columns
    assert lengths["tau_1e"][0] == pytest.approx(-1 / math.log(0.7), abs=0.25)
    assert lengths["mean_run_length"][0] == pytest.approx(1 / (1 - stay_on), rel=0.05)
    assert lengths["tau_1e"][1] == pytest.approx(1 - 1 / math.e, abs=0.05)


def test_pairs_never_cross_documents(tmp_path):
    # Each document is one token: no pair exists, so every lag but 0 is undefined.
    acts = torch.rand(30, 2)
    curves = Autocorrelation(lags=3).curves(
        store(tmp_path, acts, torch.arange(30), n_ctx=15, bos=False)
    )
    assert curves.n_pairs.tolist() == [30, 0, 0, 0]
    assert curves.acts[:, 1:].isnan().all()


def test_a_curve_that_stays_up_is_censored_and_a_constant_is_undefined(tmp_path):
    acts = torch.zeros(60, 2)
    acts[:30, 0] = 1.0
    acts[:, 1] = 0.1
    curves = Autocorrelation(lags=4).curves(
        store(tmp_path, acts, torch.zeros(60, dtype=torch.int64), n_ctx=15, bos=False)
    )
    table = curves.lengths().columns
    assert table["censored"] == [True, False]
    assert math.isnan(table["tau_1e"][0]) and table["corr_length"][0] > 3
    assert curves.acts[1].isnan().all()
    assert table["mean_run_length"] == [30.0, 60.0]


def test_refuses_what_it_cannot_do():
    with pytest.raises(ConfigError, match="lags"):
        Autocorrelation(lags=0)
