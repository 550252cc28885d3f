import dataclasses

import pytest
import torch

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, DataError, ResourceError
from saekit.evals._plan import plan
from saekit.evals.core import Core
from saekit.models.sites import parse_site
from saekit.models.tiny import tiny
from tests.evals.world import N_CTX, SITE, mirror, random_topk, subject, text, tools

# Too few blocks for intervals, which would take most of the time.
SMALL = Core(n_tokens=16 * N_CTX, ce_tokens=10 * N_CTX, n_blocks=7, batch_rows=4)


def values(result):
    return {name: score.value for name, score in result.scores.items()}


def by_hand(subj, n_rows, n_ce_rows):
    """The definitions, written once more without streaming, blocks or pieces."""
    lm, tokens = subj.lm, text()[:n_rows]
    acts = lm.read(tokens, [subj.read, subj.write])
    kept = subj.rule.keep(tokens, acts[subj.read])
    y, y_hat = acts[subj.write], subj.sae(acts[subj.read])
    mean = y[kept].mean(0)
    rows, kept_ce = tokens[:n_ce_rows], kept[:n_ce_rows]
    scored = ~torch.isin(rows[:, 1:], torch.tensor([256, 257]))

    def logp(put):
        def replace(h):
            return torch.where(kept_ce[..., None], put, h)

        logits = lm.logits(rows, {subj.write: replace})[:, :-1]
        return logits.double().log_softmax(-1)[scored]

    at = {
        "clean": y[:n_ce_rows],
        "spliced": y_hat[:n_ce_rows],
        "zero": torch.zeros(32),
        "mean": mean,
    }
    found = {name: logp(put) for name, put in at.items()}
    ce = {k: -float(v.gather(1, rows[:, 1:][scored][:, None]).mean()) for k, v in found.items()}
    p, q = found["clean"], found["spliced"]
    ky, kh = y[kept].double(), y_hat[kept].double()
    return {
        "ce_clean": ce["clean"],
        "ce_spliced": ce["spliced"],
        "ce_rise": ce["spliced"] - ce["clean"],
        "ce_recovered_zero": (ce["zero"] - ce["spliced"]) / (ce["zero"] - ce["clean"]),
        "ce_recovered_mean": (ce["mean"] - ce["spliced"]) / (ce["mean"] - ce["clean"]),
        "kl": float((p.exp() * (p - q)).sum(-1).mean()),
        "fvu": float((ky - kh).square().sum() / (ky - ky.mean(0)).square().sum()),
    }


@pytest.mark.parametrize("max_norm", [4.0, 1.05, None])
@pytest.mark.parametrize("sites", [("L0.resid_post",) * 2, ("L1.mlp_in", "L1.mlp_out")])
@torch.no_grad()
def test_it_is_what_the_definitions_say(sites, max_norm):
    read, write = map(parse_site, sites)
    subj = subject(random_topk(), read=read, write=write, max_norm=max_norm)
    got = values(SMALL.run(subj, tools()))
    for name, wanted in by_hand(subj, 16, 10).items():
        assert got[name] == pytest.approx(wanted, rel=2e-5, abs=2e-5), name


@pytest.mark.parametrize("change", [{"batch_rows": 1}, {"batch_rows": 16}, {"n_blocks": 3}])
def test_how_it_is_cut_changes_no_value(change):
    subj = subject(random_topk())
    other = dataclasses.replace(SMALL, **change)
    one, two = values(SMALL.run(subj, tools())), values(other.run(subj, tools()))
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_counts_add_up_and_high_norms_are_told_apart():
    wide = SMALL.run(subject(random_topk(), max_norm=None), tools())
    narrow = SMALL.run(subject(random_topk(), max_norm=1.05), tools())
    seen = narrow.details["tokens"]
    assert seen["seen"] == 16 * N_CTX
    assert seen["seen"] == seen["special"] + seen["high_norm"] + seen["kept"]
    assert seen["special"] == int(torch.isin(text()[:16], torch.tensor([256, 257])).sum())
    assert seen["high_norm"] > 0
    assert wide.details["tokens"]["high_norm"] == 0
    apart, whole = narrow.details["fvu_with_high_norm"], wide.scores["fvu"].value
    assert apart["value"] == pytest.approx(whole)
    assert narrow.scores["fvu"].value != pytest.approx(whole)


def test_densities_and_the_dead_are_told_with_their_number_of_tokens():
    result = SMALL.run(subject(random_topk()), tools())
    histogram, dead = result.details["density_histogram"], result.details["dead"]
    assert sum(histogram["latents"]) + histogram["never_fired"] == 1024
    assert dead["latents"] == histogram["never_fired"] > 0
    assert dead["after_tokens"] == result.details["tokens"]["kept"]
    assert result.scores["dead"].value == dead["latents"] / dead["of"]
    assert len(histogram["log10_edges"]) == len(histogram["latents"]) + 1
    assert result.details["l0_percentiles"]["p50"] == 2


def test_predicting_the_mean_recovers_nothing():
    sae, tokens = random_topk(), text()[:16]
    subj = subject(sae)
    acts = tiny().read(tokens, [SITE])[SITE]
    with torch.no_grad():
        sae.W_dec.zero_()
        sae.b_dec.copy_(acts[subj.rule.keep(tokens, acts)].mean(0))
    got = values(SMALL.run(subj, tools()))
    assert got["fvu"] == pytest.approx(1, abs=1e-6)
    assert got["ce_recovered_mean"] == pytest.approx(0, abs=1e-5)


