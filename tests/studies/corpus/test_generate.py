"""A model's own text: the same whatever the batch and wherever it was stopped."""

import itertools
import json
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from saekit.core.errors import ConfigError, DataError, FormatError, MissingExtraError
from saekit.data.base import SPLITS
from saekit.data.corpora.generated import Generated, read_shard
from saekit.data.open import open_corpus
from saekit.data.tokenise import TokenStream
from saekit.models.generation import Sampling
from saekit.models.tiny import ByteTokenizer, tiny
from saekit.studies.corpus.generate import Generation, generate
from saekit.studies.corpus.measure import Measurement, measure
from saekit.studies.corpus.writers import VLLM, Local

HOW = Generation(length=30, seed=2, shard_sequences=8, temperature=2.0)


class Ends(ByteTokenizer):
    """A tokenizer whose EOS is a letter, so that sequences of the tiny model end."""

    eos_id = 97


def model():
    lm = tiny("llama", n_layers=1, d_model=16)
    lm.tokenizer = Ends()
    return lm


def made(folder, tokens=700, lm=None, **how):
    return generate(lm or model(), folder, tokens=tokens, how=HOW, shown=False, **how)


def texts_of(found):
    return [(one.number, one.n_prompt, one.ids.tolist()) for one in found.corpus.sequences()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(tmp_path_factory.mktemp("own") / "a")


@pytest.mark.parametrize("rows", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_the_text_is_that_of_the_seed_whatever_the_batch(whole, tmp_path, rows):
    right = texts_of(whole)
    direct = dict(
        model().sequences(
            ((i, [256]) for i in range(len(right))), 29, Sampling(temperature=2.0, seed=2)
        )
    )
    assert right == [(i, 1, [256, *direct[i]]) for i in range(len(right))]
    assert texts_of(made(tmp_path / str(rows), batch_rows=rows)) == right
    total = list(itertools.accumulate(len(ids) for _, _, ids in right))
    assert total[-1] >= 700 > total[-2] and whole.counts["tokens"] == total[-1]
    ends = [ids[-1] == 97 for _, _, ids in right]
    assert 0 < sum(ends) == whole.counts["ended"] < len(ends)


@pytest.mark.parametrize("after", [1, 7, 8, 20, 33])
def test_a_run_that_is_stopped_goes_on_to_the_same_text(whole, tmp_path, monkeypatch, after):
    class Stopped(Local):
        def write(self, *args):
            yield from itertools.islice(super().write(*args), after)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "b", lm=Stopped(model()))
    found = made(tmp_path / "b", batch_rows=5)
    assert texts_of(found) == texts_of(whole) and found.counts == whole.counts


def test_a_larger_goal_goes_on_and_a_damaged_file_is_written_again(whole, tmp_path):
    small = made(tmp_path / "c", tokens=300)
    assert texts_of(small) == texts_of(whole)[: len(texts_of(small))]
    grown = made(tmp_path / "c")
    assert texts_of(grown) == texts_of(whole)
    shard = grown.corpus.shards()[1]
    shard.write_bytes(shard.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(FormatError, match="damaged"):
        list(grown.corpus.documents("train"))
    assert texts_of(made(tmp_path / "c")) == texts_of(whole)


def test_copies_are_left_out_and_counted(tmp_path):
    class Repeats(Local):
        def write(self, prompts, n, sampling, batch_rows):
            for number, _ in itertools.islice(prompts, 50):
                yield number, [min(number % 5, number), 97] if number < 17 else [number, 97]

    for _ in range(2):  # made, and found there
        found = generate(Repeats(model()), tmp_path / "d", tokens=21, how=HOW, shown=False)
        numbers = [one.number for one in found.corpus.sequences()]
        assert numbers == [0, 1, 2, 3, 4, 17, 18]
        assert found.counts["duplicates"] == 12 and found.counts["tokens"] == 21


def test_it_opens_by_path_and_rows_hold_the_ids_as_drawn(whole):
    corpus = open_corpus(str(whole.folder))
    assert isinstance(corpus, Generated)
    drawn = {" ".join(map(str, one.ids.tolist())) for one in corpus.sequences()}
    assert {d.text for s in SPLITS for d in corpus.documents(s)} == drawn
    stream = TokenStream(corpus, "train", Ends(), 16, bos_each_row=False, cache=False)
    rows = np.concatenate([r.tokens.flatten().numpy() for r in stream.rows(4)])
    train = [list(map(int, d.text.split())) for d in corpus.documents("train")]
    assert rows.tolist() == list(itertools.chain(*train))[: len(rows)]
    other = Ends()
    other.digest = "another"
    with pytest.raises(DataError, match="another tokenizer"):
        TokenStream(corpus, "train", other, 16)


def test_prompts_and_what_begins_a_text_are_said(tmp_path):
    found = made(tmp_path / "e", tokens=200, prompts=["ab", "xyz"])
    assert [ids[:n] for _, n, ids in texts_of(found)[:2]] == [[256, 97, 98], [256, 120, 121, 122]]
    lm = model()
    lm.tokenizer.bos_id = None
    found = made(tmp_path / "f", tokens=100, lm=lm)
    assert texts_of(found)[0][2][0] == 97 and "no BOS" in found.notes[0]
    lm.tokenizer.eos_id = None
    with pytest.raises(DataError, match="--prompt"):
        made(tmp_path / "g", lm=lm)


def test_other_settings_and_half_precision_are_not_mixed_in(whole, tmp_path):
    with pytest.raises(ConfigError, match="another `how.temperature`: 2.0, and now 1.0"):
        generate(model(), whole.folder, tokens=10, how=Generation(length=30), shown=False)
    half = tiny("llama", n_layers=1, d_model=16, dtype=torch.bfloat16)
    found = made(tmp_path / "h", tokens=50, lm=half)
    assert "not repeatable" in found.notes[1]
    with pytest.raises(ConfigError, match="`length`"):
        generate(model(), tmp_path / "i", tokens=9, how=Generation(length=300), shown=False)


def test_vllm_gets_ids_and_a_seed_each(tmp_path, monkeypatch):
    with pytest.raises(MissingExtraError, match="vllm"):
        VLLM("m", None, "auto", 40)
    asked = []

    class Engine:
        def __init__(self, **how):
            asked.append(how)

        def generate(self, prompts, params, use_tqdm):
            asked.append((prompts, params))
            ids = [[p.seed % 90, 97] for p in params]
            return [
                types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=i)]) for i in ids
            ]

    fake = types.ModuleType("vllm")
    fake.LLM, fake.__version__ = Engine, "0"
    fake.SamplingParams = types.SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr("saekit.models.hf.load_tokenizer", lambda name: Ends())
    found = generate(VLLM("m", None, "auto", 40), tmp_path / "j", tokens=60, how=HOW, shown=False)
    prompts, params = asked[1]
    assert prompts[0] == {"prompt_token_ids": [256]} and len({p.seed for p in params}) > 1
    assert params[0].max_tokens == 29 and found.counts["tokens"] >= 60
    assert json.loads((found.folder / "manifest.json").read_text())["made_by"]["vllm"] == "0"


