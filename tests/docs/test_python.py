"""The Python of the front door and of docs/python.md runs, line by line."""

import re
from pathlib import Path

import pytest

import saekit
from tests import world

ROOT = Path(__file__).parents[2]
PAGES = ("docs/python.md", "README.md")
USING = "docs/using.md"  # begins with the SAE of the demonstration
# The tiny model has two layers, 64 latents' worth of width, and reads a small file.
SMALL = (
    ('"L10.', '"L1.'),
    ("expansion=8", "expansion=2"),
    ("k=32", "k=4"),
    ("tokens=300_000", "tokens=6000, corpus=text, n_ctx=32, lr=1e-2"),
    ("tokens=200_000", "tokens=3000"),
    ("saekit.evaluate(sae, lm)", "saekit.evaluate(sae, lm, n_tokens=3000, ce_tokens=1500)"),
)


def cells(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("page", PAGES)
def test_every_cell_runs_on_a_tiny_model(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(saekit, "load_model", lambda name: world.model(), raising=False)
    names = {"text": world.text_file(tmp_path)}
    assert cells(page)
    for cell in cells(page):
        for large, small in SMALL:
            cell = cell.replace(large, small)
        exec(compile(cell, page, "exec"), names)
    assert "[" in capsys.readouterr().out  # an interval was printed
    assert (tmp_path / "my-sae" / "config.json").exists()


def test_using_an_sae_runs_from_loading_to_gradients(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(saekit, "load_model", lambda name: world.model(), raising=False)
    how = {"corpus": world.text_file(tmp_path), "tokens": 6000, "n_ctx": 32, "shown": False}
    saekit.train(
        world.model(),
        site="L1.resid_post",
        sae=saekit.TopK(k=4, expansion=2),
        out=tmp_path / "demo",
        **how,
    )
    names = {}
    for cell in cells(USING):
        # The tiny model reads bytes, so its tokens are letters.
        for large, small in (('" Paris"', '"P"'), ('" Rome"', '"R"')):
            cell = cell.replace(large, small)
        exec(compile(cell, USING, "exec"), names)
    out = capsys.readouterr().out
    assert "CE recovered" in out and "KL next" in out and "effect" in out
    assert names["spliced"].codes.values.grad.abs().sum() > 0 and names["lm"].edits == ()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_cell_runs_as_it_stands(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in cells(page):
        exec(compile(cell, page, "exec"), names)


@pytest.mark.slow
def test_using_an_sae_runs_on_the_embedded_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    lm = saekit.load_model("smollm2-135m")
    saekit.train(
        lm,
        site="L10.resid_post",
        sae=saekit.TopK(k=32, expansion=4),
        tokens=60_000,
        out="demo",
        shown=False,
    )
    for cell in cells(USING):
        exec(compile(cell, USING, "exec"), names)
    assert "fits: nothing speaks against" in capsys.readouterr().out
