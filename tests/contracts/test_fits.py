"""Every fit: a dictionary of a tiny model is saved, loaded, measured, and comes out the same."""

import inspect
import json

import numpy as np
import pytest
import torch

from saekit.core.errors import ConfigError, SaekitError
from saekit.core.seeds import generator
from saekit.evals.core import Core
from saekit.evals.evaluate import evaluate
from saekit.hub.model_card import model_card
from saekit.hub.native import load
from saekit.models.tiny import tiny
from saekit.training.dictionary import fit_dictionary
from saekit.training.fitted.base import Acts, Method, registry
from tests.world import text_file

SITE, TOKENS = "L1.resid_post", 3000


@pytest.fixture(params=registry.names())
def method(request, tmp_path, monkeypatch) -> Method:
    monkeypatch.chdir(tmp_path)
    rows = torch.randn(20, 32, generator=generator(0, "directions"))
    np.save(tmp_path / "directions.npy", rows.numpy())
    return registry.get(request.param).example()


def fitted(method, folder=None, **more):
    here = {"corpus": str(text_file(folder)), "n_ctx": 32} if folder else {}
    tokens = {"tokens": TOKENS} if method.reads else {}
    return fit_dictionary(tiny(), method, site=SITE, shown=False, **here, **tokens, **more)


def test_config_round_trips_and_documents_itself(method):
    assert Method.from_dict(json.loads(json.dumps(method.to_dict()))) == method
    assert "Source:" in (inspect.getdoc(type(method)) or "")


def test_it_is_saved_loaded_and_measured(method, tmp_path):
    made = fitted(method, tmp_path, out=tmp_path / "sae")
    again = load(tmp_path / "sae")
    assert again.cfg == made.cfg and again.card == made.card
    assert all(torch.equal(v, again.sae.state_dict()[k]) for k, v in made.sae.state_dict().items())
    result = evaluate(again, tiny(), Core(n_tokens=512, ce_tokens=256), shown=False)
    fvu, l0 = result.scores["fvu"].value, result.scores["l0"].value
    assert (
        fvu is not None
        and fvu >= 0
        and l0 is not None
        and 0 < l0 <= (made.cfg.latents_per_token or 0)
    )
    assert f"fitted by `{method.name}`, not trained" in result.provenance["notes"]


def test_its_card_says_how_it_was_fitted(method, tmp_path):
    card = fitted(method, tmp_path, seed=3).card
    assert card.provenance["fitted"] == method.to_dict()
    assert card.tokens == (TOKENS if method.reads else 0)
    assert card.model == tiny().provenance() and card.run["seed"] == 3
    assert card.corpus["corpus"] == card.run["corpus"] and card.run["fit"] == method.to_dict()


def test_its_page_on_a_hub_does_not_say_that_it_was_trained(method, tmp_path):
    if method.reads:
        page = model_card(fitted(method, tmp_path))
        assert f"Fitted by `{method.name}` on 3,000 tokens" in page and "Trained on" not in page


def test_the_same_seed_gives_the_same_dictionary(method, tmp_path):
    one, other = (fitted(method, tmp_path).sae.state_dict() for _ in range(2))
    assert all(torch.equal(v, other[k]) for k, v in one.items())


def test_it_refuses_sizes_that_it_cannot_have(method):
    for sizes in ({"k": 10**6}, {"d_sae": 0}, {"k": 0}):
        with pytest.raises(ConfigError):
            fitted(method, **sizes)
    with pytest.raises(ConfigError, match="n_ctx, bos"):
        fit_dictionary(tiny(), method.name, site=SITE, shown=False, lr=1.0)


def test_too_few_activations_are_an_error_or_enough(method):
    """No method returns something from nothing that it needs."""
    acts = Acts(lambda: iter([torch.zeros(0, 4)]), 4, 0)
    cfg = method.sae(32, None, None) if method.name == "directions" else method.sae(4, None, None)
    if method.reads:
        with pytest.raises(SaekitError):
            method.fit(cfg, acts, 0)
    else:
        assert method.fit(cfg, acts, 0).sae.cfg == cfg
