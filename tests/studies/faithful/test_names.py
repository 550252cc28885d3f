"""Names of published runs: all of them, both ways."""

import json
from pathlib import Path

import pytest

from saekit.core.errors import DataError
from saekit.studies.faithful.names import RunName, pair_key, parse_pair, same_model

RAW = json.loads((Path(__file__).parent / "published.json").read_text())
KEYS = sorted({*RAW["other_keys"], *(key for runs in RAW["downstream"].values() for key in runs)})
LLAMA = (
    "Llama-3.1-8B_blocks.24.hook_resid_pre_16384_topk_80_6e-05_42_faithful-llama3.1-8b_512_292967"
)


def test_every_published_key_parses_and_is_written_as_it_was():
    assert len(KEYS) == 29
    for key in KEYS:
        first, second = parse_pair(key)
        assert pair_key(first, second) == key
        assert (first.seed, second.seed) == (42, 49)


def test_what_a_name_says():
    run = RunName.parse(LLAMA)
    assert (run.model, run.site, run.lr, run.k) == ("Llama-3.1-8B", "L24.resid_pre", 6e-5, 80)
    assert run.last_step + 1 == 15 * 10**7 // 512 and str(run) == LLAMA
    assert same_model(run.written_by, run.model)
    by = {parse_pair(key)[0].data: parse_pair(key)[0].written_by for key in KEYS}
    assert by["pythia-2.8b_synthetic_180k"] == "pythia-2.8b"
    assert by["merged_uncensored_alpaca"] is None and by["fineweb"] is None
    assert same_model("gemma2-2b", "google/gemma-2-2b") and not same_model(
        "pythia1.4b", "pythia-14b"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "llama",
        LLAMA.replace("6e-05", "0.00006"),  # would be written otherwise
        LLAMA.replace("6e-05", "e-"),
        LLAMA.replace("_topk_80", "_topk"),
        f"{LLAMA}\n",
    ],
)
def test_what_is_no_name_is_refused(text):
    with pytest.raises(DataError):
        RunName.parse(text)


def test_a_pair_differs_in_the_seed_alone():
    other = LLAMA.replace("_42_", "_49_").replace("topk_80", "topk_64")
    for key in (LLAMA, f"{LLAMA}-{other}"):
        with pytest.raises(DataError):
            parse_pair(key)
