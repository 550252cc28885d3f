"""A wrong argument of every locality command gets one plain sentence, before any work."""

import pytest

from saekit.cli.main import main

CASES = [
    (["depth", "--layers", "x", "NONE"], 2, "`--layers` reads 3,17,200-210; got 'x'"),
    (["depth", "--layers", "9-3", "NONE"], 2, "ranges upwards; got '9-3'"),
    (["depth", "--layers", "0-99999999999", "NONE"], 2, "numbers of 0..9999"),
    (["depth", "--site", "L0.resid_post", "--layers", "0", "NONE"], 2, "Give one of them"),
    (["depth", "NONE"], 1, "NONE"),
    (["depth", "--dataset", "wiki", "NONE"], 1, "NONE"),
    (["depth", "--preset", "gpt2", "--sae-root", "."], 2, "no preset `gpt2`"),
    (["depth", "--preset", "gpt2-small"], 2, "--sae-root"),
    (["context", "NONE", "--preset", "gpt2-small"], 2, "got both"),
    (["context"], 2, "got neither"),
    (["check", "NONE", "--method", "magic"], 1, "NONE"),
    (["events", "NONE", "--per", "page"], 2, "`--per` is document or row; got page"),
    (["events", "NONE", "--n-ctx", "0"], 2, "n_ctx"),
    (["events", "NONE", "--features", "NONE.yaml"], 1, "no file NONE.yaml"),
    (["events", "NONE", "--format", "xls"], 2, "csv or parquet"),
    (["autocorr", "NONE", "--lags", "0"], 2, "lags"),
    (["autocorr", "NONE", "--format", "xls"], 2, "csv or parquet"),
    (["sparsity", "NONE", "--pairs", "-1"], 2, "got -1 and 0"),
    (["geometry", "NONE", "--sae", "NONE", "--neighbours", "0"], 2, "must be at least 1; got 0"),
    (["geometry", "NONE", "--sae", "NONE", "--neuronpedia", "NONE"], 1, "no folder NONE"),
    (["neuronpedia", "NONE", "--model-id", "..", "--sae-id", "x"], 2, "a name of Neuronpedia"),
    (["neuronpedia", "NONE", "--model-id", "m", "--sae-id", "x"], 2, "holds no latent"),
    (["neuronpedia", "NONE", "--model-id", "m", "--sae-id", "x", "--browse", "-1"], 2, "--browse"),
    (["neuronpedia", "NONE", "--model-id", "m", "--sae-id", "x", "--latents", "3"], 2, "--online"),
    (["levels", "NONE", "--min-count", "0"], 2, "`min_count` must be at least 1; got 0"),
    (["levels", "NONE"], 1, "NONE"),
    (["draw-depth", "NONE"], 1, "no folder NONE"),
    (["draw-events", "NONE"], 1, "holds no ctx<N>.csv"),
    (["cards", "NONE", "--top", "0"], 2, "got 0 and 16"),
    (["table", "NONE", "--min-recall", "2"], 2, "`min_recall` must be from 0 to 1"),
    (["prompt", "--out", "p.txt", "--split", "half"], 2, "`--split` must be one of"),
    (["prompt", "--out", "p.txt", "--corpus", "nothing"], 2, "no corpus `nothing`"),
    (["release", "NONE", "--out", "data", "--preset", "x"], 1, "NONE is not a folder of saekit"),
    (["convert", "NONE", "--out", "out"], 1, "nothing at NONE"),
    (["dataset", "--presets", "a,a", "--out", "o"], 2, "each name once"),
    (["dataset", "--presets", "gpt2-small", "--out", "o"], 2, "gpt2-small=FOLDER"),
    (["dataset", "--presets", "mine=NONE", "--out", "o"], 2, "no folder NONE"),
    (["dataset", "--presets", "mine=.", "--out", "o"], 2, "no preset `mine`"),
    (["dataset", "--presets", "gpt2-small=.", "--data", "news", "--out", "o"], 2, "news=FILE"),
    (["dataset", "--presets", "gpt2-small=.", "--data", "gsm8k", "--out", "o"], 2, "gsm8k=FILE"),
    (["dataset", "--presets", "gpt2-small=.", "--parts", "all", "--out", "o"], 2, "`--parts` are"),
    (
        ["dataset", "--presets", "gpt2-small=.", "--parts", "geometry", "--out", "o"],
        2,
        "Geometry is of events",
    ),
    (["dataset", "--presets", "gpt2-small=.", "--model", "x", "--out", "o"], 2, "PRESET=MODEL"),
    (["dataset", "--presets", "gpt2-small=.", "--model", "b=x", "--out", "o"], 2, "names b"),
    (["dataset", "--presets", "gpt2-small=.", "--windows", "0", "--out", "o"], 2, "`--windows`"),
]


@pytest.mark.parametrize(
    ("words", "code", "said"), CASES, ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else ""
)
def test_a_wrong_argument_is_told_plainly(words, code, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["locality", *words])
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err, err
    assert ended.value.code == code, err
    assert not list(tmp_path.iterdir())  # nothing was made
