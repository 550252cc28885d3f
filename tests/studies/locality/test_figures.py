"""Figures of locality runs: drawn from a run's files, with the numbers they show beside."""

import csv
import shutil

import pytest

from saekit.cli.main import main
from saekit.core.errors import ConfigError, FormatError
from saekit.core.result import Result
from saekit.data.corpora.files import Files
from saekit.models.sites import Site
from saekit.studies.locality.figures import context_length as context_figure
from saekit.studies.locality.figures import entropy_depth, windows
from saekit.studies.locality.runs import context_length, depth
from saekit.studies.locality.runs.context_length import ContextLength
from saekit.studies.locality.runs.depth import Depth
from saekit.studies.locality.runs.measure import Measure
from saekit.studies.locality.runs.subjects import LoadedSAE, Subject
from tests import world
from tests.studies.locality.world import QUIET, Mixing, sae_of, tokens_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    corpus = Files(paths=(str(world.text_file(base)),), validation_share=0.0)
    lm = Mixing([[1.0], [1.0] * 4])
    saes = [Subject(Site(i, "resid_post"), "", lambda: LoadedSAE(sae_of("relu"))) for i in range(2)]
    settings = Depth(
        corpus=corpus, n_ctx=16, windows=8, measure=Measure(probes=8, nulls=("random",))
    )
    depth.run(lm, saes, settings, base / "depth", options=QUIET)
    sweep = ContextLength(least=4, most=20, step=8, measure=Measure(probes=8))
    context_length.run(lm, saes[1], tokens_of(8, 20), sweep, base / "context", options=QUIET)
    return base


def rows(path):
    with path.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", entropy_depth.KINDS)
def test_depth_draws_every_latent_and_line(runs, tmp_path, kind):
    pytest.importorskip("matplotlib")
    labels = {"one": runs / "depth", "two": runs / "depth"}
    path = entropy_depth.draw(labels, tmp_path / "depth.png", kind)
    assert path.stat().st_size > 10_000
    drawn = rows(path)
    assert {r["panel"] for r in drawn} == {"one", "two"}
    of_one = [r for r in drawn if r["panel"] == "one" and r["site"] == "L1.resid_post"]
    latents = [float(r["entropy_bits"]) for r in of_one if r["mark"] == "latent"]
    assert len(latents) > 10 and all(v == pytest.approx(2, abs=1e-5) for v in latents)
    (vector,) = [r for r in of_one if r["mark"] == "token vector"]
    assert float(vector["low"]) <= float(vector["entropy_bits"]) <= float(vector["high"])
    (mean,) = [r for r in of_one if r["mark"] == "mean over windows"]
    score = Result.read(runs / "depth/result.json").scores[
        "L1.resid_post/entropy_bits_mean_over_windows"
    ]
    assert [float(mean[k]) for k in ("entropy_bits", "low", "high")] == [
        score.value,
        score.low,
        score.high,
    ]
    assert int(mean["windows"]) == 8


def test_one_layer_alone_is_drawn_with_marks_that_are_seen(runs, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    panel = entropy_depth.read(runs / "depth", "one")
    _, axes = entropy_depth.style.new(3, 3)
    entropy_depth._panel(axes[0][0], panel._replace(layers=panel.layers[:1]), "violin")
    lines = {line.get_label(): line for line in axes[0][0].get_lines()}
    for label in ("token vector, 95 % interval", "random directions, 95 % interval"):
        assert len(lines[label].get_xdata()) == 1
        assert lines[label].get_marker() not in ("", "None", None), label


def test_nulls_are_drawn_with_their_intervals(runs):
    pytest.importorskip("matplotlib")
    panel = entropy_depth.read(runs / "depth", "one")
    known = [s.nulls["random"] for s in panel.layers]
    _, axes = entropy_depth.style.new(3, 3)
    entropy_depth._nulls_of(axes[0][0], panel)
    ((line,), (bars,)) = axes[0][0].get_lines(), axes[0][0].collections
    assert line.get_ydata().tolist() == [s.value for s in known]
    assert [seg[:, 1].tolist() for seg in bars.get_segments()] == [[s.low, s.high] for s in known]
    assert [seg[0, 0] for seg in bars.get_segments()] == line.get_xdata().tolist()


def test_a_latent_that_is_off_in_between_breaks_its_line(runs, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    run = shutil.copytree(runs / "context", tmp_path / "run")
    found = rows(run / "latents")
    gone = (found[0]["window"], found[0]["latent"])
    with (run / "latents.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, found[0])
        out.writeheader()
        out.writerows(
            r | {"activation": "1e9" if (r["window"], r["latent"]) == gone else "1"}
            for r in found
            if (r["window"], r["latent"], r["n_ctx"]) != (*gone, "12")
        )
    drawn = []
    monkeypatch.setattr(context_figure.style, "save", lambda f, *_: drawn.append(f))
    context_figure.draw(run, tmp_path / "c.png")
    name = f"latent {gone[1]}, window {gone[0]}"
    (line,) = [x for a in drawn[0].axes for x in a.get_lines() if x.get_label() == name]
    assert [v != v for v in line.get_ydata()] == [False, True, False]


def test_nulls_are_drawn_and_the_command_names_panels(runs, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    again = shutil.copytree(runs / "depth", tmp_path / "other" / "depth")
    words = ["locality", "draw-depth", runs / "depth", again, "--out", tmp_path / "two.png"]
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    assert ended.value.code == 0 and "two.png" in capsys.readouterr().out
    drawn = rows(tmp_path / "two.png")
    assert {r["panel"] for r in drawn} == {f"{runs.name}, depth", "other, depth"}
    null = [r for r in drawn if r["mark"] == "random directions"]
    assert len(null) == 4 and all(r["entropy_bits"] for r in null)
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in [*words[:2], runs / "depth", runs / "depth"]])
    assert ended.value.code == 2


def test_windows_draw_the_first_of_each_site(runs, tmp_path):
    pytest.importorskip("matplotlib")
    paths = windows.draw_all(runs / "depth", tmp_path, most=1)
    assert len(paths) == 2 and all(p.stat().st_size > 10_000 for p in paths)
    assert {r["curve"] for r in rows(paths[0])} >= {"token vector"}


def test_context_draws_means_and_latents(runs, tmp_path):
    pytest.importorskip("matplotlib")
    path = context_figure.draw(runs / "context", tmp_path / "context.png")
    drawn = rows(path)
    every = [r for r in drawn if r["mark"] == "all active latents"]
    assert [int(r["n_ctx"]) for r in every] == [4, 12, 20]
    assert all(float(r["entropy_bits"]) == pytest.approx(2, abs=1e-5) for r in every)
    assert sum(r["mark"].startswith("latent ") for r in drawn) > 10


def test_what_is_no_run_is_refused(runs, tmp_path):
    with pytest.raises(FormatError, match="locality depth"):
        entropy_depth.draw({"x": runs / "context"}, tmp_path / "x.png")
    with pytest.raises(FormatError, match="locality context"):
        context_figure.draw(runs / "depth", tmp_path / "x.png")
    with pytest.raises(ConfigError, match="violin"):
        entropy_depth.draw({"x": runs / "depth"}, tmp_path / "x.png", "pie")
    with pytest.raises(ConfigError):
        entropy_depth.draw({}, tmp_path / "x.png")
