"""`saekit structure letters` reads what `saekit eval --eval absorption` wrote."""

import json

import pytest

from saekit.cli.main import main
from saekit.core.errors import ConfigError, UnknownNameError
from saekit.core.result import Result
from saekit.studies.structure.evals.absorption import Absorption
from saekit.studies.structure.reading import lines, told
from tests.evals.world import mirror, subject, tools


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    kept = {}
    words = tuple(letter * n for letter in "abc" for n in range(1, 16))
    how = Absorption(words=words, examples=1, test_share=0.5, min_f1=0.3, n_draws=20)
    found = how.run(
        subject(mirror()), tools()._replace(keep=lambda s, n, t: kept.__setitem__(n, t))
    )
    folder = tmp_path_factory.mktemp("run")
    found.write(folder / "eval" / "absorption.json")
    return folder, found, kept["absorption"]


def test_letters_that_are_not_measured_are_counted_with_their_reason(run):
    _, found, table = run
    measured, left_out = found.details["letters"], found.details["letters_left_out"]
    assert {*measured, *left_out} == set("abcdefghijklmnopqrstuvwxyz")
    assert left_out["z"] == "0 test words"
    assert found.scores["absorption_fraction"].n == len(measured)
    assert len(table) == 64 and table.columns["latent"] == list(range(64))
    for letter, one in measured.items():
        assert all(table.columns["letter"][latent] is not None for latent in one["main"]), letter
    assert any("million parameters" in note for note in found.provenance["notes"])
    assert any("of 20 or more" in note for note in found.provenance["notes"])


def test_the_command_prints_a_line_a_letter_and_the_words_of_one(run, capsys):
    folder, found, _ = run
    letter = next(iter(found.details["letters"]))
    with pytest.raises(SystemExit) as ended:
        main(["structure", "letters", str(folder), "--letter", letter, "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["letters"] == told(found, letter)
    shown = lines(found.details["letters"], words=False)
    assert len(shown) == 1 + len(found.details["letters"])
    assert lines({}, words=True) == ["No letter was measured."]


def test_it_says_why_there_is_nothing_to_show(run, tmp_path, capsys):
    _, found, _ = run
    with pytest.raises(SystemExit) as ended:
        main(["structure", "letters", str(tmp_path)])
    assert ended.value.code and "--eval absorption" in capsys.readouterr().err
    with pytest.raises(UnknownNameError, match="0 test words"):
        told(found, "z")
    with pytest.raises(ConfigError, match="--eval absorption"):
        told(Result(name="core", version=1, config={}, scores={}))
