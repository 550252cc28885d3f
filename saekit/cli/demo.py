"""`saekit demo`: the whole job on a model and a text that come with the package index."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.cli.show import emit, score_lines
from saekit.core import machine
from saekit.core.errors import ConfigError

INDEX_TOKENS = 200_000

if TYPE_CHECKING:
    from saekit.models.base import LanguageModel
    from saekit.train.run import Run


def demo(
    out: Annotated[Path, typer.Option(help="Folder to make, or to go on with.")] = Path("demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away an earlier demo.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Train, measure, index and report an SAE of SmolLM2-135M-Instruct, in minutes on two cores.

    Stages that are done are not done again; a demo that was interrupted goes on.
    """
    from saekit import recipes
    from saekit.core.files import read_json, write_json
    from saekit.core.result import Result
    from saekit.evals.core import Core
    from saekit.hub.native import load as load_sae
    from saekit.models.embedded import MODELS
    from saekit.models.hf import load
    from saekit.report.page import write_report

    run = recipes.get("demo")
    if fresh and (out / "run.json").exists():
        shutil.rmtree(out)
    began = time.monotonic()
    earlier = out / "demo.json"
    before = read_json(earlier)["seconds"] if earlier.exists() else 0.0
    lm = load(run.model, device=device)
    worked = _train(run, lm, out, shown=not quiet)
    loaded = load_sae(out)
    if worked or not (out / "eval" / "core.json").exists():
        from saekit.cli.evaluate import measure

        measure(loaded, lm, Core(), seed=run.seed, shown=not quiet).write(out / "eval/core.json")
        worked = True
    if worked or not (out / "index" / "contexts.json").exists():
        from saekit.analysis.indexing import make_index

        make_index(loaded, lm, out / "index", tokens=INDEX_TOKENS, shown=not quiet)
        worked = True
    page = write_report(out, out / "report.html")
    result = Result.read(out / "eval" / "core.json")
    seconds = time.monotonic() - began if worked else before
    record = _record(result, out, page, seconds)
    write_json(earlier, record)
    lines = [
        f"SAE of {run.model} ({MODELS[run.model].about}), {run.pair.label}: {run.sae.d_sae} latents, {run.tokens:,} tokens, "
        f"{run.epochs} passes" + ("" if worked else " (done before; --fresh does it anew)"),
        *score_lines(result.scores),
        f"took     {seconds:.0f} s, {record['peak_rss_bytes'] / 1e9:.1f} GB",
        f"SAE      {out / 'sae'}",
        f"report   {page}",
        "next     open the report in a browser; then your own model:",
        "         saekit train --model EleutherAI/pythia-70m-deduped --site L3.resid_post "
        "--corpus TEXT.jsonl",
    ]
    emit(record, as_json=as_json, lines=lines)


def _train(run: "Run", lm: "LanguageModel", out: Path, *, shown: bool) -> bool:
    """Train unless it is done; return whether anything was done."""
    from saekit.core.files import read_json
    from saekit.train.loop import train

    begun = (out / "run.json").exists()
    if begun and read_json(out / "run.json") != run.to_dict():
        raise ConfigError(
            f"{out} holds a run with other settings. Choose another --out, or replace it "
            f"with --fresh."
        )
    if begun and read_json(out / "manifest.json").get("status") == "done":
        return False
    train(run, lm, out, resume=begun, shown=shown)
    return True


def _record(result: Any, out: Path, page: Path, seconds: float) -> dict[str, Any]:
    scores = {name: score.value for name, score in result.scores.items()}
    return {
        "fvu": scores["fvu"],
        "ce_rise_nats": scores["ce_rise"],
        "ce_recovered": scores["ce_recovered_mean"],
        "l0": scores["l0"],
        "dead": scores["dead"],
        "seconds": seconds,
        "peak_rss_bytes": machine.peak_memory(),
        "sae": str(out / "sae"),
        "report": str(page),
    }
