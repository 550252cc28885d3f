"""The code of each tutorial runs, block after block, in one folder.

The quick form puts a tiny model in the place of the embedded one, one small text in that of every
corpus, and cuts numbers down: QUICK is all that is changed. `text` blocks are what is printed, or
need a key, and are not run; nor is `saekit serve`, which does not end.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import saekit
from saekit.cli.main import app
from saekit.models.tiny import save_tiny
from tests import world

pytest.importorskip("sklearn")
pytestmark = pytest.mark.slow  # nine lessons, two minutes of one core together

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
PAGES = ["../index", *sorted(path.stem for path in FOLDER.glob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.M | re.S)
# In every block, in this order. MODEL is the tiny model's folder and TEXT a file of 300 lines.
QUICK = (
    (r"smollm2-135m", "MODEL"),
    (r"--corpus \w+", "--corpus TEXT"),
    (r"\bown packaged\b", "own TEXT"),
    (r"\bL10\.", "L1."),
    (r"L0,15,29\.", "L0,1."),
    (r"--d-sae \d+", "--d-sae 64"),
    (r"(-k|k=|--k|k=)( ?)(\d+)\b", r"\1\g<2>4"),
    (r"--vary k=4,32", "--vary k=2,4"),
    (r"expansion=8", "expansion=2"),
    (r"--tokens \d+k?", "--tokens 3000"),
    (r"--ce-tokens \d+", "--ce-tokens 512"),
    (r"tokens=200_000", "tokens=3000, corpus='TEXT', n_ctx=32"),
    (r"tokens=8000", "tokens=2000"),
    (r"(saekit (?:train|sweep) )", r"\1--set n_ctx=32 --set lr=0.01 "),
    (r"(saekit (?:train|sweep) (?!.*--corpus))", r"\1--corpus TEXT "),
    (r"--windows \d+", "--windows 2 --n-ctx 16"),
    (r"--n-ctx 200 --step 64", "--n-ctx 24 --step 8"),
    (r"--latents \d+", "--latents 2 --set texts=2 --set rounds=1"),
    (r"n_features=256", "n_features=32"),
    (r"d_model=128", "d_model=16"),
    (r"firing.rate=0.03", "firing.rate=0.1"),
    (r" Paris\"", 'P"'),  # the tiny model's tokens are letters
    (r" Rome\"", 'R"'),
    (r"latent=162", "latent=10"),
    (r"steer demo 162", "steer demo 10"),
    (r"contexts\(162", "contexts(10"),
)
# Of one tutorial: what its commands take minutes to hours for at their defaults.
SMALL_STUDY = """--set site=L1.resid_post --text generated --text TEXT
--set 'training=["n_ctx=32", "batch_tokens=128", "buffer_tokens=512", "lr=0.01"]'
--set generation.length=48 --set measurement.tokens=400 --set measurement.embedded_docs=8
--set measurement.embedded_tokens=16 --set losses.core.n_tokens=256 --set losses.core.ce_tokens=128
--set stability.n_tokens=256 --set stability.n_effects=2 --set stability.subspace_rank=4
--set fakes.n_seqs=24 --set fakes.n_draws=50 --set 'probing.tasks=["code_or_prose"]'
--set probing.n_train=60 --set probing.n_test=60 --set 'probing.sparse=[2]' --set probing.folds=2
--set probing.n_draws=50""".replace("\n", " ")
STABILITY = {"n_tokens": 256, "n_effects": 2, "subspace_rank": 4}
MORE = {
    "truth": (
        (r"(truth calibrate)", r"\1 --tokens 2000 --eval-tokens 2000 --k 2 --k 3 --l1 1 --l1 2"),
    ),
    "sensitivity": (
        (r"(sensitivity (?:plan|run))", r"\1 --by-model MODEL --set floor_latents=1"),
        (
            r"(sensitivity (?:plan|run))",
            r"\1 --set examples.random=20 --set examples.least_count=5",
        ),
    ),
    "faithful": (
        (r"(faithful run)", rf"\1 {SMALL_STUDY}"),
        (r"tokens=100k", "tokens=1500"),
        (r"tokens=60k", "tokens=400 --set embedded_docs=8 --set embedded_tokens=16"),
        (r"length=256", "length=48"),
        (r"d_sae=1024", "d_sae=64"),
        (
            r"(--eval seed_stability)",
            r"\1 " + " ".join(f"--set {k}={v}" for k, v in STABILITY.items()),
        ),
        (r"(--eval fake_features)", r"\1 --set n_seqs=24 --set n_draws=50"),
        (r"\"seed_stability\"", f'"seed_stability", **{STABILITY}'),
    ),
}
ENDS = {0, 3}  # 3: done in part, as random models write few texts


def quick(page: str, code: str, model: Path, text: Path) -> str:
    for pattern, small in (*QUICK, *MORE.get(page, ())):
        code = re.sub(pattern, small, code)
    return code.replace("MODEL", str(model)).replace("TEXT", str(text))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The tiny model, its text, and the SAE that `make demo` would leave."""
    folder = tmp_path_factory.mktemp("tutorials")
    model, text = save_tiny(folder / "model"), world.text_file(folder)
    lm = saekit.load_model(str(model))
    sae = saekit.train(
        lm,
        site="L1.resid_post",
        sae=saekit.TopK(k=4, expansion=2),
        corpus=str(text),
        tokens=6000,
        n_ctx=32,
        lr=1e-2,
        out=folder / "demo",
        shown=False,
    )
    saekit.index(sae, lm, tokens=3000, shown=False)
    return folder


def run(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[1] == "serve":
        return
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code in ENDS, f"{line}\n{done.output}"


@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_runs_from_top_to_bottom(page, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "demo", "demo")
    names: dict[str, object] = {}
    blocks = BLOCK.findall((FOLDER / f"{page}.md").read_text(encoding="utf-8"))
    assert blocks
    for kind, code in blocks:
        code = quick(page, code.replace("\\\n", " "), made / "model", made / "text.jsonl")
        if kind == "python":
            exec(compile(code, page, "exec"), names)
            continue
        for line in filter(None, map(str.strip, code.splitlines())):
            assert line.startswith("saekit "), line
            run(line)
