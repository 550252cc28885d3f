"""`saekit verify`, `prompt`, `steer` and `attribute`, and how they refuse."""

import json

import pytest

from tests.cli.test_cli import call, folder, trained  # noqa: F401 - fixtures


def test_a_right_sae_fits_and_one_at_another_site_is_wrong(trained, capsys, tmp_path):  # noqa: F811
    small = ["--tokens", 640, "--ce-tokens", 128, "--quiet"]
    code, line, _ = call(capsys, "verify", trained, *small, "--json")
    record = json.loads(line)
    assert code == {"fits": 0, "doubt": 3, "wrong": 1}[record["status"]] and code != 1, record
    out = tmp_path / "v.json"
    code, line, _ = call(capsys, "verify", trained, *small, "--l0", 60, "--out", out)
    assert code == 1 and line.startswith("wrong")
    assert json.loads(out.read_text())["status"] == "wrong"


def test_a_text_shows_its_latents(trained, capsys):  # noqa: F811
    code, line, _ = call(capsys, "prompt", trained, "a cat", "--top", 2, "--json")
    tokens = json.loads(line)["tokens"]
    assert code == 0 and [t["text"] for t in tokens][-5:] == list("a cat")
    assert all(len(t["latents"]) <= 2 for t in tokens)


def test_strengths_stand_side_by_side(trained, capsys):  # noqa: F811
    words = ["steer", trained, 3, "--prompt", "cat", "--add", -5, "--add", 50, "-n", 4, "--json"]
    code, line, _ = call(capsys, *words)
    record = json.loads(line)
    assert code == 0 and [dose["add"] for dose in record["doses"]] == [-5.0, 50.0]


def test_a_logit_is_attributed(trained, capsys):  # noqa: F811
    code, line, _ = call(capsys, "attribute", trained, "a cat", "--of", "s", "--top", 3, "--json")
    record = json.loads(line)
    assert code == 0 and len(record["effects"]) == 3 and record["method"] == "gradient"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prompt", "a", "--top", 0], "at least 1"),
        (["steer", 3], "how far"),
        (["steer", 64, "--add", 1], "latents 0..63"),
        (["steer", 3, "--add", 1, "--seeds", 2], "temperature"),
        (["attribute", "a"], "--of"),
        (["attribute", "a", "--of", "xy"], "2 tokens"),
        (["attribute", "a", "--of", "x", "--method", "patching"], "gradient or integrated"),
        (["verify", "--tokens", 5], "at least 256"),
    ],
)
def test_wrong_words_get_one_sentence(trained, capsys, words, says):  # noqa: F811
    command, *rest = words
    code, _, err = call(capsys, command, trained, *rest)
    assert code in (1, 2) and says in err and "Traceback" not in err
