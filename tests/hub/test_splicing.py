"""SAEs inside a model: nothing changes unasked, edits act at every token, the block restores."""

import dataclasses

import pytest
import torch

import saekit
from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule, TokenRule
from saekit.core.errors import ConfigError, SaekitError, ShapeError, UnknownNameError
from saekit.hub.trained import TrainedSAE
from saekit.models.tiny import model_types, tiny
from saekit.saes.crosscoder import Crosscoder
from saekit.saes.temporal import Temporal
from saekit.saes.topk import TopK
from tests.hub.test_native import card as a_card

TOKENS = torch.randint(1, 250, (2, 9), generator=torch.Generator().manual_seed(0))


def an_sae(lm, read="L0.resid_post", write="", seed=0):
    width = lm.d_model
    sae = TopK(d_in=width, d_out=width, d_sae=48, k=6).build(torch.Generator().manual_seed(seed))
    pair = Pair(read=(read,), write=(write,) if write else ())
    rules = {str(s): FittedRule(TokenRule(), (), float("inf")) for s in pair.sites}
    return TrainedSAE(sae.eval(), dataclasses.replace(a_card(), pair=pair, rules=rules))


def a_crosscoder(lm, seed=0):
    """An SAE that codes the ends of both blocks jointly."""
    cfg = Crosscoder(d_in=lm.d_model, d_out=lm.d_model, d_sae=48, k=6, n_sites=2)
    pair = Pair(read=("L0.resid_post", "L1.resid_post"))
    rules = {str(s): FittedRule(TokenRule(), (), float("inf")) for s in pair.sites}
    sae = cfg.build(torch.Generator().manual_seed(seed)).eval()
    return TrainedSAE(sae, dataclasses.replace(a_card(), pair=pair, rules=rules))


@pytest.fixture(scope="module")
def lm():
    return tiny("llama")


def test_without_edits_nothing_changes_to_the_bit(lm):
    plain, sae = lm.logits(TOKENS), an_sae(lm)
    with saekit.splice(lm, sae) as spliced:
        assert torch.equal(lm.logits(TOKENS), plain)
        acts = lm.read(TOKENS, sae.site)
        assert torch.equal(spliced.codes.dense(), sae.encode(acts).dense())
    assert torch.equal(lm.logits(TOKENS), plain)
    assert lm.edits == ()


def test_an_edit_adds_its_direction_and_keeps_the_error(lm):
    sae = an_sae(lm)
    before = lm.read(TOKENS, sae.site)
    with saekit.splice(lm, sae).edit(7, add=2.5):
        after = lm.read(TOKENS, sae.site)
    expected = before + 2.5 * sae.directions[7]
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"set": 3.0}, lambda a: torch.full_like(a, 3.0)),
        ({"scale": -2.0}, lambda a: -2 * a),
        ({"ablate": True}, torch.zeros_like),
        ({"at_least": 0.7}, lambda a: a.clamp(min=0.7)),
        ({"at_most": 0.1}, lambda a: a.clamp(max=0.1)),
    ],
)
def test_every_kind_of_edit_moves_the_latent_to_where_it_says(lm, change, wanted):
    sae = an_sae(lm)
    before = lm.read(TOKENS, sae.site)
    dense = sae.encode(before).dense()
    latent = int(dense.abs().sum((0, 1)).argmax())
    acts = dense[..., latent]
    with saekit.splice(lm, sae).edit(latent, **change):
        after = lm.read(TOKENS, sae.site)
    moved = (wanted(acts) - acts)[..., None] * sae.directions[latent]
    torch.testing.assert_close(after, before + moved, atol=1e-5, rtol=1e-5)


def test_where_names_positions_a_mask_or_a_function(lm):
    sae = an_sae(lm)
    before = lm.read(TOKENS, sae.site)
    mask = torch.zeros(9, dtype=torch.bool)
    mask[[2, 5]] = True

    def chosen(tokens, places):
        return (places == 2).logical_or(places == 5).expand(tokens.shape)

    for where in ([2, 5], mask, chosen):
        with saekit.splice(lm, sae).edit(3, add=4.0, where=where):
            moved = (lm.read(TOKENS, sae.site) - before).abs().sum(-1) > 1e-4
        assert torch.equal(moved, mask.expand(moved.shape))
    odd = saekit.splice(lm, sae).edit(3, add=1.0, where=lambda t, p: t[0] > 0)
    with odd, pytest.raises(ShapeError, match="shape"):
        lm.read(TOKENS, sae.site)
    assert lm.edits == ()


