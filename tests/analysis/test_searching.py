"""Search in an index against a look at every record."""

import numpy as np
import pytest

import saekit
from saekit.analysis.searching import densities, search
from saekit.core.errors import ConfigError
from tests import world


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searching")
    lm = world.model()
    sae = saekit.train(lm, run=world.run(folder, model=lm.name), out=folder / "run", shown=False)
    return saekit.index(sae, lm, tokens=3000, shown=False)


def by_hand(index, text, scope):
    """Score every latent from its record, as the pages of a file do."""
    found = {}
    for latent in range(index.d_sae):
        record = index.record(latent)
        # A byte that is no text is shown as \\x9e, which is not to be found as text.
        strings = ["\0" if s.startswith("\\x") else s.lower() for s in record["strings"]]
        fires = near = count = 0.0
        for band, examples in record["examples"].items():
            for one in examples if band != "negative" else []:
                count += 1
                pieces = [strings[i] for i in one["tokens"]]
                ends = np.cumsum([len(p) for p in pieces])
                at = "".join(pieces).find(text)
                near += at >= 0
                while at >= 0:
                    token = int(np.searchsorted(ends, at, side="right"))
                    if token in one["at"]:
                        act = abs(one["acts"][one["at"].index(token)])
                        fires = max(fires, act / abs(record["values"]["max"]))
                    at = "".join(pieces).find(text, at + 1)
        rank = 0.0
        for side in ("promoted", "suppressed"):
            for i, (string, _) in enumerate((record["logits"] or {}).get(side, [])):
                if text in strings[string]:
                    rank = max(rank, 1 / (1 + i))
                    break
        found[latent] = {"on": fires, "text": near / max(count, 1), "logits": rank}[scope]
    return found


@pytest.mark.parametrize("scope", ["on", "text", "logits"])
@pytest.mark.parametrize("text", ["e", "t", " 7", "E"])
def test_scores_are_those_of_the_records(index, scope, text):
    wanted = by_hand(index, text.lower(), scope)
    found = search(index, text, scope)
    got = dict(zip(found.latents, found.scores, strict=True))
    assert set(got) == {i for i, score in wanted.items() if score > 0}
    assert got == pytest.approx({i: wanted[i] for i in got}, abs=2e-3)
    assert found.scores == sorted(found.scores, reverse=True)


def test_everything_together(index):
    every = search(index, "e")
    parts = [set(search(index, "e", scope).latents) for scope in ("on", "text", "logits")]
    assert set(every.latents) == set.union(*parts)


def test_what_is_not_there(index):
    assert search(index, "no such text") == ([], [])
    assert search(index, "日本").latents == []
    for scope, text in (("none", "e"), ("any", "")):
        with pytest.raises(ConfigError):
            search(index, text, scope)


def test_densities_count_every_latent(index):
    said = densities(index)
    density = index.column("density")
    assert sum(said["latents"]) == int((density > 0).sum())
    assert said["never_fired"] == int((density == 0).sum())
    edges = np.array(said["log10_edges"])
    counted, _ = np.histogram(np.log10(density[density > 0]), edges)
    assert abs(counted - np.array(said["latents"])).sum() <= 2  # edges are rounded
