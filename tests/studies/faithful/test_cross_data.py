"""Cross data: each cell is what core says of that text, and no cell has text of training."""

import dataclasses
import json

import pytest
import torch

from saekit.core.errors import ConfigError, MissingExtraError
from saekit.data.corpora.files import Files
from saekit.data.tokenise import TokenStream
from saekit.studies.corpus import planes
from saekit.studies.faithful.evals.cross_data import CrossData, label_of
from saekit.studies.faithful.figures import cross_data, dictionary_map
from tests.evals.world import random_topk, subject, text
from tests.evals.world import tools as real_text

SMALL = CrossData(n_tokens=640, ce_tokens=320)


def other(folder):
    chance = torch.Generator().manual_seed(0)
    words = ["cat", "dog", "sat", "mat", "the", "a"]
    lines = []
    for i in range(300):
        picked = torch.randint(6, (8,), generator=chance).tolist()
        lines.append(json.dumps({"text": " ".join(words[j] for j in picked) + f" {i}"}))
    path = folder / "other.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_each_cell_is_core_of_that_text(tmp_path):
    subj, path = subject(random_topk()), other(tmp_path)
    result = dataclasses.replace(SMALL, corpora=(path,)).run(subj, real_text())
    core = SMALL.core
    stream = TokenStream(Files(paths=(path,)), "test", subj.lm.tokenizer, n_ctx=32)
    for name, rows in (("own", real_text()), ("other", real_text()._replace(rows=stream.rows))):
        alone = core.run(subj, rows)
        for metric in ("fvu", "l0", "ce_rise", "ce_recovered_zero", "ce_recovered_mean"):
            mine, theirs = result.scores[f"{name}/{metric}"], alone.scores[metric]
            assert (mine.value, mine.low, mine.n) == (theirs.value, theirs.low, theirs.n), metric
    assert result.details["texts"]["other"]["corpus"]["paths"] == [path]
    cross_data.draw({"own": result, "more": result}, tmp_path / "cross.svg")
    assert len((tmp_path / "cross.csv").read_text().splitlines()) == 1 + 2 * 2 * 5


@torch.no_grad()
def test_published_recovery_replaces_every_token():
    subj, how = subject(random_topk()), real_text(text()[:4])
    settings = CrossData(n_tokens=128, ce_tokens=128, published=True)
    result = settings.run(subj, how)
    rows = text()[:4]
    acts = subj.lm.read(rows, [subj.read])[subj.read]
    targets = rows[:, 1:, None]

    def loss(values=None):
        put = {} if values is None else {subj.write: lambda h: values.expand_as(h)}
        logits = subj.lm.logits(rows, put)[:, :-1]
        return -float(logits.double().log_softmax(-1).gather(2, targets).mean())

    clean, spliced = loss(), loss(subj.sae(acts))
    for name, blank in (("zero", torch.zeros(1, 1, 32)), ("mean", acts.mean((0, 1), keepdim=True))):
        wanted = (spliced - loss(blank)) / (clean - loss(blank))
        got = result.scores[f"own/recovery_from_{name}"].value
        assert got == pytest.approx(wanted, rel=1e-3), name


def test_texts_have_one_name_each():
    assert [label_of(w) for w in ("packaged", "a/b.jsonl", "owner/name")] == [
        "packaged",
        "b",
        "name",
    ]
    with pytest.raises(ConfigError, match="b comes twice"):
        CrossData(corpora=("a/b.jsonl", "c/b.csv"))
    with pytest.raises(ConfigError, match="own comes twice"):
        CrossData(corpora=("own.jsonl",))


def test_a_map_keeps_groups_apart_and_says_what_is_missing(tmp_path, monkeypatch):
    chance = torch.Generator().manual_seed(0)
    near = torch.randn(40, 8, generator=chance) * 0.1
    near[:20, 0] += 1
    near[20:, 1] += 1
    near[5] = 0  # of length 0: left out
    placed = dictionary_map.table({"a": near}, "pca", clusters=2)
    assert len(placed) == 39 and 5 not in placed.columns["latent"]
    by = {
        c: {
            int(i >= 20)
            for i, k in zip(placed.columns["latent"], placed.columns["cluster"], strict=True)
            if k == c
        }
        for c in (0, 1)
    }
    assert sorted(map(tuple, by.values())) == [(0,), (1,)]
    assert len(dictionary_map.table({"a": near, "b": near}, "tsne", most=15, clusters=2)) == 30
    dictionary_map.draw(placed, "pca", tmp_path / "map.svg")
    assert (tmp_path / "map.csv").read_text().startswith("sae,latent,x,y,cluster")
    with pytest.raises(ConfigError, match="at least 7"):
        dictionary_map.table({"a": near[:3]}, "pca")
    monkeypatch.setattr(planes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="probing"):
        dictionary_map.table({"a": near}, "pca")
