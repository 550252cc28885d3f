"""Golden numbers: a short training on the CPU gives the losses and scores that it always gave.

    SAEKIT_RENEW_GOLDEN=1 python -m pytest tests/golden

writes them again. A change is a change of numbers for users: it stands under Numbers in
CHANGELOG.md, and raises the `version` of a metric or an evaluation where that is what changed.
Relative to 1e-4, for bits vary between processors: rounding of the model's weights to 7 digits
moves none of these by more than 2e-7.
"""

import json
import os
from pathlib import Path

import pytest

import saekit
from saekit.core.files import read_json_lines
from saekit.data.corpora.files import Files
from saekit.training.loop import train
from tests import world

FILE = Path(__file__).with_name("topk_200_steps.json")
RENEW = "SAEKIT_RENEW_GOLDEN"
STEPS = (10, 50, 100, 150, 200)
SCORES = ("fvu", "l0", "cosine", "ce_rise", "kl", "dead")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, float]:
    folder, lm = tmp_path_factory.mktemp("golden"), world.model()
    text = Files(paths=(str(world.text_file(folder)),), validation_share=0.0)  # as it ever was
    run = world.run(folder, corpus=text, tokens=12_800, epochs=2, log_steps=10)
    assert run.total_steps == STEPS[-1]
    train(run, lm, folder / "out", shown=False)
    log = {r["step"]: r for r in read_json_lines(folder / "out" / "log.jsonl") if "fvu" in r}
    numbers = {f"step {s}: {key}": log[s][key] for s in STEPS for key in ("loss", "fvu")}
    scores = saekit.evaluate(
        folder / "out", lm, n_tokens=1024, ce_tokens=512, n_blocks=8, shown=False
    ).scores
    return numbers | {f"held out: {name}": scores[name].value for name in SCORES}


@pytest.fixture(scope="module")
def golden(found) -> dict[str, float]:
    if os.environ.get(RENEW):
        FILE.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_numbers_are_what_they_were(found, golden):
    assert found.keys() == golden.keys()
    changed = {
        name: (golden[name], value)
        for name, value in found.items()
        if value != pytest.approx(golden[name], rel=1e-4, abs=1e-9)
    }
    assert not changed, f"{changed}\nIf that is meant: {RENEW}=1 python -m pytest tests/golden"


def test_it_learned(golden):
    """So that a renewed file cannot hold the numbers of a training that does nothing."""
    assert golden["step 200: fvu"] < 0.5 * golden["step 10: fvu"]
    assert 0 < golden["held out: fvu"] < 0.3 and golden["held out: l0"] <= 4