def test_without_the_error_term_activations_are_reconstructions(lm):
    sae = an_sae(lm)
    before = lm.read(TOKENS, sae.site)
    with saekit.splice(lm, sae, error=False):
        after = lm.read(TOKENS, sae.site)
    torch.testing.assert_close(after, sae(before))


def test_tokens_that_the_rules_leave_out_are_left_alone(lm):
    sae = an_sae(lm)
    special = int(TOKENS[0, 4])
    rules = {k: r._replace(special_ids=(special,)) for k, r in sae.card.rules.items()}
    sae = dataclasses.replace(sae, card=dataclasses.replace(sae.card, rules=rules))
    before = lm.read(TOKENS, sae.site)
    with saekit.splice(lm, sae, error=False).edit(1, add=5.0):
        after = lm.read(TOKENS, sae.site)
    same = (after == before).all(-1)
    assert torch.equal(same, special == TOKENS)


def test_a_transcoder_moves_what_it_predicts(lm):
    sae = an_sae(lm, "L0.mlp_in", "L0.mlp_out")
    before = lm.read(TOKENS, ["L0.mlp_in", "L0.mlp_out"])
    with saekit.splice(lm, sae).edit(2, add=3.0):
        after = lm.read(TOKENS, ["L0.mlp_in", "L0.mlp_out"])
    assert torch.equal(after["L0.mlp_in"], before["L0.mlp_in"])
    torch.testing.assert_close(after["L0.mlp_out"], before["L0.mlp_out"] + 3 * sae.directions[2])


def test_several_saes_in_any_order_of_layers(lm):
    first, second = an_sae(lm, "L1.resid_post", seed=1), an_sae(lm, "L0.resid_post", seed=2)
    with saekit.splice(lm, first, second) as spliced:
        spliced.edit(5, add=2.0, sae=0).edit(9, add=-1.0, sae=1)
        both = lm.logits(TOKENS)
        assert spliced.codes_of(1).d_sae == 48
    with saekit.splice(lm, second).edit(9, add=-1.0), saekit.splice(lm, first).edit(5, add=2.0):
        assert torch.equal(lm.logits(TOKENS), both)


@pytest.mark.parametrize("family", model_types())
def test_edits_act_at_every_token_that_is_generated(family):
    """Under the cache of keys and values as in a full pass over all tokens at each step."""
    lm = tiny(family)
    sae = an_sae(lm, "L0.resid_post")
    prompts, n = [[5, 6, 7], [8, 9, 10, 11]], 6
    with saekit.splice(lm, sae).edit(4, add=3.0, where=[1, 4, 5, 6]).edit(11, scale=0.5):
        made = lm.generate(prompts, n, temperature=0, stop=[])
        for prompt, new in zip(prompts, made, strict=True):
            row = list(prompt)
            for token in new:
                assert int(lm.logits([row])[0, -1].argmax()) == token
                row.append(token)


def test_gradients_flow_through_an_edit(lm):
    sae = an_sae(lm)
    with saekit.splice(lm, sae).edit(4, add=1.0):
        acts = lm.read(TOKENS, ["embed", "L1.resid_post"], grad=True)
        (grad,) = torch.autograd.grad(acts["L1.resid_post"].square().sum(), acts["embed"])
    assert grad.abs().sum() > 0


def test_what_cannot_be_spliced_or_edited_is_refused(lm):
    sae = an_sae(lm)
    with pytest.raises(ConfigError, match="at least one SAE"):
        saekit.splice(lm)
    with pytest.raises(ShapeError, match="width"):
        saekit.splice(tiny("llama", d_model=16), sae)
    windows = Temporal.example().build(torch.Generator())
    with pytest.raises(ConfigError, match="jointly"):
        saekit.splice(lm, TrainedSAE(windows, sae.card))
    with pytest.raises(ConfigError, match="no gradient"):
        saekit.splice(lm, a_crosscoder(lm), grad=True)
    spliced = saekit.splice(lm, sae)
    for wrong, match in (
        ({}, "Name one change"),
        ({"add": 1.0, "set": 2.0}, "Name one change"),
        ({"add": float("nan")}, "finite"),
    ):
        with pytest.raises(ConfigError, match=match):
            spliced.edit(3, **wrong)
    with pytest.raises(UnknownNameError, match=r"0\.\.47"):
        spliced.edit(48, add=1.0)
    with pytest.raises(UnknownNameError, match="SAE 1"):
        spliced.edit(3, add=1.0, sae=1)
    with pytest.raises(ConfigError, match="no pass yet"):
        _ = spliced.codes
    with spliced, pytest.raises(ConfigError, match="in use already"), spliced:
        pass


