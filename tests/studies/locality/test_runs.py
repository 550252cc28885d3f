"""Depth and context runs: what they write, what they report, and that a killed one goes on."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from saekit.cli.main import main
from saekit.core.config import override
from saekit.core.errors import ConfigError, DataError, FormatError
from saekit.core.result import Result
from saekit.data.corpora.files import Files
from saekit.models.sites import Site
from saekit.models.tiny import save_tiny, tiny
from saekit.studies.locality.influence.latent_gradient import Encoder
from saekit.studies.locality.runs import context_length, depth
from saekit.studies.locality.runs.context_length import ContextLength
from saekit.studies.locality.runs.depth import Depth
from saekit.studies.locality.runs.journal import Journal
from saekit.studies.locality.runs.measure import Measure
from saekit.studies.locality.runs.run_scores import site_scores
from saekit.studies.locality.runs.subjects import LoadedSAE, Subject
from saekit.studies.locality.windows import active_windows
from tests import world
from tests.studies.locality.world import AGAIN, QUIET, Mixing, sae_of, tokens_of

LOCAL = {"n_ctx": 16, "windows": 10}


def subjects(n, sae=sae_of):
    def opened():
        return LoadedSAE(sae("relu"))

    return [Subject(Site(i, "resid_post"), f"random {i}", opened) for i in range(n)]


def config(folder, **changes):
    how = Measure(**({"token_vector": "exact"} | changes.pop("measure", {})))
    corpus = Files(paths=(str(world.text_file(folder)),), validation_share=0.0)
    return Depth(corpus=corpus, measure=how, **(LOCAL | changes))


def files(out):
    names = ["depth.csv", "windows.csv", "latents.csv", "influences/L1.resid_post.npz"]
    return [(out / n).read_bytes() for n in names]


def test_planted_depth_comes_back_with_its_interval(tmp_path):
    lm = Mixing([[1.0], [1.0] * 4, [1.0] * 8])
    done = depth.run(lm, subjects(3), config(tmp_path), tmp_path / "out", options=QUIET)
    for i, bits in enumerate((0, 2, 3)):
        for name in (
            "entropy_bits_mean_over_windows",
            "entropy_bits_pooled",
            "token_vector_entropy_bits",
        ):
            score = done.result.scores[f"L{i}.resid_post/{name}"]
            assert score.value == pytest.approx(bits, abs=1e-5) and score.n == 10
            assert score.low <= score.value <= score.high
    table = Result.read(tmp_path / "out" / "result.json").details["by_site"]["columns"]
    assert table["layer"] == [0, 1, 2] and table["n_windows"] == [10] * 3
    rows = done.latents.columns
    assert len(rows["latent"]) == sum(table["n_pairs"])
    with np.load(tmp_path / "out" / "influences" / "L1.resid_post.npz") as kept:
        assert kept["J"].shape == (table["n_pairs"][1], 16) and kept["R"].shape == (10, 16)
        assert ((kept["J"] > 1e-9).sum(1) == 4).all()


def test_windows_with_few_active_latents_are_refused_and_counted(tmp_path):
    """Each site's own count at the last position, above the threshold, as the run itself has it."""
    lm, out = Mixing([[1.0], [1.0] * 4]), tmp_path / "out"
    how = {"token_vector": "none", "threshold": 0.05}

    def counts(run):
        rows = run.latents.columns
        sites = [(s, w) for s, w in zip(rows["site"], rows["window"], strict=True)]
        return {k: sites.count(k) for k in set(sites)}

    settings = config(tmp_path, measure=how, windows=3)
    free = depth.run(lm, subjects(2), settings, tmp_path / "free", options=QUIET)
    seen = counts(free)
    least = 1 + min(seen.get((f"L{i}.resid_post", w), 0) for i in range(2) for w in range(3))
    settings = config(tmp_path, measure=how, windows=3, min_active_latents=least)
    done = depth.run(lm, subjects(2), settings, out, options=QUIET)
    found = counts(done)
    assert not done.failures and len(found) == 6 and min(found.values()) >= least
    refused = done.result.details["refused"]
    late = sum(n for k, n in refused.items() if k.startswith(f"fewer than {least} active"))
    assert late > 0
    again = depth.run(lm, subjects(2), settings, out, options=AGAIN)
    assert again.result.details["tokens"] == done.result.details["tokens"]
    with pytest.raises(DataError, match="fewer than 65 active latents at L0"):
        depth.run(
            lm,
            subjects(1),
            config(tmp_path, min_active_latents=65),
            tmp_path / "none",
            options=QUIET,
        )
    with pytest.raises(ConfigError, match="min_active_latents"):
        config(tmp_path, min_active_latents=-1)


