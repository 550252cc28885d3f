"""Results out as SAEBench's files, and published ones listed next to a run's own."""

import csv
import json
from pathlib import Path

from tests.cli.test_cli import call
from tests.evals.test_saebench import PUBLISHED, laid, result


def a_run(folder, fvu=0.25):
    core = result("core", {"fvu": fvu, "l0": 32.0, "ce_recovered_zero": None})
    (folder / "eval").mkdir(parents=True)
    core.write(folder / "eval" / "core.json")
    result("by_layer", {"x": 1.0}).write(folder / "eval" / "by_layer.json")
    return folder


def test_results_of_runs_are_written_and_what_has_no_counterpart_is_named(tmp_path, capsys):
    run, out = a_run(tmp_path / "mine"), tmp_path / "out"
    code, line, err = call(capsys, "export", "saebench", run, "--out", out, "--json")
    assert code == 0, err
    said = json.loads(line)
    (path,) = said["results"]
    assert path == str(out / "core_corrected" / "mine_custom_sae_eval_results.json")
    assert "nothing like it" in said["left_out"][str(run / "eval" / "by_layer.json")]
    metrics = json.loads((out / "core_corrected" / "mine_custom_sae_eval_results.json").read_text())
    assert metrics["eval_result_metrics"]["reconstruction_quality"] == {"explained_variance": 0.75}


def test_a_run_without_results_says_how_to_make_one(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    code, _, err = call(capsys, "export", "saebench", tmp_path / "none", "--out", tmp_path / "out")
    assert code == 2 and f"saekit eval {tmp_path / 'none'}" in err


def test_published_scores_are_listed_next_to_those_of_a_run(tmp_path, capsys):
    run, files = a_run(tmp_path / "mine"), tmp_path / "results"
    (run / "eval" / "verify.json").write_text("{}")  # of `saekit verify`: no result
    files.mkdir()
    laid(files, PUBLISHED)
    laid(files, PUBLISHED | {"sae_lens_release_id": "other"}, "c_eval_results.json")
    words = ["published", "gemma", "--scores", files, "--run", run, "--out", tmp_path / "t.csv"]
    code, line, err = call(capsys, *words, "--json")
    assert code == 0, err
    rows = {row["sae"]: row for row in json.loads(line)["scores"]}
    theirs = next(row for name, row in rows.items() if "gemma" in name)
    assert len(rows) == 2 and theirs["saebench_core/l0"] == 71 and theirs["core/l0"] is None
    assert rows[str(run)]["core/l0"] == 32 and rows[str(run)]["saebench_core/l0"] is None
    with (tmp_path / "t.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    assert call(capsys, *words)[0] == 0
    assert call(capsys, "export", "saebench", run, "--out", files)[0] == 0
    code, line, err = call(capsys, "published", "--scores", files, "--scores", files, "--json")
    assert code == 0, err
    names = [row["sae"] for row in json.loads(line)["scores"]]
    assert len(names) == 6 and "mine" in names  # the same files twice are told apart
    code, _, err = call(capsys, "published", "--run", run)
    assert code == 2 and "--scores" in err


def test_runs_of_one_name_do_not_write_over_each_other(tmp_path, capsys):
    runs = [a_run(tmp_path / x / "mine", fvu) for x, fvu in (("a", 0.25), ("b", 0.5))]
    twice = tmp_path / "a" / ".." / "a" / "mine"
    code, line, _ = call(
        capsys, "export", "saebench", *runs, twice, "--out", tmp_path / "out", "--json"
    )
    assert code == 0
    files = map(Path, json.loads(line)["results"])
    kept = {file.name: json.loads(file.read_text())["eval_result_metrics"] for file in files}
    found = {name: fields["reconstruction_quality"] for name, fields in kept.items()}
    assert found == {
        "mine_custom_sae_eval_results.json": {"explained_variance": 0.75},
        "b_mine_custom_sae_eval_results.json": {"explained_variance": 0.5},
    }


def test_a_file_with_another_result_is_replaced_only_where_asked(tmp_path, capsys):
    out, words = tmp_path / "out", ["export", "saebench"]
    mine, other = a_run(tmp_path / "a" / "sae"), a_run(tmp_path / "b" / "sae", fvu=0.5)
    assert call(capsys, *words, mine, "--out", out)[0] == 0
    (path,) = out.glob("*/*.json")
    before = path.read_bytes()
    assert call(capsys, *words, mine, "--out", out)[0] == 0  # the same result again
    code, _, err = call(capsys, *words, other, "--out", out)
    assert code == 2 and "holds another result" in err and "--overwrite" in err
    assert path.read_bytes() == before
    assert call(capsys, *words, other, "--out", out, "--overwrite")[0] == 0
    assert path.read_bytes() != before
