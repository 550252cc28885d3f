"""The whole study on a tiny model: it goes on after a kill, and its page says what it found."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from saekit.core.errors import ConfigError, DataError, FormatError
from saekit.evals.compare import CompareSettings
from saekit.evals.core import Core
from saekit.models.tiny import save_tiny, tiny
from saekit.report.pages import base as pages
from saekit.studies.corpus.generate import Generation
from saekit.studies.corpus.measure import Measurement
from saekit.studies.faithful.evals.fake_features import FakeFeatures
from saekit.studies.faithful.evals.probing import Probing
from saekit.studies.faithful.evals.seed_stability import SeedStability
from saekit.studies.faithful.study import Faithful, run
from tests.world import text_file

pytest.importorskip("sklearn")


def small(folder, **changes):
    config = Faithful(
        texts=("generated", str(text_file(folder))),
        seeds=(0, 1, 2),
        tokens=1500,
        site="L1.resid_post",
        d_sae=64,
        k=4,
        training=("n_ctx=32", "batch_tokens=128", "buffer_tokens=512", "lr=0.01"),
        generation=Generation(length=48),
        measurement=Measurement(tokens=400, embedded_docs=8, embedded_tokens=16),
        losses=CompareSettings(core=Core(n_tokens=256, ce_tokens=128), metrics=("fvu", "ce_rise")),
        stability=SeedStability(n_tokens=256, n_effects=2, subspace_rank=4),
        fakes=FakeFeatures(n_seqs=24, n_draws=50),
        probing=Probing(
            tasks=("code_or_prose",), n_train=60, n_test=60, sparse=(2,), folds=2, n_draws=50
        ),
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faithful")
    found = run(tiny(), small(folder), out=folder / "study", shown=False)
    return folder, found


def test_every_score_has_a_verdict_and_the_words_say_how_many(done):
    folder, found = done
    scores = found.verdicts.columns["score"]
    assert "shared feature ratio" in scores and "probing code_or_prose" in scores
    assert any("fake" in score for score in scores)
    assert {"FVU on generated", "FVU on text", "CE rise on text"} <= set(scores)
    assert f"of {len(scores)} scores" in str(found) or "better on none" in str(found)
    made = json.loads((folder / "study" / "faithful.json").read_text())
    assert made["saes"]["generated"] == [f"saes/generated/seed{s}" for s in (0, 1, 2)]
    cells = {
        (a, b)
        for a, b in zip(
            made["cross_data"]["trained_on"], made["cross_data"]["measured_on"], strict=True
        )
    }
    assert cells == {(a, b) for a in ("generated", "text") for b in ("generated", "text")}


def test_its_page_is_found_and_shows_the_verdicts(done):
    folder, _ = done
    assert pages.kind_of(folder / "study") == "faithful"
    kinds = [b["kind"] for b in pages.payload("faithful", folder / "study")["blocks"]]
    assert kinds.count("table") == 5


def test_another_call_does_nothing_again_and_other_settings_are_refused(done):
    folder, found = done
    before = {p: p.stat().st_mtime_ns for p in (folder / "study").rglob("seed*/sae/*")}
    again = run(tiny(), small(folder), out=folder / "study", shown=False)
    assert again.verdicts == found.verdicts
    assert {p: p.stat().st_mtime_ns for p in (folder / "study").rglob("seed*/sae/*")} == before
    with pytest.raises(ConfigError, match="another tokens"):
        run(tiny(), small(folder, tokens=1400), out=folder / "study")
    with pytest.raises(ConfigError, match="two texts or more"):
        small(folder, texts=("generated",))


@pytest.mark.parametrize("name", ["..", ".", "", "a|b.jsonl", "x" * 101])
def test_a_text_whose_name_is_no_folder_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="Rename the file"):
        Faithful(texts=("generated", name))


def test_nothing_is_begun_in_a_folder_of_others_or_with_a_text_that_is_not_there(tmp_path):
    out = tmp_path / "used"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="in use"):
        run(tiny(), small(tmp_path), out=out, shown=False)
    missing = ("generated", str(tmp_path / "no.jsonl"))
    with pytest.raises(DataError):
        run(tiny(), small(tmp_path, texts=missing), out=tmp_path / "new", shown=False)
    assert not (tmp_path / "new").exists() and [p.name for p in out.iterdir()] == ["mine.txt"]
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "study.json").write_text('{"faithful": []}')
    with pytest.raises(FormatError, match="not of a study"):
        run(tiny(), small(tmp_path), out=tmp_path / "odd", shown=False)


@pytest.mark.slow
def test_a_study_killed_at_ten_moments_ends_with_the_same_tables(done, tmp_path):
    folder, found = done
    save_tiny(tmp_path / "tiny")
    config = small(folder).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = (
        "import json, sys; from saekit.models.hf import load;"
        "from saekit.studies.faithful.study import Faithful, run;"
        "cfg = Faithful.from_dict(json.load(open(sys.argv[1])));"
        "run(load(sys.argv[2], dtype='float32'), cfg, out=sys.argv[3], shown=False)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "config.json"), str(tmp_path / "tiny")]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    began = time.monotonic()
    subprocess.run([*words, str(whole)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    seconds = time.monotonic() - began
    for i in range(10):
        job = subprocess.Popen([*words, str(cut)], env=os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            job.wait(seconds * (0.35 + 0.06 * i))
            break
        except subprocess.TimeoutExpired:
            job.send_signal(signal.SIGKILL)
            job.wait()
    subprocess.run([*words, str(cut)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    for name in ("verdicts.csv", "cross_data.csv", "text/measures/measures.csv"):
        assert (cut / name).read_text() == (whole / name).read_text(), name
    assert found.verdicts.columns["score"]
