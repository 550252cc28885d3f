"""Every skeleton of docs/adding.md works, put as a file into a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
# A path in backticks that begins a paragraph, and the block that follows it.
FILES = dict(re.findall(r"^`([\w/]+\.py)`[^\n]*\n\n```python\n(.*?)```", PAGE, re.M | re.S))

USES = {
    "architecture": """
import torch
from saekit.saes.base import Step, registry
sae = registry.get("ridge").example().build(torch.Generator().manual_seed(0))
x = torch.randn(64, 8)
before = sae.loss(x, x, Step(0, 0.0, torch.zeros(16, dtype=torch.bool)))
rate = torch.optim.SGD(sae.parameters(), lr=0.5)
for i in range(20):
    rate.zero_grad()
    out = sae.loss(x, x, Step(i, i / 20, torch.zeros(16, dtype=torch.bool)))
    out.total.backward()
    rate.step()
    sae.after_step(out)
assert out.total < before.total
""",
    "fit": """
import torch
from saekit.training.fitted.base import Acts, registry
how = registry.get("farthest")(of=4)
x = torch.cat([torch.eye(3) * 9, torch.rand(9, 3)])
sae = how.fit(how.sae(3, None, None), Acts(lambda: iter(x.split(5)), 3, 12), 0).sae
assert torch.allclose(sae.directions().sort(0).values, torch.eye(3).sort(0).values)
""",
    "metric": """
import torch
from saekit.core.codes import Codes
from saekit.metrics.base import Batch, registry
metric = registry.get("overshoot")()
y = torch.ones(4, 2)
y_hat = torch.tensor([2.0, 0.5, 3.0, 0.1])[:, None] * y
codes = Codes.fixed(torch.ones(4, 1), torch.zeros(4, 1, dtype=torch.long), 3)
assert metric.compute(metric.sums(Batch(y, y_hat, codes))) == 0.5
""",
    "evaluation": """
import saekit
from saekit.data.corpora.files import Files
sae = saekit.train(LM, site="L1.resid_post", sae=saekit.TopK(k=4, expansion=2), tokens=2000,
                   corpus=TEXT, n_ctx=32, lr=1e-2, out="run", shown=False)
result = saekit.evaluate(sae, LM, "closeness", corpus=TEXT, n_rows=8, part=1.0, shown=False)
assert result.scores["closeness"].value > 0.9
""",
    "joint": """
import saekit
saes = [saekit.train(LM, site="L1.resid_post", sae=saekit.TopK(k=4, expansion=2), tokens=2000,
                     corpus=TEXT, n_ctx=32, seed=seed, out=f"seed{seed}", shown=False)
        for seed in (0, 1)]
result = saekit.evaluate(saes, LM, "overlap", corpus=TEXT, n=8, tables=True, shown=False)
assert 0 < result.scores["overlap"].value < 1 and result.details["saes"] == ["seed0", "seed1"]
from pathlib import Path
assert Path("seed0/analysis/overlap.csv").exists()
""",
    "analysis": """
import saekit
from saekit.analysis.base import registry
table = registry.get("loudness")().run(STORE)
assert table.columns["max"][int(STORE.maxima.argmax())] == float(STORE.maxima.max())
""",
    "columns": """
from saekit.analysis.columns.base import Made, registry
from saekit.models.sites import parse_site
made = Made(STORE, None, LM, parse_site("L1.resid_post"))
found = registry.get("peakedness")().run(made)["peakedness"]
assert len(found) == 16 and float(found[STORE.counts > 0].min()) >= 1
""",
    "corpus": """
from saekit.data.base import SPLITS, Corpus
corpus = Corpus.from_dict({"name": "counting", "n_docs": 50})
train, held, test = (list(corpus.documents(split)) for split in SPLITS)
assert len(train) + len(held) + len(test) == 50 and held and test
assert train[0].text.startswith("0 1 2")
""",
    "format": """
import torch
import saekit
from pathlib import Path
from saekit.hub.formats.base import FormatHints, make_card, registry
from saekit.saes.relu import ReLU
sae = ReLU(d_in=4, d_out=4, d_sae=6).build(torch.Generator().manual_seed(0))
sae.b_enc.data.normal_()
plain = registry.get("plain")()
Path("plain").mkdir()
plain.write(sae, make_card("plain", FormatHints()), Path("plain"))
again = saekit.load("plain")
x = torch.randn(5, 4)
assert torch.equal(again.encode(x).dense(), sae.encode(x).dense())
""",
    "family": """
from saekit.models import selfcheck
from saekit.models.hf import HFModel, new_module
from saekit.models.tiny import ByteTokenizer
settings = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                max_position_embeddings=64, vocab_size=258, pad_token_id=None)
lm = HFModel(new_module("olmo", settings), ByteTokenizer(), name="tiny-olmo", revision="0")
assert len(selfcheck.check(lm)["sites"]) > 6
""",
    "study": """
