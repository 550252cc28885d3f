"""An index, a latent, a prompt and an SAE in a notebook, with text that looks like markup."""

import dataclasses

import pytest

import saekit
from saekit.core.errors import UnknownNameError
from saekit.data.corpora.files import Files
from saekit.models.tiny import tiny
from tests import world
from tests.core.test_notebook import parts

ATTACK = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    base = tmp_path_factory.mktemp("notebook")
    text = base / "nasty.txt"
    lines = [f"{i} {ATTACK} \u202e\u200b日本 &amp; '\"" for i in range(300)]
    text.write_text("\n".join(lines), encoding="utf-8")
    lm = tiny()
    run = world.run(base, model=lm.name, tokens=2000, corpus=Files(paths=(str(text),)))
    sae = saekit.train(lm, run=run, out=base / "run", shown=False)
    return lm, sae, saekit.index(base / "run", lm, tokens=1500, shown=False)


def test_a_latent_has_its_record_its_text_and_its_html(made):
    _, _, index = made
    number = int(index.column("density").argmax())
    latent = index.latent(number)
    assert latent.record == index.record(number)
    assert repr(latent).startswith(f"latent {number}: ")
    assert "density" in repr(latent) and "promoted" in repr(latent)
    found = parts(latent._repr_html_())
    assert f"Latent {number}" in found.words and "Strongest texts" in found.words
    tinted = [a for tag, a in found.elements if tag == "span" and "rgba" in a.get("style", "")]
    assert tinted and any(tag == "svg" for tag, _ in found.elements)


def test_every_latent_can_be_shown_the_dead_too(made):
    _, _, index = made
    for number in range(index.d_sae):
        parts(index.latent(number)._repr_html_())
        assert repr(index.latent(number))
    with pytest.raises(UnknownNameError, match=r"latents 0\.\.63"):
        index.latent(64)


def test_an_index_lists_its_columns(made):
    found = parts(made[2]._repr_html_())
    assert "Index of 64 latents" in found.words
    assert all(name in found.words for name in made[2].columns)


def test_an_sae_shows_its_settings_and_notes(made):
    _, sae, _ = made
    found = parts(sae._repr_html_())
    assert "SAE of 64 latents" in found.words and "topk" in found.words
    card = dataclasses.replace(sae.card, provenance={"notes": [ATTACK]})
    noted = parts(dataclasses.replace(sae, card=card)._repr_html_())
    assert ATTACK in noted.words


def test_a_prompt_shows_each_token_with_its_latents(made):
    lm, sae, _ = made
    found = saekit.prompt(lm, sae, f"a {ATTACK} b")
    shown = parts(found._repr_html_())
    n = len(found.pieces)
    assert f"{n} tokens" in shown.words
    assert sum(tag == "tr" for tag, _ in shown.elements) == n + 1
    latent, act = found.top(1)[-1][0]
    assert f"{latent} ({act:.4g})" in shown.words


def test_a_long_prompt_says_how_much_is_left_out(made):
    lm, sae, _ = made
    found = saekit.prompt(lm, sae, "a" * 240)
    shown = parts(found._repr_html_())
    assert f"and {len(found.pieces) - 200} more tokens" in shown.words
