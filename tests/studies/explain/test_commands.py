"""`saekit explain` from a shell: run, score, rate, report, with their exit codes."""

import json

import pytest

import saekit
from saekit.cli.main import main
from saekit.models.tiny import save_tiny, tiny
from tests import world


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("explain")
    saekit.train(
        tiny(), run=world.run(base, tokens=3000, model=tiny().name), out=base / "run", shown=False
    )
    save_tiny(base / "judge")
    return base / "run"


def told(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["explain", *map(str, words), "--json"])
    out = capsys.readouterr()
    last = out.out.strip().splitlines()[-1] if out.out.strip() else ""
    return ended.value.code or 0, (json.loads(last) if last.startswith("{") else {}), out.err


BY = ("--by", "local", "--by-set", "chat=false")
ONLY = ("--scorer", "detection", "--quiet")


@pytest.fixture(scope="module")
def words(run):
    small = ["examples.least_count=3", "examples.random=20", "examples.around=4", "tests=4"]
    sets = [w for one in [*small, "steered=1", "steered_tokens=3"] for w in ("--set", one)]
    model = ("--model", run.parent / "judge")
    # It says "yes" to everything, which is a line of a word too.
    return ["run", run, *model, "--latents", 2, "--tokens", 2000, *sets, "--by", "scripted"]


def test_from_explaining_to_a_report(run, words, capsys):
    code, found, err = told(capsys, *words, *ONLY)
    assert code == 0, err
    assert set(found["explanations"].values()) == {"yes"}
    assert found["verdicts"] == {"usable": 2, "empty": 0, "refusal": 0, "too long": 0}
    # One word is no answer about several texts.
    assert found["scores"]["detection"] == 0.5 and found["scores"]["detection_invalid"] == 1.0
    columns = (run / "analysis/explain.csv").read_text().splitlines()
    assert columns[0] == "latent,explanation,detection" and len(columns) == 3
    folder = run / "explain"
    path = run.parent / "mine.json"
    latents = list(json.loads((folder / "cases.json").read_text())["cases"])
    path.write_text(json.dumps({latent: f"the word {latent}" for latent in latents}))
    judge = (*BY, "--by-model", run.parent / "judge")
    code, found, err = told(
        capsys, "score", folder, "--labels", path, "--name", "mine", *judge, *ONLY
    )
    assert code == 0, err
    assert found["scores"]["detection_invalid"] == 0.0  # it compares, so it always answers
    assert "detection_accuracy" in found["scores"]  # it has an AUROC as well
    code, found, err = told(capsys, "report", folder, "--name", "mine")
    assert code == 0 and "detection" in found["scores"]["mine"], err
    code, _, err = told(capsys, "report", folder, "--name", "nobody")
    assert code and "has no scores 'nobody'" in err


def test_a_limit_ends_it_with_4_and_another_run_goes_on(words, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "cache"))  # no reply of another run
    asked = (*words, "--out", tmp_path / "e", *ONLY)
    code, found, err = told(capsys, *asked, "--limit", "requests=1")
    assert code == 4 and found["stopped"] == "budget", err
    code, found, err = told(capsys, *asked)
    assert code == 0 and found["stopped"] == "", err


def test_wrong_words_are_told(run, words, capsys, tmp_path):
    code, _, err = told(capsys, *words, "--out", tmp_path / "a", "--scorer", "guess")
    assert code and "There is no scorer `guess`" in err
    code, _, err = told(capsys, *words, "--out", tmp_path / "b", "--scorer-set", "each=1")
    assert code and "SCORER.SETTING=VALUE" in err
    code, _, err = told(capsys, "rate", tmp_path, "--task", "dance")
    assert code and "--task is labels or texts" in err
    code, _, err = told(capsys, "score", tmp_path)
    assert code and "holds no explanations" in err


def test_the_keys_of_a_rater_are_read_from_the_terminal(capsys, monkeypatch, tmp_path):
    import click

    from saekit.core.files import write_json
    from saekit.studies.explain import study
    from tests.studies.explain.made import case

    cases = {str(i): case(i, s).record() for i, s in enumerate(("z", "q"))}
    labels = {
        str(i): {"tried": [{"text": f"letters {s}", "verdict": "usable"}], "tokens": ""}
        for i, s in enumerate(("z", "q"))
    }
    write_json(tmp_path / study.CASES, {"cases": cases, "left_out": {}})
    write_json(tmp_path / study.LABELS, labels)
    keys = iter("3312q")
    monkeypatch.setattr(click, "getchar", lambda: next(keys))
    out = tmp_path / "out.json"
    code, found, _ = told(capsys, "rate", tmp_path, "--by", "ana", "--export", out)
    assert code == 0 and found["rated"] == 4 and found["of"] == 6
    code, found, _ = told(capsys, "rate", tmp_path, "--by", "bo", "--import", out)
    assert code == 0 and found["rated"] == 4
    code, found, _ = told(capsys, "report", tmp_path)
    assert code == 0 and found["agreement"][0]["value"] == 1.0
    assert found["agreement"][0]["raters"] == ["ana", "bo"]
