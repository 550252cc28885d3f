"""What a command can do, a call of the package can do with the same words (docs/python.md)."""

import inspect
import re
from pathlib import Path

import pytest
import torch
import typer

import saekit
from saekit.cli.main import app
from saekit.core.errors import ConfigError
from tests import world

PAGE = Path(__file__).parents[2] / "docs/python.md"
CALLS = {
    "train": "train",
    "sweep": "sweep",
    "fit": "fit_dictionary",
    "cache write": "write_cache",
    "eval": "evaluate",
    "compare": "compare",
    "twins": "twins",
    "verify": "verify",
    "index": "index",
    "analyse": "analyse",
    "query": "query",
    "serve": "serve",
    "prompt": "prompt",
    "steer": "steer",
    "attribute": "attribute",
    "convert": "convert",
    "card": "card",
    "pull": "pull",
    "push": "push",
    "published": "published",
    "export site": "export_site",
    "export neuronpedia": "export_neuronpedia",
    "export saebench": "export_saebench",
    "report": "paper",
    "reproduce": "reproduce",
    "cite": "cite",
}
TERMINAL = {"demo", "list", "watch", "track", "cache info", "cache check", "cache export"}
TERMINAL |= {"cache import"}
# Words that are said elsewhere in Python, and where.
OPENED = {
    "run",
    "runs",
    "source",
    "model",
    "revision",
    "device",
    "dtype",
    "processing",
}  # load_model
OPENED |= {
    "from",
    "read",
    "write",
    "architecture",
    "input_scale",
    "bos",
    "n_ctx",
    "k",
    "site",
}  # load
ALWAYS = {"json", "quiet", "set"}  # print, shown=, **settings
ELSEWHERE = {
    "train": {"arch", "d_sae", "config", "recipe", "activations", "key"},  # sae=, run=, fit
    "sweep": {"arch", "d_sae", "config", "recipe", "emit"},  # sae=, run=, training.sweep
    "cache write": {"repair"},  # repair_cache
    "eval": {"suite", "tier", "floors", "figure"},  # evaluate_suite
    "compare": {"figure"},  # the comparison's own draw
    "twins": {"out"},  # Twins.write
    "analyse": {"name", "out"},  # analysis=, Table.write_csv
    "query": {"column", "out"},
    "serve": {"open", "memory"},  # open_browser=, memory_gb=
    "attribute": {"top"},  # the table's own top
    "card": {"out"},
    "pull": {"out"},  # folder=
    "push": {"path", "public"},  # path_in_repo=, private=
    "published": {"scores", "out", "all"},
    # The fields of a Bundle, **about
    "export neuronpedia": {
        "model_id",
        "release",
        "title",
        "creator",
        "creator_id",
        "url",
        "weights",
        "weights_path",
    },
    "report": {"paper"},
    "reproduce": {"check"},
    "cite": {"out"},
}


def commands(group=None, path=()):
    group = typer.main.get_command(app) if group is None else group
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join([*path, name]), command


EVERY = dict(commands())
STUDIES = {p.name for p in (Path(saekit.__file__).parent / "studies").iterdir()}


def words_of(command):
    for parameter in command.params:
        long = [o for o in parameter.opts if o.startswith("--")] or [parameter.name]
        yield long[0].lstrip("-").replace("-", "_").lower()


def test_every_command_has_a_call_or_is_for_a_terminal():
    engine = {path for path in EVERY if path.split()[0] not in STUDIES}
    assert engine == {*CALLS, *TERMINAL & engine}


@pytest.mark.parametrize("path", CALLS)
def test_a_call_takes_the_words_of_its_command(path):
    parameters = inspect.signature(getattr(saekit, CALLS[path])).parameters
    said = {*parameters, *OPENED, *ALWAYS, *ELSEWHERE.get(path, ())}
    assert not set(words_of(EVERY[path])) - said
    assert not ELSEWHERE.get(path, set()) & set(parameters)  # no exception that is none


