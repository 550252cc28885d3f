"""What was made is made again: which words, which environment, which numbers."""

import json
import os
import shutil
from pathlib import Path

import pytest

from saekit.cli.main import main
from saekit.core import provenance
from saekit.core.errors import ConfigError, FormatError, ResourceError
from saekit.core.files import read_json, write_json
from saekit.report.origin import origin_of
from saekit.report.reproduction import environment as env
from saekit.report.reproduction.numbers import compared, judged
from saekit.report.reproduction.rerun import plan_of, reproduce
from saekit.report.reproduction.words import again, named, without
from saekit.training.loop import train
from tests import world


@pytest.mark.parametrize(
    ("then", "now", "verdict", "off"),
    [
        ([1.0, 100.0], [1.0, 100.0], "same", 0.0),
        ([1.0, 100.0], [1.05, 100.0], "within rounding", 0.0005),
        ([1.0, 100.0], [1.2, 100.0], "differs", 0.002),
        ([0.0], [1e-9], "differs", 1.0),
        ([None], [0.0], "differs", None),
        ([1.0], [1.0, 2.0], "differs", None),
        (["a"], ["b"], "differs", None),
        (["m"], ["/there/m"], "same", 0.0),
        ([True], [1], "differs", None),
        ([float("inf")], [1.0], "differs", None),
    ],
)
def test_a_quantity_is_same_within_rounding_or_differs(then, now, verdict, off):
    found = judged("f", "q", then, now, 1e-3)
    assert found.verdict == verdict and (off is None or found.off == pytest.approx(off))


def test_files_are_compared_but_for_times_and_places(tmp_path):
    for name, value, seconds in (("a", 1.0, 3), ("b", 1.5, 9)):
        write_json(tmp_path / name / "x.json", {"v": [2.0, value], "seconds": seconds, "n": None})
    (tmp_path / "a" / "only.csv").write_text("c\n1\n")
    found = compared(tmp_path / "a", tmp_path / "b", 0.0)
    assert {(q.name, q.verdict) for q in found.quantities} == {("v[]", "differs"), ("n", "same")}
    assert found.only_then == ["only.csv"] and found.only_now == []


def test_words_lose_what_would_be_written_elsewhere():
    words = ["compare", "a", "--out", "x", "--figure=y.svg", "--quiet", "b", "--tokens", "2k"]
    assert without(words, ("--out", "--figure")) == [
        "compare",
        "a",
        "--quiet",
        "b",
        "--tokens",
        "2k",
    ]
    assert named(words) == ["compare", "a", "b"]


def made_by(place, command, **more):
    record = {"kind": "comparison", "provenance": {"saekit": "0.2.0", "command": command} | more}
    write_json(place / "comparison.json", record)
    return place


def test_a_command_is_run_where_it_ran_with_another_out(tmp_path):
    told = ["saekit", "--use", "own.py", "compare", "a", "b", "--out", "here", "--figure", "f.svg"]
    origin = origin_of(made_by(tmp_path / "here", told, folder=str(tmp_path)))
    found = again(origin, tmp_path / "new")
    assert found.words == ["compare", "a", "b", "--out", str(tmp_path / "new" / "made")]
    assert found.cwd == tmp_path and found.part.parts == ()


def test_of_a_study_the_part_that_was_named_is_compared(tmp_path):
    told = ["saekit", "faithful", "run", "--out", "st"]
    place = made_by(tmp_path / "st" / "losses" / "x", told, folder=str(tmp_path))
    assert again(origin_of(place), tmp_path / "new").part.parts == ("losses", "x")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["ipykernel_launcher.py", "-f"], "`command`.*made from Python"),
        (None, "`command`.*missing"),
        (["saekit", "push", "it", "--to", "owner/name"], "saekit push"),
        (["saekit", "sensitivity", "run", "x", "--resume", "y"], "--resume"),
    ],
)
def test_what_cannot_be_run_again_says_which_field(command, said, tmp_path):
    with pytest.raises(FormatError, match=said):
        plan_of(made_by(tmp_path, command))
    assert plan_of(tmp_path, check=True).command is None


def test_a_file_without_provenance_or_none_at_all_is_refused(tmp_path):
    write_json(tmp_path / "x.json", {"fvu": 1})
    for path in (tmp_path, tmp_path / "x.json"):
        with pytest.raises(FormatError, match="provenance"):
            origin_of(path)
    with pytest.raises(FormatError, match="no file"):
        origin_of(tmp_path / "y")


def test_the_same_bits_are_promised_where_all_that_decides_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_commit", lambda: "abc")
    made = provenance.collect()
    monkeypatch.setenv("OMP_NUM_THREADS", str(made["machine"]["threads"]))
    made["machine"]["cores"] = 10_000
    made["machine"]["gpu"] = None
    place = tmp_path / "manifest.json"
    for change, exact in (
        ({}, True),
        ({"commit": "abc+changes"}, False),
        ({"libraries": made["libraries"] | {"torch": "0"}}, False),
        ({"machine": made["machine"] | {"processor": "another"}}, False),
        ({"machine": {}}, False),
    ):
        write_json(place, {"provenance": made | change})
        assert env.exact(env.environment(origin_of(place))) is exact, change
    assert plan_of(place, check=True).tolerance == 1e-3