def test_without_forwards_losses_are_undefined_and_say_so():
    result = Core(n_tokens=8 * N_CTX, ce_tokens=0, n_blocks=7).run(subject(mirror()), tools())
    for name in ("ce_clean", "ce_recovered_mean", "kl"):
        assert result.scores[name].value is None
        assert result.scores[name].reason == "no token was measured"
    assert result.scores["fvu"].value == 0


def test_tokens_that_are_all_left_out_leave_nothing():
    subj = subject(random_topk())
    none = subj.rule._replace(median_norm=1e-9)
    result = SMALL.run(subj._replace(rule=none), tools())
    assert result.details["tokens"]["kept"] == 0
    for name in ("fvu", "l0", "dead", "density", "cosine"):
        assert result.scores[name].value is None, name
    assert result.scores["ce_rise"].value == 0


def test_a_short_text_is_measured_whole_and_said_to_be_short():
    result = SMALL.run(subject(random_topk()), tools(text()[:5]))
    assert result.details["rows"] == {"wanted": 16, "read": 5}
    assert result.scores["fvu"].low is None


def test_the_text_is_known_by_its_hash():
    subj = subject(random_topk())
    one, other = (SMALL.run(subj, tools(text(seed=s))).details["tokens_sha256"] for s in (0, 1))
    assert one != other
    assert SMALL.run(subj, tools()).details["tokens_sha256"] == one


def test_an_sae_that_diverged_is_an_error():
    sae = random_topk()
    with torch.no_grad():
        sae.b_dec[3] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        SMALL.run(subject(sae), tools())


def test_a_model_that_overflows_is_an_error():
    lm = tiny()
    subj = subject(random_topk(), lm)
    with torch.no_grad():
        lm.module.get_input_embeddings().weight[100] = float("inf")
    with pytest.raises(DataError, match="overflows"):
        SMALL.run(subj, tools())


def test_an_error_of_the_sae_is_not_swallowed(monkeypatch):
    sae = mirror()
    monkeypatch.setattr(sae, "decode", lambda acts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        SMALL.run(subject(sae), tools())


def test_codes_with_a_kept_zero_count_as_off():
    sae = mirror()
    fixed = sae.encode
    sae.encode = lambda x: Codes.fixed(fixed(x).dense(), torch.arange(64).expand(len(x), 64), 64)
    assert values(SMALL.run(subject(sae), tools())) == values(SMALL.run(subject(mirror()), tools()))


@pytest.mark.parametrize(
    "wrong",
    [{"n_tokens": 0}, {"ce_tokens": -1}, {"ce_tokens": 2**20}, {"n_blocks": 0}, {"batch_rows": 0}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Core(**wrong)


def test_memory_follows_neither_context_nor_vocabulary(monkeypatch):
    """No pass makes more logits than fit the budget, and the scores stay."""
    subj = subject(random_topk())
    whole = SMALL.run(subj, tools())
    asked = []
    unembed = type(subj.lm).unembed
    monkeypatch.setattr(
        type(subj.lm), "unembed", lambda self, x: asked.append(len(x)) or unembed(self, x)
    )
    monkeypatch.setattr("saekit.evals._replacing.LOGIT_BYTES", 4 * 258 * 5)
    monkeypatch.setattr("saekit.evals._plan.PASS_BYTES", 1)  # one row at a time
    parts = SMALL.run(subj, tools())
    assert max(asked) == 5
    for name, value in values(whole).items():
        assert values(parts)[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_a_long_context_and_a_large_vocabulary_are_planned_below_2_gb():
    lm = tiny()
    lm.vocab_size, lm.d_model = 262_144, 2304
    planned = plan([subject(random_topk(), tiny())._replace(lm=lm)], 2048, 32, Core())
    assert 1 <= planned.rows < 8 and planned.memory.total < 2e9
    lm.vocab_size, lm.d_model = 258, 32


def test_the_plan_is_said_before_it_starts(capsys):
    SMALL.run(subject(random_topk()), tools()._replace(shown=True))
    said = capsys.readouterr().err
    assert said.startswith("memory ") and "rows a pass" in said.splitlines()[0]


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr("saekit.core.machine.free_memory", lambda device: 1000)
    with pytest.raises(ResourceError, match="does not fit in memory"):
        SMALL.run(subject(random_topk()), tools())


def test_few_documents_have_scores_and_no_interval():
    result = Core(n_tokens=6 * N_CTX, ce_tokens=6 * N_CTX).run(subject(mirror()), tools())
    score = result.scores["ce_clean"]
    assert score.value is not None and score.low is None
    assert "6 documents" in score.reason and "tokens of this text" in score.reason
    assert result.details["documents"] == 6


def test_ablated_values_are_told_apart_in_every_dtype():
    from saekit.evals._replacing import _bytes

    for dtype in (torch.bfloat16, torch.float32, torch.int64, torch.bool):
        zero, one = torch.zeros((), dtype=dtype), torch.ones((2, 3), dtype=dtype).T
        assert _bytes(zero) == bytes(dtype.itemsize)
        assert _bytes(one) == 6 * _bytes(one[:1, :1]) != _bytes(torch.zeros_like(one))