import json
import sys
from saekit.cli.main import app
from typer.testing import CliRunner
words = ["loudest", "find", str(STORE.folder), "--out", "bars.svg", "--json"]
done = CliRunner().invoke(app, words)
assert done.exit_code == 0, done.output
assert json.loads(done.output)["loudest"]["latent"][0] == int(STORE.maxima.abs().argmax())
from pathlib import Path
assert Path("bars.svg").exists() and Path("bars.csv").exists()
""",
    "generator": """
from saekit.generators.base import Request, registry
(reply,) = registry.get("parrot")(words=3).replies([Request(messages=(("user", "a b c d"),))])
assert reply.text == "b c d"
""",
    "scorer": """
from saekit.generators.base import Reply
from saekit.studies.explain.scorers.base import Judging, registry
from tests.studies.explain.made import case
from tests.studies.explain.oracle import Oracle
scorer = registry.get("strongest")(texts=2)
first, _ = scorer.questions(case(0, "z"), "letters z", Judging(Oracle()))
said = [scorer.read(first, Reply(text=word))[0].said for word in ("z", "o", "it is z")]
assert said == [1.0, 0.0, None]
""",
    "panel": """
from types import SimpleNamespace
from saekit.report.panels import base
index = SimpleNamespace(d_sae=16)
(block,) = base.payload("loudness", Path.cwd(), index, 3)["blocks"]
assert block["kind"] == "missing" and block["command"].startswith("saekit analyse loudness ")
from saekit.analysis.base import registry
table = registry.get("loudness")().run(STORE)
table.write_csv(Path("analysis/loudness.csv"))
(block,) = base.payload("loudness", Path.cwd(), index, 3)["blocks"]
assert block["facts"][1][1] == table.columns["max"][3]
""",
    "page": """
from saekit.report.pages import base
assert base.kind_of(Path("analysis")) == "loudness"
drawn, shown = base.payload("loudness", Path("analysis"))["blocks"]
assert sum(drawn["counts"]) == len(shown["rows"]) == 16
""",
}
# What the uses above stand on: a tiny model, its text, and a small index.
START = """
import torch
from pathlib import Path
import saekit
from saekit.activations.latents import LatentStoreWriter
from saekit.core.codes import Codes
from saekit.data.tokenise import Rows
from tests import world
assert saekit.__file__.startswith(str(Path.cwd())), saekit.__file__
LM, TEXT = world.model(), str(world.text_file(Path.cwd()))
values, latents = torch.rand(64, 16, generator=torch.Generator().manual_seed(5)).topk(3)
tokens = torch.arange(64).view(8, 8)
writer = LatentStoreWriter(Path("index"), n_ctx=8, d_sae=16, meta={}, shard_tokens=100)
place = torch.arange(8)
writer.add(Rows(tokens, tokens // 20, 0), place.repeat_interleave(8), place.repeat(8),
           Codes.fixed(values, latents, 16))
STORE = writer.close()
"""


def test_there_is_a_skeleton_of_each_kind():
    kinds = {path.split("/")[0] for path in FILES}
    assert kinds == {
        "saes",
        "training",
        "metrics",
        "evals",
        "analysis",
        "data",
        "hub",
        "models",
        "studies",
        "generators",
        "report",
    }
    assert len(FILES) == PAGE.count("```python")


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """A copy of the package with every skeleton in it."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src" / "saekit", folder / "saekit")  # with what is compiled already
    for path, code in FILES.items():
        file = folder / "saekit" / path
        assert not file.exists(), f"{path} is a real file"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, encoding="utf-8")
    return folder


def test_every_skeleton_works(copied):
    code = START + "".join(f"print({kind!r})\n{use}" for kind, use in USES.items())
    paths = os.pathsep.join((str(copied), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=copied,
        text=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": paths},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == list(USES)


@pytest.mark.slow
def test_skeletons_keep_the_contracts(copied):
    names = "ridge or overshoot or closeness or overlap or loudness or peakedness or counting"
    names += " or parrot or strongest or farthest"
    contracts = [str(ROOT / "tests" / "contracts"), "-k", names]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *contracts],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(copied)},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.rsplit(" passed", 1)[0].split()[-1]) > 40


def test_skeletons_pass_the_linter(copied):
    if shutil.which("ruff") is None and not (Path(sys.executable).parent / "ruff").exists():
        pytest.skip("ruff is not installed")
    ruff = shutil.which("ruff") or str(Path(sys.executable).parent / "ruff")
    files = [str(copied / "saekit" / path) for path in FILES]
    settings = ["--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run([ruff, "check", *settings, *files], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout
