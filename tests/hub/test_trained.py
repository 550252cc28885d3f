"""What a user may do with an SAE in memory and cannot do wrong in silence."""

import dataclasses

import pytest
import torch

import saekit
from saekit.core.errors import ConfigError, DataError, ShapeError, UnknownNameError
from saekit.models.tiny import tiny
from saekit.saes.frozen import Frozen
from tests import world


@pytest.fixture(scope="module")
def lm():
    return world.model()


@pytest.fixture(scope="module")
def made(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    how = {"corpus": world.text_file(folder), "tokens": 4000, "n_ctx": 32, "shown": False}
    one = saekit.train(
        lm, site="L1.resid_post", sae=saekit.TopK(k=4, expansion=2), out=folder / "one", **how
    )
    both = saekit.train(
        lm,
        site=["L0.resid_post", "L1.resid_post"],
        fold=True,
        sae=saekit.TopK(k=4, expansion=2),
        out=folder / "both",
        **how,
    )
    return folder, one, both, how


def test_a_folded_sae_says_at_which_site_and_is_not_saved_scaled_twice(made, lm, tmp_path):
    folder, _, both, _ = made
    assert "at L0.resid_post" in repr(both)
    with pytest.raises(ConfigError, match="scaled twice"):
        both.save(tmp_path / "again")
    saekit.load(folder / "both", scaled=True).save(tmp_path / "again")
    for site in ("L0.resid_post", "L1.resid_post"):
        x = lm.read("the cat sat", site)
        places = (folder / "both", tmp_path / "again")
        one, two = (saekit.load(place, site=site).encode(x) for place in places)
        assert torch.equal(one.dense(), two.dense())


def test_a_run_is_not_written_over_and_training_returns_what_it_trained(made, lm):
    folder, one, _, how = made
    with pytest.raises(ConfigError, match="holds a run"):
        one.save(folder / "one")
    assert one.folder == folder / "one"


def test_an_index_of_another_sae_does_not_say_how_far_to_steer(made, lm, tmp_path):
    _, one, _, how = made
    with pytest.raises(ConfigError, match="index"):
        saekit.steer(lm, one, 3, prompt="the", scale=1.0, index=tmp_path / "none")
    saekit.index(one, lm, tokens=1000, out=tmp_path / "index", shown=False)
    other = saekit.train(
        lm,
        site="L1.resid_post",
        sae=saekit.TopK(k=4, expansion=2),
        seed=5,
        out=tmp_path / "o",
        **how,
    )
    with pytest.raises(ConfigError, match="another SAE"):
        saekit.steer(lm, other, 3, prompt="the", scale=1.0, index=tmp_path / "index")


def test_nothing_is_measured_inside_a_splice(made, lm, tmp_path):
    _, one, _, how = made
    with saekit.splice(lm, one).edit(3, add=3.0):
        for ask in (
            lambda: saekit.evaluate(one, lm, tokens=1000, shown=False),
            lambda: saekit.train(lm, out=tmp_path / "x", **how),
            lambda: saekit.index(one, lm, tokens=100, out=tmp_path / "i", shown=False),
        ):
            with pytest.raises(ConfigError, match="spliced into"):
                ask()


def test_another_model_is_said_where_numbers_are_printed(made):
    _, one, _, _ = made
    text = str(saekit.evaluate(one, tiny("llama", seed=1), tokens=2000, shown=False))
    assert "note" in text and "trained on" in text


def test_tokens_of_an_evaluation_are_given_as_elsewhere(made, lm):
    _, one, _, _ = made
    result = saekit.evaluate(one, lm, tokens=2000, shown=False)
    assert result.config["n_tokens"] == 2000 and result.config["ce_tokens"] == 500
    assert saekit.evaluate(one, lm, n_tokens=900, shown=False).config["ce_tokens"] == 900


def test_codes_and_activations_of_something_else_are_refused(made, lm):
    _, one, _, _ = made
    x = lm.read("the cat", "L1.resid_post")
    codes = one.encode(x)
    with pytest.raises(ShapeError, match="128"):
        one.decode(codes._replace(d_sae=128))
    for odd in ("text", [1.0, 2.0], x[..., :3]):
        with pytest.raises(ShapeError, match="tensor|shape"):
            one.encode(odd)
    with pytest.raises(ShapeError, match="without L1"):
        one.encode({"L0.resid_post": x})
    assert torch.equal(one.encode({"L1.resid_post": x}).dense(), codes.dense())
    joint = saekit.Crosscoder.example().build(torch.Generator())
    with pytest.raises(ShapeError, match=r"\[\.\.\., 3, 8\]"):
        dataclasses.replace(one, sae=joint).encode(torch.zeros(4, 8))
    with pytest.raises(ConfigError, match="at least 1"):
        codes.top(0)


def test_a_wrapper_takes_its_widths_from_the_site_too(made, lm, tmp_path):
    _, _, _, how = made
    sae = saekit.train(
        lm,
        site="L1.resid_post",
        out=tmp_path / "f",
        sae=Frozen(half="decoder", inner=saekit.TopK(k=4, expansion=2)),
        **how,
    )
    assert (sae.d_sae, sae.cfg.inner.k) == (64, 4)


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ([2], [2]),
        (torch.tensor([2, 4]), [2, 4]),
        ([False, False, True], [2]),
        ((i for i in [1, 3]), [1, 3]),
        (torch.tensor([False, True]), [1]),
        ([50], []),
    ],
)
def test_positions_and_masks_are_told_apart(made, lm, where, wanted):
    _, one, _, _ = made
    plain = lm.read("the cat", one.site)
    with saekit.splice(lm, one).edit(3, add=9.0, where=where):
        for _ in range(2):  # an iterator is not used up
            moved = (lm.read("the cat", one.site) - plain).abs().sum(-1)[0] > 1e-3
            assert moved.nonzero()[:, 0].tolist() == wanted


@pytest.mark.parametrize("where", [[-1], [1.5], torch.zeros(2, 3, dtype=torch.bool), {1: 2}, "ab"])
def test_other_places_are_refused_at_once(made, lm, where):
    with pytest.raises(ConfigError, match="`where`"):
        saekit.splice(lm, made[1]).edit(3, add=1.0, where=where)


def test_numbers_of_latents(made, lm):
    spliced = saekit.splice(lm, made[1])
    spliced.edit(torch.tensor(3), add=1.0)
    assert spliced.parts[0].edits[0].latent == 3
    for wrong in (True, -1, 64):
        with pytest.raises(UnknownNameError, match="no latent"):
            spliced.edit(wrong, add=1.0)


def test_what_is_predicted_from_later_in_the_pass_cannot_be_spliced(made, lm, tmp_path):
    _, _, _, how = made
    sae = saekit.train(
        lm,
        site="L1.resid_post",
        target="L0.resid_post",
        sae=saekit.TopK(k=4, expansion=2),
        out=tmp_path / "t",
        **how,
    )
    with pytest.raises(ConfigError, match="later in a pass"):
        saekit.splice(lm, sae)


def test_no_token_is_drawn_from_logits_that_are_no_numbers(lm):
    with pytest.raises(DataError, match="NaN"):
        lm.generate("a", 2, replace={"L1.resid_post": lambda x: x * float("nan")})
    cold = lm.generate("a", 3, temperature=1e-300, stop=[])
    assert cold == lm.generate("a", 3, temperature=0, stop=[])


def test_fewer_latents_are_kept_in_use_and_the_original_keeps_its_own(made, lm):
    _, sae, both, _ = made
    x = lm.read("the cat sat on the mat and ran", "L1.resid_post")
    few = sae.with_k(2)
    # Those that are kept are the largest of the four, unchanged.
    all_on = sae.encode(x).dense()
    largest = all_on.where(all_on >= all_on.topk(2).values[..., -1:], torch.zeros(()))
    assert torch.equal(few.encode(x).dense(), largest)
    assert sae.cfg.k == 4 and few.cfg.k == 2 and few.folder is None
    assert "k=2" in few.card.provenance["notes"][-1] and sae.with_k(4) is sae
    assert both.with_k(1).encode(x).dense().ne(0).sum(-1).max() == 1
    with pytest.raises(ConfigError, match="`k` must"):
        sae.with_k(0)
    relu = saekit.ReLU(d_in=8, d_out=8, d_sae=16).build(torch.Generator())
    with pytest.raises(ConfigError, match="no fixed number"):
        dataclasses.replace(sae, sae=relu).with_k(2)
