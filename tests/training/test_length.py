"""How long a run is: what the text has, refused at once, or ended early with what was trained."""

import dataclasses
import json

import pytest
import torch

from saekit.activations.rules import TokenRule
from saekit.cli.main import main
from saekit.core.errors import DataError
from saekit.models.tiny import save_tiny
from saekit.training import length
from saekit.training.loop import open_harvest, train
from saekit.training.sweep_loop import sweep_runs
from tests import world
from tests.world import model, text_file

UNRULED = TokenRule(max_norm=None)  # every token counts but BOS and EOS


def run(folder, **changes):
    """Return the run of `world` on a text of about 5,000 tokens."""
    found = world.run(folder, **changes)
    text_file(folder, n_docs=70)
    return found


def there(folder, **changes) -> int:
    """Return how many tokens of the text count, by reading all of it."""
    one = run(folder, **changes)
    harvest = open_harvest(one, model(), count=False)
    for _ in harvest.batches():
        pass
    return harvest.counts.kept


def test_more_than_there_is_is_refused_before_training_with_the_number(tmp_path):
    n = there(tmp_path, rule=UNRULED)
    passes = []
    lm = model()
    read = lm.read
    lm.read = lambda *a, **k: passes.append(1) or read(*a, **k)  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"about [\d,]+ tokens that count; 90,000 were") as caught:
        train(run(tmp_path, tokens=90_000, rule=UNRULED), lm, tmp_path / "r", shown=False)
    assert not (tmp_path / "r" / "sae").exists()
    assert len(passes) <= 8  # the first rows, and no more
    said = int(str(caught.value).split("about ")[1].split(" tokens")[0].replace(",", ""))
    assert said == pytest.approx(n, rel=0.02)
    assert "epochs" in str(caught.value)


def test_few_rows_are_counted_exactly(tmp_path):
    base = run(tmp_path, rule=UNRULED, buffer_tokens=8192)
    text_file(tmp_path, n_docs=10)  # in place of the longer text
    harvest = open_harvest(base, model(), count=False)
    for _ in harvest.batches():
        pass
    n = harvest.counts.kept
    fitted = length.fit_tokens({"": base}, model(), shown=False)[""]
    assert n - 10 < fitted.tokens <= n
    with pytest.raises(DataError, match=f"has {n:,} tokens that count"):
        open_harvest(dataclasses.replace(base, tokens=n + 1), model())
    open_harvest(dataclasses.replace(base, tokens=n), model())


def test_the_default_length_is_what_the_text_has_and_trains_to_its_end(tmp_path):
    n = there(tmp_path)
    fitted = length.fit_tokens({"": run(tmp_path, tokens=10**7)}, model(), shown=False)[""]
    assert 0.95 * n < fitted.tokens < n
    train(fitted, model(), tmp_path / "r", shown=False)
    assert (tmp_path / "r/sae/weights.safetensors").exists()
    assert "text_ended" not in json.loads((tmp_path / "r/manifest.json").read_text())
    short = run(tmp_path, tokens=1000)
    assert length.fit_tokens({"": short}, model(), shown=False)[""] == short


@pytest.mark.parametrize("more", [{}, {"mixing": 0.5}, {"epochs": 2}])
def test_text_that_ends_while_training_ends_it_with_what_was_trained(
    tmp_path, monkeypatch, capsys, more
):
    monkeypatch.setattr(length, "SLACK", 0.5)  # as text that cannot be counted
    n = there(tmp_path)
    asked = int(1.2 * n)
    train(run(tmp_path, tokens=asked, **more), model(), tmp_path / "r", shown=False)
    manifest = json.loads((tmp_path / "r/manifest.json").read_text())
    epochs = more.get("epochs", 1)
    assert manifest["text_ended"] == {"tokens": n * epochs, "asked": asked * epochs}
    assert manifest["harvest"]["kept"] == n * epochs
    assert (tmp_path / "r/sae/weights.safetensors").exists()
    log = [json.loads(line) for line in (tmp_path / "r/log.jsonl").read_text().splitlines()]
    (ended,) = [r for r in log if r["kind"] == "text_ended"]
    assert ended["tokens"] == n * epochs and 0 < ended["lr_share_of_peak"] < 1
    assert log[-2]["kind"] == "step" and log[-2]["lr"] > 0
    assert "The text ended" in capsys.readouterr().err


def test_state_of_a_shortened_stream(tmp_path, monkeypatch):
    """A stream taken up again after the text ended serves the same batches."""
    from saekit.training.trainer import open_shuffle

    n = there(tmp_path)
    one = run(tmp_path, tokens=n + 500)

    def fresh():
        return open_shuffle(one, open_harvest(one, model(), count=False), shown=False)

    first = fresh()
    while first.total_tokens == one.tokens:  # until the end of the text is met
        first.batch()
    state = first.state()
    state = ({k: v.clone() for k, v in state[0].items()}, json.loads(json.dumps(state[1])))
    second = fresh()
    second.load(*state)
    assert second.total_tokens == n
    while first.served_tokens < first.total_tokens:
        assert torch.equal(first.batch()[0], second.batch()[0])
    assert second.served_tokens == n


def test_a_sweep_side_by_side_ends_with_its_text(tmp_path, monkeypatch):
    monkeypatch.setattr(length, "SLACK", 0.5)
    n = there(tmp_path)
    runs = {f"seed{s}": run(tmp_path, tokens=int(1.2 * n), seed=s) for s in (0, 1)}
    assert not sweep_runs(runs, model(), tmp_path / "s", shown=False)
    for name in runs:
        manifest = json.loads((tmp_path / "s" / name / "manifest.json").read_text())
        assert manifest["status"] == "done" and manifest["text_ended"]["tokens"] == n


def test_commands_train_on_what_there_is_and_end_with_3_where_it_ends_early(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "lm")
    text_file(tmp_path, n_docs=70)
    words = [
        "--model",
        "lm",
        "--site",
        "L1.resid_post",
        "--corpus",
        "text.jsonl",
        "--quiet",
        "--d-sae",
        "64",
        "--k",
        "4",
        "--set",
        "n_ctx=32",
        "--set",
        "batch_tokens=128",
        "--set",
        "buffer_tokens=512",
    ]
    with pytest.raises(SystemExit) as done:
        main(["train", *words, "--out", "r"])
    assert done.value.code == 0
    tokens = json.loads((tmp_path / "r/manifest.json").read_text())["config"]["tokens"]
    assert tokens < 100_000
    with pytest.raises(SystemExit) as done:
        main(["sweep", *words, "--vary", "seed=0,1", "--out", "s"])
    assert done.value.code == 0
    with pytest.raises(SystemExit) as done:
        main(["train", *words, "--tokens", "10000000", "--out", "t"])
    assert done.value.code == 1
    assert "10,000,000 were asked" in capsys.readouterr().err
    monkeypatch.setattr(length, "SLACK", 0.5)
    with pytest.raises(SystemExit) as done:
        main(["train", *words, "--tokens", str(int(1.2 * tokens)), "--out", "u"])
    assert done.value.code == 3
    assert (tmp_path / "u/sae/weights.safetensors").exists()