def test_a_command_line_of_saekit_is_recorded_as_it_was_typed(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "saekit.terminal.output.typer.echo", lambda *_: seen.append(provenance.collect())
    )
    with pytest.raises(SystemExit):
        main(["list", "saes", "--json"])
    assert seen[0]["command"] == ["saekit", "list", "saes", "--json"]
    assert provenance.collect()["command"][0] != "saekit"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert provenance.collect()["folder"] == "~"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the tiny model, whose folder a command can load, and what it is made from."""
    from saekit.models.hf import load
    from saekit.models.tiny import save_tiny

    base = tmp_path_factory.mktemp("made")
    save_tiny(base / "llama", "llama")
    run = world.run(base, model=str(base / "llama"), tokens=2000)
    train(run, load(str(base / "llama"), dtype="float32"), base / "run", shown=False)
    return base / "run"


def in_this_process(command, environ, said):
    here = Path.cwd()
    os.chdir(command.cwd)
    try:
        with pytest.raises(SystemExit) as ended:
            main(command.words)
    finally:
        os.chdir(here)
    return ended.value.code or 0


def test_a_run_is_trained_again_bit_for_bit_and_a_changed_number_is_found(trained, tmp_path):
    found = reproduce(trained, out=tmp_path / "a", run=in_this_process)
    assert found.same and not found.counts["within rounding"], str(found)
    weights = [q for q in found.compared.quantities if q.file == "sae/weights.safetensors"]
    assert weights and {q.verdict for q in weights} == {"same"}
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    manifest = read_json(copy / "manifest.json")
    manifest["harvest"]["kept"] += 500
    write_json(copy / "manifest.json", manifest)
    found = reproduce(copy, out=tmp_path / "b", run=in_this_process)
    assert not found.same and found.counts["differs"] == 1
    assert "harvest.kept" in str(found) and "1 differs" in str(found)
    assert json.loads((tmp_path / "b" / "reproduction.json").read_text())["same"] is False


def test_a_result_made_from_python_is_measured_again_by_its_settings(trained, tmp_path):
    from saekit.evals.evaluate import evaluate

    result = evaluate(trained, n_tokens=1024, ce_tokens=256, n_blocks=4, shown=False)
    result.write(trained / "eval" / "core.json")
    plan = plan_of(trained / "eval" / "core.json", out=tmp_path / "new")
    assert plan.command is not None
    assert plan.command.words[:4] == ["eval", str(trained), "--eval", "core"]
    assert "n_tokens=1024" in plan.command.words and not (tmp_path / "new").exists()
    found = reproduce(trained / "eval" / "core.json", out=tmp_path / "new", run=in_this_process)
    assert found.same, str(found)
    result.write(tmp_path / "away.json")
    with pytest.raises(FormatError, match="`eval` of its SAE"):
        plan_of(tmp_path / "away.json")


def test_an_index_is_made_again_for_the_run_that_it_lies_in(trained, tmp_path):
    record = {
        "settings": {"tokens": 700},
        "split": "train",
        "provenance": {"saekit": "0.2.0", "command": ["saekit", "demo", "--quiet"]},
    }
    write_json(trained / "index" / "index.json", record)
    found = plan_of(trained / "index", out=tmp_path / "new").command
    assert found is not None and found.words == [
        "index",
        str(trained),
        "--tokens",
        "700",
        "--split",
        "train",
        "--out",
        str(tmp_path / "new" / "made"),
        "--quiet",
    ]
    write_json(tmp_path / "alone" / "index.json", record)
    with pytest.raises(FormatError, match="SAE next to it"):
        plan_of(tmp_path / "alone")


def test_what_goes_wrong_is_said_and_nothing_is_written_over(trained, tmp_path):
    with pytest.raises(ResourceError, match="exit code 1"):
        reproduce(trained, out=tmp_path / "a", run=lambda *_: 1)
    with pytest.raises(ConfigError, match="not empty"):
        reproduce(trained, out=tmp_path / "a", run=lambda *_: 1)
    with pytest.raises(ConfigError, match="at least 0"):
        reproduce(trained, out=tmp_path / "b", tolerance=-1)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "odd",
    [
        {"parts": [1]},
        {"command": ["saekit", "truth", "push", "x"]},
        {"command": ["saekit", "eval", "--", "x", "--out", "y"]},
    ],
)
def test_a_manifest_that_somebody_edited_is_refused_and_sends_nothing(odd, tmp_path):
    place = made_by(tmp_path, ["saekit", "compare", "a", "b"], **{"parts": {}})
    record = read_json(place / "comparison.json")
    write_json(place / "comparison.json", record | {"provenance": record["provenance"] | odd})
    with pytest.raises(FormatError, match="comparison.json"):
        plan_of(place)