def test_the_block_restores_after_an_exception(lm):
    with pytest.raises(ZeroDivisionError), saekit.splice(lm, an_sae(lm)).edit(1, add=1.0):
        raise ZeroDivisionError
    assert lm.edits == ()


def test_steering_needs_to_know_how_far(lm):
    sae = an_sae(lm)
    with pytest.raises(ConfigError, match="how far"):
        saekit.steer(lm, sae, 3, prompt="a")
    with pytest.raises(ConfigError, match="index"):
        saekit.steer(lm, sae, 3, prompt="a", scale=2.0)
    told = saekit.steer(lm, sae, 3, prompt="abc", add=30.0, n=5)
    assert told.alone.texts != told.doses[0].texts
    assert "abc" in str(told) and told.alone.kl == 0 < told.doses[0].kl
    again = saekit.steer(lm, sae, 3, prompt="abc", add=30.0, n=5)
    assert again == told


def test_a_dose_response_has_a_row_a_strength_and_a_text_a_seed(lm):
    sae = an_sae(lm)
    how = {"prompt": "abc", "n": 6, "temperature": 1.0, "seeds": 2, "seed": 5}
    told = saekit.steer(lm, sae, 3, add=[-20.0, 0.0, 40.0], **how)
    assert [dose.add for dose in told.doses] == [-20.0, 0.0, 40.0]
    assert told.doses[1].texts == told.alone.texts and len(told.alone.texts) == 2
    assert told.doses[2].kl > 0 and told.doses[2].texts != told.alone.texts
    again = saekit.steer(lm, sae, 3, add=40.0, **{**how, "seeds": 1, "seed": 6})
    assert again.doses[0].texts[0] == told.doses[2].texts[1]  # a seed draws the same in any order
    row = torch.tensor([[*lm.tokens("abc")[0].tolist(), *lm.tokenizer.encode("xyz")[0]]])
    assert lm.logits(row).isfinite().all() and lm.edits == ()
    with pytest.raises(ConfigError, match="temperature 0"):
        saekit.steer(lm, sae, 3, prompt="a", add=1.0, seeds=3)
    with pytest.raises(ConfigError, match="No strength"):
        saekit.steer(lm, sae, 3, prompt="a", add=[])


def test_gradients_of_latents_are_those_of_finite_differences():
    lm = tiny("llama", dtype=torch.float64)
    sae = an_sae(lm)
    wanted = torch.zeros(258, dtype=torch.float64)
    wanted[65] = 1.0
    plain = lm.logits(TOKENS)
    with saekit.splice(lm, sae, grad=True) as spliced:
        logits = lm.logits(TOKENS, grad=True)
        torch.testing.assert_close(logits, plain, atol=1e-5, rtol=1e-5)
        (logits[:, -1] @ wanted.to(logits)).sum().backward()
        codes = spliced.codes
    entry = int(codes.values.grad.abs().argmax())
    row, latent = int(codes.rows()[entry]), int(codes.latents[entry])
    step = 1e-2

    def at(add):
        def here(tokens, _):
            mask = torch.zeros(tokens.numel(), dtype=torch.bool)
            mask[row] = True
            return mask.view_as(tokens)

        with saekit.splice(lm, sae).edit(latent, add=add, where=here):
            return float(lm.logits(TOKENS)[:, -1, 65].sum())

    slope = (at(step) - at(-step)) / (2 * step)
    assert float(codes.values.grad[entry]) == pytest.approx(slope, rel=1e-2)


def test_a_later_sae_passes_gradients_to_an_earlier_one():
    lm = tiny("llama", dtype=torch.float64)
    first, second = an_sae(lm), an_sae(lm, "L1.resid_post", seed=1)
    with saekit.splice(lm, first, second, grad=True, error=False) as spliced:
        lm.logits(TOKENS, grad=True)[:, -1, 65].sum().backward()
        assert spliced.codes_of(0).values.grad.abs().sum() > 0
        assert spliced.codes_of(1).values.grad.abs().sum() > 0
    assert lm.edits == ()


def test_passes_of_transformers_itself_go_through_the_splice(lm):
    sae = an_sae(lm)
    ids = TOKENS[:1]
    plain = lm.hf(ids).logits
    free = lm.hf.generate(ids, max_new_tokens=6, do_sample=False)
    with saekit.splice(lm, sae).edit(7, add=25.0):
        assert torch.equal(lm.hf(input_ids=ids).logits, lm.logits(ids))
        assert not torch.equal(lm.hf(ids).logits, plain)
        steered = lm.hf.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None)
        ours = lm.generate(ids.tolist(), 6, temperature=0, stop=[])
        assert steered[0, ids.shape[1] :].tolist() == ours[0]
        with pytest.raises(ConfigError, match="inputs_embeds"):
            lm.hf(inputs_embeds=torch.zeros(1, 2, lm.d_model))
    assert torch.equal(lm.hf(ids).logits, plain)
    assert torch.equal(lm.hf.generate(ids, max_new_tokens=6, do_sample=False), free)


def test_a_crosscoder_is_spliced_in_at_all_its_sites(lm):
    joint = a_crosscoder(lm)
    sites = ["L0.resid_post", "L1.resid_post"]
    plain, acts = lm.logits(TOKENS), lm.read(TOKENS, sites)
    with saekit.splice(lm, joint) as spliced:
        assert torch.equal(lm.logits(TOKENS), plain)
        assert torch.equal(spliced.codes.dense(), joint.encode(acts).dense())
        spliced.edit(5, add=3.0)
        moved = lm.read(TOKENS, sites)
        # The later site's own change comes on top of what the earlier one's did to it.
        first, second = map(lm.site, sites)
        moving = {first: lambda x: x + 3 * joint.directions[0, 5]}
        only_first = lm.look_ahead(TOKENS, [second], lambda _: moving)[second]
    torch.testing.assert_close(moved[sites[0]], acts[sites[0]] + 3 * joint.directions[0, 5])
    torch.testing.assert_close(moved[sites[1]], only_first + 3 * joint.directions[1, 5])
    with saekit.splice(lm, joint, error=False):
        last = lm.read(TOKENS, sites[1])
    torch.testing.assert_close(last, joint(torch.stack(list(acts.values()), -2))[..., 1, :])
    assert torch.equal(lm.logits(TOKENS), plain)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
@pytest.mark.parametrize("error", [True, False])
def test_a_crosscoder_under_the_cache_is_as_in_whole_passes(family, error):
    lm = tiny(family)
    joint, one = a_crosscoder(lm), an_sae(lm, seed=4)
    prompts = [TOKENS[0].tolist(), TOKENS[1, :5].tolist()]
    with saekit.splice(lm, one, joint, error=error) as spliced:
        spliced.edit(2, scale=3.0, sae=0).edit(3, scale=4.0, sae=1).edit(5, at_least=2.0, sae=1)
        cached = lm.continue_tokens(prompts, 6, temperature=0, stop=[])
        whole = []
        for prompt in prompts:
            row = prompt[:]
            for _ in range(6):
                row.append(int(lm.logits(torch.tensor([row]))[0, -1].argmax()))
            whole.append(row[len(prompt) :])
        ids = TOKENS[:1]
        how = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
        theirs = lm.hf.generate(ids, use_cache=False, **how)[0, ids.shape[1] :].tolist()
        with pytest.raises(ConfigError, match="use_cache=False"):
            lm.hf.generate(ids, **how)
        mask = torch.tensor([[0] * 4 + [1] * 5])
        with pytest.raises(ConfigError, match="without padding"):
            lm.hf(input_ids=ids, attention_mask=mask)
    assert cached == whole and theirs == whole[0]


