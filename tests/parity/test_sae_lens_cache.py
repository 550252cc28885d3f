"""saekit and sae-lens: the same shuffle event for event, and each other's cached activations."""

import warnings

import pytest
import torch

from saekit.activations.cache import caching
from saekit.activations.cache.exchange import export_arrow, import_arrow
from saekit.activations.cache.recorded import RecordedModel
from saekit.activations.cache.store import Store
from saekit.activations.mixing import Mixing
from saekit.activations.pairs import Pair
from saekit.activations.rules import TokenRule
from saekit.core.seeds import derive
from tests import world
from tests.activations.cached import SITES, spec
from tests.activations.test_shuffle import Text, rest
from tests.data.test_tokenise import BOS, EOS, stream
from tests.parity.mapping import peer

pytestmark = pytest.mark.parity
READ = SITES[1]
COLUMN = "blocks.1.hook_resid_post"


def same_generator(seed):
    """Seed the generator that sae-lens draws from as saekit seeds its own."""
    torch.manual_seed(derive(seed, "mixing"))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("batch", [64, 50])
@pytest.mark.parametrize(
    ("buffer", "mixing"),
    [(64, 0.5), (256, 0.0), (256, 0.3), (256, 0.5), (256, 0.99), (256, 1.0), (333, 0.9)],
)
def test_mixing_is_theirs_event_for_event(buffer, mixing, batch, seed):
    """To the last whole batch; theirs drops the rest, ours serves it."""
    n = 1000
    theirs = peer("sae_lens.training.mixing_buffer").mixing_buffer
    passes = [acts.x for acts in Text().batches()]
    chunks = torch.cat(passes)[:n].split(_cut([len(x) for x in passes], n))
    same_generator(seed)
    wanted = list(theirs(buffer, batch, iter(chunks), mixing))
    stream = Mixing(
        Text(),
        buffer_tokens=buffer,
        mixing=mixing,
        tokens=n,
        epochs=1,
        batch_tokens=batch,
        seed=seed,
    )
    found = [x for x, _ in rest(stream)]
    assert len(wanted) == n // batch
    for ours, other in zip(found, wanted, strict=False):
        assert torch.equal(ours, other)
    assert len(found) == -(-n // batch)


def _cut(sizes, n):
    """Return the sizes of forward passes up to n events."""
    out = []
    for size in sizes:
        out.append(min(size, n - sum(out)))
        if sum(out) == n:
            return out
    raise AssertionError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    return caching.write(spec(folder), world.model(), folder / "c", tokens=3000, shown=False)


def their_store(folder, n_ctx=32, **settings):
    """Return sae-lens' store of cached activations: it needs no model and no text."""
    defaults = {
        "hook_name": COLUMN,
        "hook_head_index": None,
        "context_size": n_ctx,
        "d_in": 32,
        "n_batches_in_buffer": 16,
        "total_training_tokens": 3000,
        "store_batch_size_prompts": 16,
        "train_batch_size_tokens": 64,
        "prepend_bos": True,
        "normalize_activations": "none",
        "device": torch.device("cpu"),
        "dtype": "float32",
    }
    module = peer("sae_lens.training.activations_store")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module.ActivationsStore(
            model=None,
            dataset=None,
            streaming=False,
            cached_activations_path=str(folder),
            **(defaults | settings),
        )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_they_read_what_is_exported(store, tmp_path, dtype):
    site = next(s for s in store.sites if str(s) == READ)
    assert export_arrow(store, tmp_path / "out", site, dtype=dtype, shown=False) == store.n_rows
    theirs = their_store(tmp_path / "out")
    row = 0
    while row < store.n_rows:
        acts, tokens = theirs.get_raw_llm_batch()
        n = min(16, store.n_rows - row)
        ours = store.acts(site, row, n).to(getattr(torch, dtype)).float()
        assert torch.equal(acts, ours.flatten(0, 1))
        assert torch.equal(tokens.long(), store.text(row, n).tokens.flatten())
        row += n


def test_training_on_the_export_there_and_on_the_store_here_see_the_same(store, tmp_path):
    """Two epochs: their cached activations, filter and mixing; our store, rule and mixing."""
    site = next(s for s in store.sites if str(s) == READ)
    export_arrow(store, tmp_path / "out", site, shown=False)
    special = torch.tensor(sorted(world.model().tokenizer.special_ids))
    harvest = RecordedModel(Store.open(store.folder)).harvest(
        Pair(read=(READ,)), TokenRule(max_norm=None), {}
    )
    theirs = their_store(  # the order depends on the rows of a pass, which must be the same
        tmp_path / "out",
        exclude_special_tokens=special,
        activations_mixing_fraction=0.7,
        store_batch_size_prompts=harvest.batch_rows,
    )
    n = sum(len(acts.x) for acts in harvest.batches())
    ours = Mixing(
        harvest, buffer_tokens=16 * 32, mixing=0.7, tokens=n, epochs=2, batch_tokens=64, seed=5
    )
    same_generator(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the second epoch
        for _ in range(2 * n // 64 - 10):  # the last are served from what has no successor
            assert torch.equal(ours.batch()[0], theirs.next_batch())


def cached_there(folder, tokens, monkeypatch):
    """Let sae-lens cache activations of a random model; return its folder and the model."""
    runner = peer("sae_lens.cache_activations_runner")
    config = peer("sae_lens.config").CacheActivationsRunnerConfig
    lens, datasets = peer("transformer_lens"), peer("datasets")
    cfg = lens.HookedTransformerConfig(
        n_layers=2,
        d_model=32,
        n_ctx=32,
        d_head=8,
        n_heads=4,
        d_vocab=258,
        act_fn="relu",
        seed=0,
        device="cpu",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lens.HookedTransformer(cfg)
    monkeypatch.setattr(runner, "load_model", lambda **_: model)
    rows = datasets.Dataset.from_dict({"tokens": tokens.tolist()})
    asked = config(
        dataset_path="none",
        model_name="none",
        model_batch_size=8,
        hook_name=COLUMN,
        d_in=32,
        training_tokens=tokens.numel(),
        context_size=32,
        device="cpu",
        shuffle=False,
        new_cached_activations_path=str(folder),
        buffer_size_gb=16 * 32 * 32 * 4 / 1e9,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner.CacheActivationsRunner(asked, override_dataset=rows).run()
    return model


def test_what_they_cached_is_imported(store, tmp_path, monkeypatch):
    tokens = store.text(0, 80).tokens
    model = cached_there(tmp_path / "theirs", tokens, monkeypatch)
    assert len(list((tmp_path / "theirs").glob("*.arrow"))) == 5
    config = spec(tmp_path, sites=(READ,))
    imported = import_arrow(
        tmp_path / "theirs", tmp_path / "ours", config, world.model(), compare=False, shown=False
    )
    with torch.no_grad():
        _, found = model.run_with_cache(tokens, names_filter=COLUMN)
    site = next(iter(imported.sites))
    assert torch.equal(imported.text(0, 80).tokens, tokens)
    # Their passes have 8 rows, this one 80.
    torch.testing.assert_close(imported.acts(site, 0, 80), found[COLUMN], rtol=1e-5, atol=1e-6)
    theirs = their_store(tmp_path / "theirs")
    acts, _ = theirs.get_raw_llm_batch()
    assert torch.equal(imported.acts(site, 0, 16).flatten(0, 1), acts)


def test_there_and_back_is_the_same_bits(store, tmp_path):
    site = next(s for s in store.sites if str(s) == READ)
    export_arrow(store, tmp_path / "out", site, shown=False)
    back = import_arrow(
        tmp_path / "out",
        tmp_path / "back",
        spec(tmp_path, sites=(READ,)),
        world.model(),
        shown=False,
    )
    assert torch.equal(back.acts(site, 0, 999), store.acts(site, 0, 999))


@pytest.mark.parametrize(("ends_with_row", "same"), [(False, True), (True, False)])
def test_separator_difference_where_a_document_ends_with_its_row(ends_with_row, same):
    """Else rows are theirs, token for token."""
    packed = peer("sae_lens.tokenization_and_batching").concat_and_batch_sequences
    lengths = [3 if ends_with_row else 2, 8, 6]
    texts = ["".join(chr(97 + 9 * i + j) for j in range(n)) for i, n in enumerate(lengths)]
    ours = torch.cat([rows.tokens for rows in stream(texts, n_ctx=4).rows(4)]).tolist()
    documents = (torch.tensor([ord(c) for c in text]) for text in texts)
    made = packed(documents, 4, begin_batch_token_id=BOS, sequence_separator_token_id=EOS)
    theirs = [row.tolist() for row in made][: len(ours)]
    assert len(theirs) >= 4 and (ours[: len(theirs)] == theirs) is same
    if not same:  # theirs begins the second row with the document, ours with the separator
        assert ours[0] == theirs[0] and ours[1][:2] == [BOS, EOS] and EOS not in theirs[1]
