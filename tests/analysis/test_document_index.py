import json

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule, TokenRule
from saekit.activations.text_axis import axis_of, texts
from saekit.analysis.document_index import DocumentIndex, spans
from saekit.core.errors import ConfigError, DataError
from saekit.data.corpora.files import Files
from saekit.hub.card import Card
from saekit.hub.trained import TrainedSAE
from saekit.models.tiny import tiny
from saekit.saes.topk import TopK

SITE = "L1.resid_post"


@pytest.fixture
def world(tmp_path):
    lm = tiny("llama", d_model=16)
    sae = TopK(d_in=16, d_out=16, d_sae=24, k=3).build(torch.Generator().manual_seed(0))
    rule = FittedRule(TokenRule(max_norm=None), (256, 257), 1.0)
    card = Card(
        model={},
        pair=Pair(read=(SITE,)),
        rules={SITE: rule},
        corpus={},
        n_ctx=16,
        bos=True,
        tokens=0,
    )
    lines = ["ab" * 3, "the first text is of some length " * 2, "a short one", "x y z " * 30]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in lines))
    corpus = Files(paths=(str(path),), test_share=0.0, validation_share=0.0)
    return lm, TrainedSAE(sae, card), (corpus, "train")


def test_spans_cover_each_token_once_with_its_context():
    for n in range(1, 60):
        found = spans(n, 10, 4)
        given = [t for a, b, first in found for t in range(first, b)]
        assert given == list(range(n))
        assert all(first - a >= 4 or a == 0 for a, _, first in found)
        assert all(b - a == 10 for a, b, _ in found) or n < 10


def test_every_token_is_coded_with_its_documents_past(tmp_path, world):
    lm, loaded, text = world
    cfg = DocumentIndex(n_ctx=32, overlap=12, least_doc_tokens=20, batch_rows=3)
    store = cfg.write(loaded, lm, text, tmp_path / "s", tokens=10**6, shown=False)
    assert axis_of(store).skipped == 0
    tokens = torch.cat([t.tokens for t in texts(store)])
    docs = torch.cat([t.doc for t in texts(store)])
    whole = [d.text for d in text[0].documents("train")]
    assert len(set(docs.tolist())) == 2  # two are too short
    dense = torch.zeros(len(tokens), 24)
    for shard in store.by_token():
        dense[shard.row * 32 + shard.pos] = shard.codes.dense()
    site = lm.check_site(loaded.card.pair.reads[0])
    for doc in set(docs.tolist()):
        ids = torch.tensor(list(whole[doc].encode()))
        mine = (docs == doc).nonzero()[:, 0]
        assert tokens[mine].tolist() == ids[: len(mine)].tolist()
        for k, place in enumerate(mine.tolist()):
            window = next(w for w in spans(len(ids), 31, 12) if w[2] <= k < w[1])
            row = torch.cat([torch.tensor([256]), ids[window[0] : k + 1]])
            with torch.no_grad():
                expected = loaded.sae.encode(lm.read(row[None], [site])[site][0, -1:]).dense()
            torch.testing.assert_close(dense[place], expected[0], rtol=1e-4, atol=1e-4)


def test_refuses_what_it_cannot_do(tmp_path, world):
    lm, loaded, text = world
    with pytest.raises(ConfigError, match="overlap"):
        DocumentIndex(n_ctx=8, overlap=7)
    with pytest.raises(ConfigError, match="n_ctx"):
        DocumentIndex().write(loaded, lm, text, tmp_path / "s", tokens=5)
    with pytest.raises(DataError, match="do not fill"):
        DocumentIndex(n_ctx=200, overlap=8, least_doc_tokens=400).write(
            loaded, lm, text, tmp_path / "s", tokens=500, shown=False
        )
