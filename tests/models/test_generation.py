"""Generation with a cache equals running the whole sequence anew at every step."""

import pytest
import torch

from saekit.core.errors import ConfigError, DataError, ShapeError
from saekit.models.generation import Sampling
from saekit.models.sites import Site
from saekit.models.tiny import tiny

FAMILIES = ["gpt2", "gpt_neox", "llama", "gemma2", "qwen2"]
PROMPTS = [[1, 5, 9], [2, 7, 3], [4], [8, 8, 2, 6], [3, 1, 4]]


def steered(x):
    return x + torch.linspace(-1, 1, x.shape[-1])


def assert_anew(lm, prompt, found, sampling, i, replace, stop, n):
    """The tokens are those that all before them give without a cache, from the same draws.

    Models are causal, which is proved when they are loaded: one pass gives every step.
    """
    from saekit.core.seeds import generator

    stream = generator(sampling.seed, "generate", i)
    logits = lm.logits(torch.tensor([[*prompt, *found[:-1]]]), replace)[:, len(prompt) - 1 :]
    right = [
        int(sampling.pick(logits[:, t], torch.rand(1, generator=stream))[0])
        for t in range(logits.shape[1])
    ]
    assert found == right
    assert not stop & set(found[:-1]) and (len(found) == n or found[-1] in stop)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("change", [None, "L0.resid_post", "L1.mlp_out", "L1.attn_out"])
def test_the_cache_changes_nothing_and_edits_hold_at_every_token(family, change):
    from saekit.models.sites import parse_site

    lm = tiny(family)
    replace = None if change is None else {parse_site(change): steered}
    for sampling in (Sampling(temperature=0.0), Sampling(temperature=0.8, top_p=0.9, seed=3)):
        how = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        found = lm.generate(PROMPTS, 8, replace=replace, stop=[11, 12], **how)
        for i, (prompt, tokens) in enumerate(zip(PROMPTS, found, strict=True)):
            assert_anew(lm, prompt, tokens, sampling, i, replace, {11, 12}, 8)


def test_an_edit_sees_every_position_once():
    lm, seen = tiny("llama"), []

    def look(x):
        seen.append(x.shape[:2])
        return x

    lm.generate([[1, 2, 3], [4, 5, 6]], 4, replace={Site(1, "resid_post"): look}, stop=[])
    assert seen == [(2, 3), (2, 1), (2, 1), (2, 1)]


def test_a_sequence_is_the_same_whatever_the_batch():
    lm = tiny("llama")
    whole = lm.generate(PROMPTS, 12, seed=5, stop=[])
    assert lm.generate(PROMPTS, 12, seed=5, stop=[], batch_rows=1) == whole
    assert lm.generate(PROMPTS[:2], 12, seed=5, stop=[]) == whole[:2]
    assert lm.generate(PROMPTS, 12, seed=6, stop=[]) != whole


def test_sequences_end_at_a_stop_and_keep_it():
    lm = tiny("llama")
    whole = lm.generate(PROMPTS, 12, seed=5, stop=[])
    stop = whole[0][4]
    for short, full in zip(lm.generate(PROMPTS, 12, seed=5, stop=[stop]), whole, strict=True):
        end = full.index(stop) + 1 if stop in full else len(full)
        assert short == full[:end]


def test_draws_have_the_shares_that_the_logits_say():
    logits = torch.tensor([[2.0, 1.0, 0.0, -30.0]])
    n = 40_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    drawn = Sampling(temperature=2.0).pick(logits.expand(n, -1), uniform)
    shares = torch.bincount(drawn, minlength=4) / n
    assert torch.allclose(shares, (logits[0] / 2).softmax(-1), atol=0.01)
    nucleus = Sampling(top_p=0.7).pick(logits.expand(n, -1), uniform)
    expected = logits[0, :2].softmax(-1)  # .665 alone is below .7: two tokens are kept
    assert torch.allclose(torch.bincount(nucleus, minlength=2) / n, expected, atol=0.01)
    assert Sampling(top_p=0.6).pick(logits.expand(n, -1), uniform).eq(0).all()
    edge = torch.nextafter(torch.tensor([1.0]), torch.tensor([0.0]))
    assert int(Sampling().pick(torch.tensor([[0.0, 0.0, -torch.inf]]), edge)[0]) == 1


@pytest.mark.parametrize(
    ("prompts", "n", "how", "error"),
    [
        ([], 3, {}, DataError),
        ([[]], 3, {}, DataError),
        ([[10**6]], 3, {}, DataError),
        ([[-1]], 3, {}, DataError),
        ([[1]], 0, {}, ConfigError),
        ([[1]], 10**6, {}, ShapeError),
        ([[1]], 3, {"temperature": -1.0}, ConfigError),
        ([[1]], 3, {"top_p": 0.0}, ConfigError),
        ([[1]], 3, {"top_p": float("nan")}, ConfigError),
        ([[1]], 3, {"batch_rows": 0}, ConfigError),
    ],
)
def test_what_cannot_be_continued_is_refused(prompts, n, how, error):
    with pytest.raises(error):
        tiny("llama").generate(prompts, n, **how)


def test_the_likeliest_are_those_of_a_full_sort_with_equals_by_their_id():
    from saekit.models.generation import _likeliest

    draw = torch.Generator().manual_seed(0)
    flat = torch.rand(3, 900, generator=draw).double().softmax(-1)  # more than are sorted first
    equal = torch.tensor([[0.1, 0.2, 0.2, 0.2, 0.3]]).double()
    for shares, top_p in ((flat, 0.95), (flat, 0.1), (equal, 0.6), (equal, 1e-9), (equal, 0.999)):
        ordered, order = shares.sort(dim=-1, descending=True, stable=True)
        kept = torch.zeros_like(shares)
        for row, (values, ids) in enumerate(zip(ordered, order, strict=True)):
            before = values.cumsum(0) - values
            for value, token, sum_before in zip(values, ids, before, strict=True):
                if sum_before < top_p:
                    kept[row, token] = value
        assert _likeliest(shares, top_p).equal(kept)


def test_prompts_that_are_the_same_are_read_once(monkeypatch):
    lm = tiny("llama")
    alone = [lm.continue_tokens([p], 6, seed=[s]) for p, s in (([5, 6, 7], 1), ([9, 8, 7], 2))]
    read = []
    forward = lm.module.forward
    monkeypatch.setattr(
        lm.module, "forward", lambda **k: read.append(len(k["input_ids"])) or forward(**k)
    )
    prompts = [[5, 6, 7], [9, 8, 7], [5, 6, 7], [5, 6, 7]]
    found = lm.continue_tokens(prompts, 6, seed=[1, 2, 1, 3], stop=[])
    assert read[0] == 2 and read[1:] == [4] * 5
    assert found[:3] == [alone[0][0], alone[1][0], alone[0][0]] and found[3] != found[0]