def test_codes_under_the_cache_are_those_of_whole_passes(lm):
    joint = a_crosscoder(lm)
    seen = []
    with saekit.splice(lm, joint).edit(3, scale=4.0) as spliced:
        look = spliced.parts[0].changes

        def kept(*args):
            found = look(*args)
            seen.append(spliced.codes.dense()[0])
            return found

        spliced.parts[0].changes = kept
        new = lm.continue_tokens(TOKENS[:1].tolist(), 4, temperature=0, stop=[])[0]
        by_step = torch.cat(seen)
        seen.clear()
        lm.logits(torch.tensor([[*TOKENS[0].tolist(), *new[:-1]]]))
    torch.testing.assert_close(by_step, seen[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cache", [None, "static"])
def test_positions_count_behind_what_transformers_keeps(lm, cache):
    sae = an_sae(lm)
    places = []

    def here(tokens, positions):
        places.append(positions.tolist())
        return torch.zeros_like(tokens, dtype=torch.bool)

    with saekit.splice(lm, sae).edit(3, add=1.0, where=here):
        lm.hf.generate(
            TOKENS[:1],
            max_new_tokens=3,
            do_sample=False,
            eos_token_id=None,
            cache_implementation=cache,
        )
    assert places == [list(range(9)), [9], [10]]


def test_positions_of_recurrent_models_count_on(lm):
    lm = tiny("mamba")
    places = []

    def here(tokens, positions):
        places.append(positions.tolist())
        return torch.zeros_like(tokens, dtype=torch.bool)

    with saekit.splice(lm, an_sae(lm)).edit(3, add=1.0, where=here):
        lm.hf.generate(TOKENS[:1], max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert places == [list(range(9)), [9], [10]]


def test_a_crosscoder_codes_what_saes_before_it_wrote(lm):
    joint, one = a_crosscoder(lm), an_sae(lm, seed=2)
    with saekit.splice(lm, one, joint) as spliced:
        spliced.edit(2, add=9.0, sae=0)
        acts = lm.read(TOKENS, ["L0.resid_post", "L1.resid_post"])
        torch.testing.assert_close(spliced.codes_of(1).dense(), joint.encode(acts).dense())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda lm, sae: saekit.splice(lm, "runs/a"), "saekit.load gives it"),
        (lambda lm, sae: saekit.splice(sae, lm), "language model comes first"),
        (lambda lm, sae: saekit.steer(sae, lm, 3, prompt="a", add=1.0), "comes first"),
        (lambda lm, sae: saekit.prompt(sae, lm, "a"), "comes first"),
        (lambda lm, sae: saekit.splice(lm, sae, an_sae(lm)).edit(3, add=1.0), "which with sae="),
        (lambda lm, sae: saekit.splice(lm, sae, an_sae(lm)).codes, "which with sae="),
        (lambda lm, sae: saekit.splice(lm, sae).codes_of(3), "SAEs are 0..0"),
        (lambda lm, sae: saekit.splice(lm, sae).edit("3", add=1.0), "by its number"),
        (lambda lm, sae: saekit.splice(lm, sae).edit(3, add="4"), "finite number"),
        (lambda lm, sae: saekit.splice(lm, sae).edit(3, add=1.0, where=slice(1)), "slice"),
        (lambda lm, sae: saekit.splice(lm, sae).edit(3, add=1.0, where=1.5), "got a float"),
        (lambda lm, sae: saekit.steer(lm, sae, 3, prompt="a", add="12"), "finite number"),
        (lambda lm, sae: saekit.steer(lm, sae, 3, prompt="a", add=1.0, scale=1.0), "got both"),
        (lambda lm, sae: sae.decode(torch.zeros(1, 48)), "as encode gives them"),
        (lambda lm, sae: lm.tokens(b"abc"), "bytes"),
        (lambda lm, sae: lm.tokens(5), "got 5"),
    ],
)
def test_arguments_of_another_kind_get_a_sentence(lm, call, says):
    import jaxtyping

    kinds = (SaekitError, jaxtyping.TypeCheckError)  # tests check types as well
    with pytest.raises(kinds) as caught:
        call(lm, an_sae(lm))
    assert says in str(caught.value) or isinstance(caught.value, jaxtyping.TypeCheckError)


def test_one_position_and_arrays_are_taken(lm):
    import numpy

    sae = an_sae(lm)
    with saekit.splice(lm, sae).edit(7, add=2.5, where=2):
        one = lm.logits(TOKENS)
    with saekit.splice(lm, sae).edit(7, add=2.5, where=[2]):
        assert torch.equal(lm.logits(TOKENS), one)
    assert torch.equal(lm.logits(TOKENS.numpy()), lm.logits(TOKENS))
    doses = saekit.steer(lm, sae, 3, prompt="a", add=numpy.linspace(0, 2, 3), n=2).doses
    assert [dose.add for dose in doses] == [0.0, 1.0, 2.0]