def test_what_cannot_be_counted_is_left_for_the_run_to_report(tmp_path):
    def broken():
        raise FormatError("the file is torn")

    lm = Mixing([[1.0], [1.0] * 4])
    tokens = tokens_of(4, 16)
    rare = next(i for i in range(258) if (tokens == i).any(1).sum() == 1)
    bad = (tokens == rare).any(1)
    some = [Subject(Site(1, "resid_post"), "broken", broken), *subjects(1)]
    check = active_windows.check(Mixing([[1.0]] * 2, rare), some, Measure(), 65)
    assert check is not None
    told = check(tokens)
    assert [reason is None for reason in told] == bad.tolist() and sum(bad.tolist()) == 1
    assert active_windows.check(lm, some, Measure(), 0) is None
    site = Site(0, "resid_post")
    on = Encoder(sae_of("relu")).active(lm.read(tokens, [site])[site][:, -1], 0.0)
    counts = torch.bincount(on.row, minlength=4)
    fewest = int(counts.min())
    for least, refused in ((fewest, [False] * 4), (fewest + 1, (counts == fewest).tolist())):
        bound = active_windows.check(lm, subjects(1), Measure(), least)
        assert bound is not None and [r is not None for r in bound(tokens)] == refused
    strict = active_windows.check(lm, subjects(1), Measure(threshold=1e9), 1)
    assert strict is not None
    assert strict(tokens) == ["fewer than 1 active latents at L0.resid_post"] * 4
    done = depth.run(
        lm, some, config(tmp_path, min_active_latents=1), tmp_path / "out", options=QUIET
    )
    assert [f[:2] for f in done.failures] == [("L1.resid_post", "all")]


def test_two_means_under_two_names(tmp_path):
    """Windows with unlike numbers of latents: the mean of means is not the mean of all."""
    found = {
        "window": np.array([0, 0, 0, 1]),
        "windows": np.array([0, 1]),
        "s.entropy_bits": np.array([1.0, 1.0, 1.0, 3.0]),
    }
    scores = site_scores(found)
    assert scores["entropy_bits_mean_over_windows"].value == 2
    assert scores["entropy_bits_pooled"].value == 1.5
    found["v.entropy_bits"] = np.array([2.0, 2.5])
    paired = site_scores(found)["entropy_less_token_vector_bits"]
    assert paired.value == -0.25 and paired.low is None
    assert paired.reason == "no interval: 2 windows, 8 are needed"


def test_nulls_stand_beside(tmp_path):
    lm = tiny(n_layers=2, d_model=16)
    how = {"nulls": ("random", "shuffled", "weights"), "token_vector": "none"}
    done = depth.run(
        lm, subjects(1), config(tmp_path, measure=how, windows=4), tmp_path / "out", options=QUIET
    )
    rows = done.latents.columns
    for name in ("random", "shuffled", "weights"):
        values = torch.tensor(rows[f"{name}_entropy_bits"])
        assert values.isfinite().all() and not torch.allclose(
            values, torch.tensor(rows["entropy_bits"]), atol=1e-3
        )


def test_what_fails_is_reported_and_tried_again(tmp_path):
    settings = config(tmp_path)
    good = Mixing([[1.0], [1.0] * 4])
    depth.run(good, subjects(2), settings, tmp_path / "whole", options=QUIET)
    tokens = torch.tensor(Result.read(tmp_path / "whole" / "result.json").details["tokens"])
    rare = next(i for i in range(258) if (tokens == i).any(1).sum() == 1)
    bad = int((tokens == rare).any(1).nonzero())
    done = depth.run(
        Mixing([[1.0], [1.0] * 4], rare), subjects(2), settings, tmp_path / "out", options=QUIET
    )
    assert [(f.site, f.unit) for f in done.failures] == [
        (f"L{i}.resid_post", f"window {bad}") for i in range(2)
    ]
    assert "not to be borne" in done.failures[0].reason
    assert done.result.details["by_site"]["columns"]["n_windows"] == [9, 9]
    again = depth.run(good, subjects(2), settings, tmp_path / "out", options=AGAIN)
    assert not again.failures and files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_layer_that_does_not_load_leaves_the_others(tmp_path):
    def broken():
        raise FormatError("the file is torn")

    some = [*subjects(1), Subject(Site(1, "resid_post"), "broken", broken)]
    lm = Mixing([[1.0], [1.0] * 4])
    done = depth.run(lm, some, config(tmp_path), tmp_path / "out", options=QUIET)
    assert [f[:2] for f in done.failures] == [("L1.resid_post", "all")]
    assert list(done.result.details["by_site"]["columns"]["site"]) == ["L0.resid_post"]


def test_a_run_stopped_anywhere_ends_equal(tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    lm, settings = Mixing([[1.0], [1.0] * 4]), config(tmp_path)
    depth.run(lm, subjects(2), settings, tmp_path / "whole", options=QUIET)
    real, calls = depth.measured, []

    def measured(*args):
        calls.append(1)
        if len(calls) == 4:
            raise Stop
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(depth, "measured", measured)
        with pytest.raises(Stop):
            depth.run(lm, subjects(2), settings, tmp_path / "cut", options=QUIET)
    assert len(list((tmp_path / "cut" / "journal").rglob("*.npz"))) == 3
    depth.run(lm, subjects(2), settings, tmp_path / "cut", options=AGAIN)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    with pytest.raises(ConfigError, match="--resume"):
        depth.run(lm, subjects(2), settings, tmp_path / "cut", options=QUIET)
    with pytest.raises(ConfigError, match="other settings"):
        depth.run(lm, subjects(1), settings, tmp_path / "cut", options=AGAIN)
    low = override(settings, ["measure.matmul=bfloat16"])
    with pytest.raises(ConfigError, match="other settings"):
        depth.run(lm, subjects(2), low, tmp_path / "cut", options=AGAIN)


def test_lengths_of_the_published_sweep():
    assert ContextLength().lengths() == [*range(8, 1929, 128), 2048]
    assert len(ContextLength().lengths()) == 17
    assert ContextLength(least=8, most=128, step=8).lengths() == list(range(8, 129, 8))
    with pytest.raises(ConfigError):
        ContextLength(least=9, most=8)


def test_a_sweep_reads_suffixes_of_one_window(tmp_path):
    lm = Mixing([[1.0] * 16])
    sweep = ContextLength(least=4, most=40, step=12, measure=Measure(token_vector="exact"))
    done = context_length.run(
        lm, subjects(1)[0], tokens_of(3, 40), sweep, tmp_path / "out", options=QUIET
    )
    assert sweep.lengths() == [4, 16, 28, 40]
    for length, bits in ((4, 2), (16, 4), (28, 4), (40, 4)):
        assert done.result.scores[f"{length}/entropy_bits_pooled"].value == pytest.approx(
            bits, abs=1e-5
        )
    rows = done.latents.columns
    last = {
        (w, a): x
        for n, w, a, x in zip(
            *(rows[k] for k in ("n_ctx", "window", "latent", "activation")), strict=True
        )
        if n >= 16
    }
    assert len(last) == sum(n == 40 for n in rows["n_ctx"])
    kept = done.result.details["active_at_every_length"]
    assert 0 < kept <= len(last)
    assert done.result.details["by_length"]["columns"]["n_kept"] == [kept] * 4


def test_a_prompt_is_cut_and_too_short_a_one_refused():
    lm, sweep = tiny(), ContextLength(least=4, most=10)
    text = "abcdefghijklmnop"
    assert (
        lm.tokenizer.decode(context_length.prompt_tokens(lm.tokenizer, text, sweep)[0].tolist())
        == text[-10:]
    )  # noqa: E501
    head = ContextLength(least=4, most=10, trim="head")
    assert (
        lm.tokenizer.decode(context_length.prompt_tokens(lm.tokenizer, text, head)[0].tolist())
        == text[:10]
    )  # noqa: E501
    with pytest.raises(DataError, match="longer prompt"):
        context_length.prompt_tokens(lm.tokenizer, "abc", sweep)


# the command line, on a model and an SAE in files


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a model, text, and one SAE of two layers."""
    base = tmp_path_factory.mktemp("with space")
    save_tiny(base / "lm", n_layers=2)
    text = world.text_file(base)
    words = [
        "train",
        "--model",
        base / "lm",
        "--site",
        "L0.resid_post",
        "--site",
        "L1.resid_post",
        "--fold",
        "--corpus",
        text,
        "--d-sae",
        "64",
        "--k",
        "4",
        "--tokens",
        "3000",
        "--set",
        "n_ctx=32",
        "--set",
        "batch_tokens=128",
        "--quiet",
        "--out",
        base / "run",
    ]
    assert call(*words)[0] == 0
    return base


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    return ended.value.code, None


def ask(base, out, *more):
    return [
        "locality",
        "depth",
        "--sae",
        base / "run",
        "--corpus",
        base / "text.jsonl",
        "--windows",
        "24",
        "--n-ctx",
        "24",
        "--no-figures",
        "--quiet",
        "--out",
        out,
        *more,
    ]


def test_commands_from_files_to_results(trained, capsys):
    out = trained / "depth"
    code, _ = call(*ask(trained, out, "--json", "--null", "random", "--min-active", "2"))
    assert Result.read(out / "result.json").config["min_active_latents"] == 2
    record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert code == 0 and record["failures"] == []
    assert record["scores"]["L1.resid_post/random_entropy_bits_pooled"] > 0
    words = [
        "locality",
        "context",
        "--sae",
        trained / "run",
        "--site",
        "L1.resid_post",
        "--corpus",
        trained / "text.jsonl",
        "--least",
        "8",
        "--most",
        "40",
        "--step",
        "16",
        "--no-figures",
        "--quiet",
        "--out",
        trained / "context",
    ]
    assert call(*words)[0] == 0
    prompt = trained / "prompt.txt"
    prompt.write_text("the cat sat on the mat and the dog ran " * 4, encoding="utf-8")
    words[6:8] = ["--prompt", prompt]
    words[-1] = trained / "prompted"
    assert call(*words)[0] == 0
    assert Result.read(trained / "prompted" / "result.json").details["text"]["sha256"]
    # both layers in one run, on the same text, each in a folder of its own
    words = [
        "locality",
        "context",
        trained / "run",
        "--prompt",
        prompt,
        "--n-ctx",
        "24",
        "--step",
        "16",
        "--no-figures",
        "--quiet",
        "--json",
        "--out",
        trained / "both",
    ]
    capsys.readouterr()
    assert call(*words)[0] == 0
    record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert len(record["results"]) == 2 and "L0.resid_post/8/entropy_bits_pooled" in record["scores"]
    texts = [
        Result.read(trained / "both" / f"L{i}.resid_post" / "result.json").details["tokens"]
        for i in (0, 1)
    ]
    assert texts[0] == texts[1]
    assert call(*words)[0] == 2 and call(*words, "--resume")[0] == 0
    assert (
        call(
            "locality",
            "release",
            trained / "both",
            "--out",
            trained / "data",
            "--preset",
            "pythia-70m",
            "--timestamp",
            "t",
        )[0]
        == 0
    )
    home = trained / "data" / "ctxlen_xmodel_fineweb" / "t"
    assert json.loads((home / "run_config.json").read_text())["runs"]["pythia-70m"]["layers"] == [
        0,
        1,
    ]
    assert len(list((home / "pythia-70m").glob("*.json"))) == 2
    assert call("locality", "presets", "--json")[0] == 0
    assert call("locality", "depth")[0] == 2
    assert call(*ask(trained, trained / "x", "--site", "L7.resid_post"))[0] == 2
    assert call("locality", "depth", "--preset", "pythia-70m")[0] == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["depth"], 2, "got neither"),
        (["depth", "--sae", "RUN", "--preset", "gpt2-small"], 2, "got both"),
        (["depth", "RUN", "--layers", "1,7"], 2, "reads layer 7; they read L0.resid_post"),
        (["depth", "RUN", "--sae-root", "RUN"], 2, "--sae-root goes with --preset"),
        (["depth", "RUN", "--documents", "-1"], 2, "`documents` must be at least 0"),
        (
            ["depth", "--preset", "gpt2-small", "--site", "L1.resid_post"],
            2,
            "goes with folders of SAEs",
        ),
        (["depth", "--sae", "RUN", "--site", "L7.resid_post"], 2, "they read L0.resid_post"),
        (["depth", "--sae", "RUN", "--threshold", "-1"], 2, "latents that are off"),
        (["depth", "--sae", "RUN", "--min-active", "-1"], 2, "at least 0; got -1"),
        (["depth", "--sae", "RUN", "--threshold", "nan"], 2, "latents that are off"),
        (["check", "--sae", "RUN", "--threshold", "-1"], 2, "latents that are off"),
        (["depth", "--sae", "RUN", "--n-ctx", "99999"], 2, "`n_ctx` must be at most"),
        (["check", "--sae", "RUN", "--n-ctx", "99999"], 2, "`n_ctx` must be at most"),
        (["context", "--sae", "RUN", "--site", "L0.resid_post", "--step", "0"], 2, "`step` must"),
        (["context", "--sae", "RUN", "--site", "L0.resid_post", "--most", "0"], 2, "`most` must"),
        (
            [
                "context",
                "--sae",
                "RUN",
                "--site",
                "L0.resid_post",
                "--prompt",
                "P",
                "--most",
                "16",
                "--windows",
                "2",
            ],
            2,
            "do not go with it",
        ),
        (
            [
                "context",
                "--sae",
                "RUN",
                "--site",
                "L0.resid_post",
                "--prompt",
                "RUN/sae/weights.safetensors",
                "--most",
                "16",
            ],
            1,
            "not text in UTF-8",
        ),
        (
            [
                "context",
                "--sae",
                "RUN",
                "--site",
                "L0.resid_post",
                "--prompt",
                "P/no",
                "--most",
                "16",
            ],
            1,
            "cannot be read as a prompt",
        ),
    ],
)
def test_refusals_are_plain(trained, capsys, words, code, said):
    words = [
        w.replace("RUN", str(trained / "run")).replace("P", str(trained / "prompt.txt"))
        if w.startswith(("RUN", "P"))
        else w
        for w in words
    ]
    got, _ = call("locality", *words, "--out", trained / "never")
    err = capsys.readouterr().err
    assert (got, said in err) == (code, True), err
    assert not (trained / "never").exists()


def test_a_failing_layer_ends_with_exit_code_3(trained, capsys, monkeypatch):
    from saekit.studies.locality.runs import depth as runs

    real = runs.measured

    def measured(kit, sae, site, tokens, first):
        if site.layer == 1:
            raise RuntimeError("no luck")
        return real(kit, sae, site, tokens, first)

    monkeypatch.setattr(runs, "measured", measured)
    code, _ = call(*ask(trained, trained / "failing", "--windows", "3"))
    assert code == 3 and "no luck" in capsys.readouterr().out
    details = Result.read(trained / "failing" / "result.json").details
    assert len(details["failures"]) == 3


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_equal(trained):
    """SIGKILL while it works; --resume; the same bytes as a run that nobody stopped."""
    words = [sys.executable, "-c", "from saekit.cli.main import main; main()"]
    words += map(str, ask(trained, trained / "killed", "--windows", "48"))
    process = subprocess.Popen(words)
    journal = trained / "killed" / "journal"
    until = time.monotonic() + 120
    while len(list(journal.rglob("*.npz"))) < 2 and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (trained / "killed" / "result.json").exists()
    assert call(*ask(trained, trained / "killed", "--windows", "48", "--resume"))[0] == 0
    assert call(*ask(trained, trained / "whole", "--windows", "48"))[0] == 0
    assert files(trained / "killed") == files(trained / "whole")


def test_a_damaged_file_of_the_journal_is_told_and_counts_as_not_there(tmp_path, capsys):
    journal = Journal(tmp_path / "run", {"a": 1}, resume=False)
    journal.put("L0/000000", {"x": np.arange(500.0)})
    path = next((tmp_path / "run").rglob("*.npz"))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:40] + b"\0" * 60 + whole[100:-90]):
        path.write_bytes(damaged)
        assert journal.get("L0/000000") is None
        assert f"{path} is damaged" in capsys.readouterr().err
    journal.put("L0/000000", {"x": np.arange(500.0)})
    assert path.read_bytes() == whole