def test_the_page_names_every_name_and_every_command_with_a_call():
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("## Commands and calls") :]
    assert {n for n in CALLS.values() if f"`{n}" not in table} == set()
    assert {w for path in CALLS for w in path.split() if not re.search(rf"\b{w}\b", table)} == set()
    names = text[text.index("## All names") :]
    lower = [n for n in saekit.__all__ if n[0].islower()]
    assert [n for n in lower if f"`{n}`" not in names] == []


def test_an_sae_is_converted_to_a_format_and_back(tmp_path):
    sae = saekit.train(
        world.model(),
        site="L1.resid_post",
        sae=saekit.TopK(k=4, d_sae=64),
        tokens=500,
        corpus=world.text_file(tmp_path),
        n_ctx=32,
        out=tmp_path / "a",
        shown=False,
    )
    there = saekit.convert(sae, tmp_path / "theirs", format="sae_lens")
    again = saekit.load(saekit.convert(there, str(tmp_path / "back")))
    x = torch.randn(5, 32)
    assert torch.allclose(again.sae(x), sae.sae(x), atol=1e-5)
    with pytest.raises(ConfigError, match="overwrite=True"):
        saekit.convert(sae, there)
    assert saekit.convert(sae, there, format="sae_lens", overwrite=True) == there
    with pytest.raises(ConfigError, match="in the format sae_lens"):
        saekit.convert(sae, there, format="sparsify", overwrite=True)
    for out, said in (("", "folder to make"), (there / "cfg.json", "is a file")):
        with pytest.raises(ConfigError, match=said):
            saekit.convert(sae, out)
    found = saekit.twins(sae, str(there))
    assert float(found.stable.min()) > 0.999 and len(repr(found)) < 300
    with pytest.raises(ConfigError, match="list is empty"):
        saekit.export_saebench([], tmp_path / "bench")
    with pytest.raises(ConfigError, match="no folder"):
        saekit.export_saebench([tmp_path / "a", tmp_path / "nope"], tmp_path / "bench")


def test_a_cache_is_written_gone_on_with_and_trained_on(tmp_path):
    words = {"site": "L1.resid_post", "n_ctx": 32, "shown": False, "precision": "float32"}
    text = world.text_file(tmp_path)
    store = saekit.write_cache(world.model(), corpus=text, tokens=1000, out=tmp_path / "c", **words)
    assert store.n_kept >= 1000 and store.precision == "float32"
    more = saekit.write_cache(
        world.model(), tokens=2000, out=tmp_path / "c", resume=True, shown=False
    )
    assert more.n_kept >= 2000
    assert saekit.repair_cache(tmp_path / "c", world.model(), shown=False) == []
    sae = saekit.train(
        cache=more.folder,
        sae=saekit.TopK(k=4, d_sae=64),
        batch_tokens=128,
        out=tmp_path / "a",
        shown=False,
    )
    assert sae.card.corpus["cache"]["identity"] == more.identity
    with pytest.raises(ConfigError, match="has no setting `nothing`"):
        saekit.write_cache(world.model(), corpus=text, nothing=1, out=tmp_path / "d")
    with pytest.raises(ConfigError, match="Name the folder"):
        saekit.write_cache(resume=True)
    for words in ({"site": "L0.resid_post"}, {"precision": "bfloat16"}, {"n_ctx": 16}):
        with pytest.raises(ConfigError, match="goes on as it was begun"):
            saekit.write_cache(world.model(), out=tmp_path / "c", resume=True, **words)
    assert f"{more.n_kept:,} tokens at L1.resid_post" in repr(more)
    same = saekit.train(
        cache=more,
        sae=saekit.TopK(k=4, d_sae=64),
        batch_tokens=128,
        out=tmp_path / "b",
        shown=False,
    )
    assert torch.equal(same.sae.W_dec, sae.sae.W_dec)
