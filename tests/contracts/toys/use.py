"""Use every toy variant: listed, from the command line, from Python; run in a process of its own.

It prints one line of JSON: what came of each. The package that it imports is a copy with the toys.
"""

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path

import saekit
from saekit.cli.main import main

base = Path(sys.argv[1])
TEXT, RUN = base / "text.jsonl", base / "run"
SMALL = {"n_ctx": 32, "batch_tokens": 128, "buffer_tokens": 512}
TRAIN = [
    "--site",
    "L1.resid_post",
    "--corpus",
    TEXT,
    "--d-sae",
    "64",
    "--tokens",
    "3000",
    "--quiet",
    "--dtype",
    "float32",
]
EVAL = {"n_tokens": 1024, "ce_tokens": 256, "n_blocks": 4}


def line(*words) -> dict:
    """Run a command and return the JSON it ends with."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            main([str(w) for w in words])
    except SystemExit as ended:
        assert not ended.code, out.getvalue()
    return json.loads(out.getvalue().strip().splitlines()[-1])


def sets(settings: dict) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def listed(kind: str, name: str) -> None:
    assert name in [entry["name"] for entry in line("list", kind, "--json")[kind]]


def model(kind: str = "llama") -> Path:
    from saekit.models.tiny import save_tiny

    return base / kind if (base / kind).exists() else save_tiny(base / kind, kind)


def train(out: Path, *more, of: str = "llama") -> Path:
    if not out.exists():
        line("train", "--model", model(of), *TRAIN, *sets(SMALL), "--out", out, "--json", *more)
    return out


def run() -> Path:
    return train(RUN, "--k", 4)


def architecture() -> None:
    listed("saes", "toy_sae")
    out = train(base / "toy", "--arch", "toy_sae", "--set", "sae.k=5")
    assert saekit.load(out).sae.cfg == saekit.ToySAE(d_in=32, d_out=32, d_sae=64, k=5)
    lm = saekit.load_model(str(model()))
    sae = saekit.train(
        lm,
        site="L1.resid_post",
        sae=saekit.ToySAE(k=4, expansion=2),
        corpus=TEXT,
        tokens=3000,
        out=base / "toy-python",
        shown=False,
        **SMALL,
    )
    assert sae.encode(lm.read("a cat", sae.site)).values.ne(0).any()


def fit() -> None:
    listed("fits", "toy_fit")
    out = base / "fitted"
    words = ["--model", model(), "--site", "L1.resid_post", "--corpus", TEXT, "--quiet", "--json"]
    made = line("fit", "toy_fit", *words, *sets({"times": 2, "n_ctx": 32}), "--out", out)
    assert made["fitted"]["times"] == 2 and saekit.load(out).d_sae == 64
    lm = saekit.load_model(str(model()))
    one = {"site": "L1.resid_post", "corpus": TEXT, "n_ctx": 32, "shown": False}
    sae = saekit.fit_dictionary(lm, "toy_fit", times=2, **one)
    assert (sae.directions == saekit.load(out).directions).all()


def metric() -> None:
    listed("metrics", "toy_metric")
    scores = line("eval", run(), *sets(EVAL), "--quiet", "--json")
    assert 0 < scores["toy_metric"] <= 4
    result = saekit.evaluate(run(), **EVAL, shown=False)
    assert result.scores["toy_metric"].value == scores["toy_metric"]


def evaluation() -> None:
    listed("evals", "toy_eval")
    words = ["--eval", "toy_eval", "--set", "n_rows=3", "--quiet", "--json"]
    value = line("eval", run(), *words)["toy_error"]
    result = saekit.evaluate(run(), eval="toy_eval", n_rows=3, shown=False)
    assert 0 < value < 1 and result.scores["toy_error"].value == value


def joint() -> None:
    listed("evals", "toy_joint")
    other = train(base / "other", "--k", 4, "--seed", 1)
    found = line("eval", run(), other, "--eval", "toy_joint", "--quiet", "--json")
    result = saekit.evaluate([run(), other], eval="toy_joint", shown=False)
    assert isinstance(result, saekit.Result)
    assert result.scores["toy_agreement"].value == found["toy_agreement"]
    assert result.details["names"] == ["run", "other"] and Path(found["result"]).exists()
    assert (other / "analysis" / "toy_joint.csv").exists()


def analysis() -> None:
    listed("analyses", "toy_analysis")
    line("index", run(), "--tokens", 600, "--quiet", "--json")
    found = line("analyse", "toy_analysis", run(), "--set", "unit=10", "--json")
    table = saekit.analyse(run(), "toy_analysis", unit=10)
    assert found["rows"] == len(table) == 64 and max(table.columns["units"]) > 1
    assert Path(found["table"]).exists()


def columns() -> None:
    listed("columns", "toy_columns")
    line("index", run(), "--tokens", 600, "--quiet", "--json")
    found = line("query", run(), 'toy_half>=10 and toy_kind="odd" limit 3', "--json")
    assert found["columns"]["latent"] == [21, 23, 25] and found["units"]["toy_half"] == "latents"
    index = saekit.Index(RUN / "index")
    assert index.columns["toy_half"].about == "Half of the latent's number."
    assert index.record(5)["values"]["toy_half"] == 2.5
    assert "toy_kind" in index.latents.columns


def layout() -> None:
    listed("formats", "toy_format")
    out = base / "converted"
    line("convert", run(), "--format", "toy_format", "--out", out, "--json")
    assert (out / "toy.json").exists()
    ours, again = saekit.load(run()).sae, saekit.load(out).sae
    assert all((w == again.state_dict()[n]).all() for n, w in ours.state_dict().items())


def family() -> None:
    listed("families", "toy_family")
    out = train(base / "run-family", "--k", 4, of="starcoder2")
    lm = saekit.load_model(str(model("starcoder2")))
    assert lm.family == saekit.load(out).card.model["family"] == "toy_family"
    assert lm.read("a cat", "L1.mlp_out").isfinite().all()


def study() -> None:
    listed("studies", "toy_study")
    from saekit.studies.toy_study import weigh

    assert line("toy_study", "weigh", run(), "--json")["bytes"] == weigh(run()) > 1000


def scorer() -> None:
    listed("scorers", "toy_scorer")
    from saekit.generators.base import registry as generators
    from saekit.studies.explain.scorers.base import Judging, registry
    from tests.studies.explain.made import case

    judge, toy = generators.get("toy_generator")(), registry.get("toy_scorer")(n=4)
    asked = toy.questions(case(0, "z"), "letters z", Judging(judge))
    replies = judge.replies([q.request for q in asked])
    said = [toy.read(q, r)[0].said for q, r in zip(asked, replies, strict=True)]
    assert said == [1.0] * 4


def generator() -> None:
    listed("generators", "toy_generator")
    from saekit.generators.asking import ask
    from saekit.generators.base import Request, registry
    from saekit.generators.journal import Journal

    by = registry.get("toy_generator")(word="no")
    found = ask(by, [Request(messages=(("user", "well?"),))], Journal(base / "toy.jsonl"))
    assert found.replies[0].text == "no"


def views():
    from saekit.explorer.labels import Labels
    from saekit.explorer.library import Library
    from saekit.explorer.views import Views

    return Views(Library(base), Labels(base / "labels.db"))


def panel() -> None:
    listed("panels", "toy_panel")
    line("index", run(), "--tokens", 600, "--quiet", "--json")
    seen = views()
    assert "toy_panel" not in seen.latent("run", 3)["panels"]
    (run() / "toy_panel.json").write_text(json.dumps({"toy": list(range(64))}))
    assert "toy_panel" in seen.latent("run", 3)["panels"]
    shown = seen.latent("run", 3)["panels"]["toy_panel"]
    assert shown["blocks"][0]["facts"] == [["toy", 3, {"unit": "u"}]]
    line("export", "site", run(), "--out", base / "site", "--quiet", "--json")
    assert '"toy_panel"' in (base / "site" / "data.js").read_text(encoding="utf-8")


def page() -> None:
    listed("pages", "toy_page")
    (base / "box").mkdir()
    (base / "box" / "toys.json").write_text('{"n": 7}')
    seen = views()
    assert ("box", "toy_page") in [(one["id"], one["kind"]) for one in seen.all()["studies"]]
    assert seen.study("box")["blocks"] == [{"kind": "facts", "facts": [["toys", 7]]}]


found = {}
uses = (
    architecture,
    fit,
    metric,
    evaluation,
    joint,
    analysis,
    columns,
    layout,
    family,
    study,
    scorer,
    generator,
    panel,
    page,
)
for use in uses:
    try:
        use()
        found[use.__name__] = ""
    except BaseException:
        found[use.__name__] = traceback.format_exc()
sys.stdout.write(json.dumps(found) + "\n")