def test_a_shard_holds_its_own_checksum(whole):
    shard = read_shard(whole.corpus.shards()[0])
    assert (shard.first, shard.covered) == (0, 8)


def test_a_model_that_repeats_itself_is_refused_and_not_asked_for_ever(tmp_path):
    class Same(Local):
        def write(self, prompts, n, sampling, batch_rows):
            yield from ((number, [number % 3, 97]) for number, _ in prompts)

    with pytest.raises(DataError, match="9 tokens of different text .* of 700"):
        made(tmp_path / "k", lm=Same(model()))
    greedy = Generation(length=30, temperature=0.0)
    with pytest.raises(ConfigError, match="2 of up to 30 tokens are fewer than 61"):
        generate(model(), tmp_path / "l", tokens=61, how=greedy, prompts=["a", "b"], shown=False)


@pytest.mark.parametrize("temperature", [1e-5, 1e-300, 5e-324])
def test_a_draw_at_any_temperature_is_that_of_the_largest_logit(temperature):
    logits, uniform = torch.tensor([0.0, 3.0, 2.0]), torch.full((3,), 0.5).double()
    race = Sampling(temperature=temperature).race
    assert race(logits, uniform, 0.0) == (1, True)
    assert race(logits, uniform, 2.0)[1] is False  # errors of 2 could make it the other


def test_files_that_are_missing_or_stand_in_anothers_place_are_noticed(whole, tmp_path):
    for name, change in {
        "gone": lambda shards: shards[1].unlink(),
        "twice": lambda shards: shutil.copy(shards[0], shards[0].with_name("000077.safetensors")),
        "folder": lambda shards: (shards[0].unlink(), shards[0].mkdir()),
        "foreign": lambda shards: save_file({"sha256": torch.zeros(1).bfloat16()}, shards[0]),
    }.items():
        folder = shutil.copytree(whole.folder, tmp_path / name)
        corpus = Generated(path=str(folder))
        change(corpus.shards())
        with pytest.raises(FormatError):
            corpus.provenance(), corpus.n_written()
        (folder / "shards" / "000000 (copy).safetensors").write_bytes(b"not ours")
        assert texts_of(made(folder)) == texts_of(whole)


def test_a_mixture_with_ids_of_another_tokenizer_is_refused(whole, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"some words {i}"}) + "\n" for i in range(40)))
    corpus = open_corpus(f"0.5*{whole.folder} + 0.5*{text}")
    other = model()
    other.tokenizer.digest = "another"
    with pytest.raises(DataError, match="another tokenizer"):
        TokenStream(corpus, "train", other.tokenizer, 16)
    with pytest.raises(DataError, match="another tokenizer"):
        measure({"a": corpus}, other, Measurement(tokens=100), shown=False)
