"""An index of what is coded jointly: every token has the code that its event gives it."""

import pytest
import torch

from saekit.activations.harvest import Harvest
from saekit.activations.pairs import Pair
from saekit.analysis.index_folder import Index
from saekit.analysis.indexing import make_index
from saekit.core.errors import ConfigError
from saekit.data.tokenise import TokenStream
from saekit.hub.native import load
from saekit.models.tiny import tiny
from saekit.saes.crosscoder import Crosscoder
from saekit.saes.temporal import Temporal
from saekit.training.loop import train
from tests import world

SIZES = {"d_in": 32, "d_out": 32, "d_sae": 64}
SITES = ("L0.resid_post", "L1.resid_post")
KINDS = {
    "crosscoder": (Pair(read=SITES), Crosscoder(**SIZES, n_sites=2, k=4)),
    "temporal": (Pair(read=SITES[1:], window=8), Temporal(**SIZES, k=4)),
}


@pytest.fixture(scope="module", params=list(KINDS))
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    pair, sae = KINDS[request.param]
    run = world.run(folder, pair=pair, sae=sae, tokens=2000)
    train(run, tiny(), folder / "run", shown=False)
    loaded = load(folder / "run")
    counts = make_index(loaded, tiny(), folder / "index", tokens=400, codes=True, shown=False)
    return folder, loaded, run, counts


def test_codes_are_those_of_the_events(made):
    folder, loaded, run, counts = made
    lm, card = tiny(), loaded.card
    stream = TokenStream(run.corpus, "train", lm.tokenizer, n_ctx=run.n_ctx, bos_each_row=run.bos)
    harvest = Harvest(lm, stream, card.pair, run.rule, fitted=card.rules)
    wanted = {}
    for batch in harvest.batches(n_rows=counts["rows"]):
        with torch.no_grad():
            codes = loaded.sae.encode(batch.x.float()).dense()
        for row, pos, code in zip(batch.row.tolist(), batch.pos.tolist(), codes, strict=True):
            for place, one in enumerate(code if card.pair.window else code[None]):
                wanted[row, pos + place] = one
    store = Index(folder / "index").codes
    seen = 0
    for part in store.by_token():
        for row, pos, code in zip(
            part.row.tolist(), part.pos.tolist(), part.codes.dense(), strict=True
        ):
            torch.testing.assert_close(code, wanted[row, pos], rtol=1e-4, atol=1e-4)
            seen += 1
    assert seen == len(wanted) == counts["tokens"] >= 400 and counts["entries"] > 0


def test_it_says_what_it_is_of(made):
    folder, loaded, _, _ = made
    index = Index(folder / "index")
    said = index.manifest
    assert (
        index.site == said["site"] == loaded.card.pair.label
        and said["window"] == loaded.card.pair.window
    )
    assert said["logits_of"] == "L1.resid_post"
    assert all(index.record(i)["logits"]["promoted"] for i in range(64))


def test_one_site_of_a_crosscoder_is_refused(made):
    folder, loaded, _, _ = made
    if loaded.card.pair.window:
        pytest.skip("it has one site")
    one = load(folder / "run", site=SITES[0])
    with pytest.raises(ConfigError, match="jointly and is indexed at all of them"):
        make_index(one, tiny(), folder / "again", tokens=100, shown=False)
