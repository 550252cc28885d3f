"""`saekit demo`: the whole job on a model and a text that come with the package index."""

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core import machine
from saekit.core.errors import ConfigError
from saekit.core.result import score_lines
from saekit.terminal.common_options import AsJson, Device, Quiet
from saekit.terminal.output import emit

# Enough for pages and scores of a first look, and below five minutes on two cores in all.
INDEX_TOKENS = 100_000
RECORD = "demo.json"
WRITTEN = (
    "sae",
    "index",
    ".index.work",
    "eval",
    "checkpoints",
    "log.jsonl",
    "report.html",
    "manifest.json",
    RECORD,
    "run.json",
)

if TYPE_CHECKING:
    from saekit.models.base import LanguageModel
    from saekit.training.run import Run


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder to write to; a demo that is there is continued.")
    ] = Path("demo"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete an earlier demo in --out and begin again.")
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train, measure, index and report an SAE of SmolLM2-135M-Instruct, in minutes on two cores.

    If it was interrupted, the same command continues; stages that are done are not done again.

    Example: saekit demo
    """
    from saekit import recipes
    from saekit.core.lock import claimed

    run = recipes.get("demo")
    if fresh:
        _check_is_demo(out, run)
    go_on = f"Go on with: saekit demo --out {out}"
    with claimed(out, "saekit demo", go_on):
        if fresh:
            _throw_away(out)
        return _staged(run, out, device=device, quiet=quiet, as_json=as_json)


def _staged(run: "Run", out: Path, *, device: str, quiet: bool, as_json: bool) -> None:
    """Do the stages that are not done yet, in a folder that this process has claimed."""
    from saekit.activations.memo import Memo
    from saekit.core.files import read_json, write_json
    from saekit.core.result import Result
    from saekit.evals.core import Core
    from saekit.hub.native import load as load_sae
    from saekit.models.embedded.unpacking import MODELS
    from saekit.models.hf import load
    from saekit.report.page import write_report

    began = time.monotonic()
    earlier = out / RECORD
    before = read_json(earlier)["seconds"] if earlier.exists() else 0.0
    # The index reads text that training has read.
    lm = Memo().model(load(run.model, device=device))
    trained = worked = _train(run, lm, out, shown=not quiet)
    loaded = load_sae(out)
    if worked or not (out / "eval" / "core.json").exists():
        from saekit.evals.evaluate import measure

        measure(loaded, lm, Core(), seed=run.seed, shown=not quiet).write(out / "eval/core.json")
        worked = True
    if worked or not (out / "index" / "latents.parquet").exists():
        from saekit.analysis.indexing import make_index

        make_index(loaded, lm, out / "index", tokens=INDEX_TOKENS, fresh=trained, shown=not quiet)
        worked = True
    page = write_report(out, out / "report.html")
    result = Result.read(out / "eval" / "core.json")
    seconds = time.monotonic() - began if worked else before
    record = _record(result, out, page, seconds)
    write_json(earlier, record)
    lines = [
        f"SAE of {run.model} ({MODELS[run.model].about}), {run.pair.label}: {run.sae.d_sae} "
        f"latents, {run.tokens:,} tokens, {run.epochs} passes"
        + ("" if worked else " (done before; --fresh does it anew)"),
        *score_lines(result.scores),
        f"took     {seconds:.0f} s, {record['peak_rss_bytes'] / 1e9:.1f} GB",
        f"SAE      {out / 'sae'}",
        f"report   {page}",
        "next     your own model and text:",
        "         saekit train --model EleutherAI/pythia-70m-deduped --site L3.resid_post "
        "--corpus TEXT.jsonl",
        "explore  what its latents mean, in a browser:",
        f"         {_this_command()} serve {shlex.quote(str(out))}",
    ]
    emit(record, as_json=as_json, lines=lines)


def _this_command() -> str:
    """Return how a shell calls this program: by name where that is found, else by its path."""
    mine, found = Path(sys.argv[0]), shutil.which("saekit")
    if mine.name != "saekit" or (found is not None and Path(found).resolve() == mine.resolve()):
        return "saekit"
    here = Path.cwd()
    place = mine.resolve()
    return shlex.quote(str(place.relative_to(here) if place.is_relative_to(here) else place))


def _is_demo(out: Path, run: "Run") -> bool:
    """Return whether a folder holds a demo, whole or in part, of whatever version."""
    from saekit.core.errors import SaekitError
    from saekit.training import record
    from saekit.training.loop import RUN

    if (out / RECORD).exists():
        return True
    try:
        found = record.read(out / RUN).settings
    except SaekitError:
        return False
    # The demo's model, sites and text, however its other settings were at the time.
    mine, wanted = _without_shares(found), _without_shares(run.to_dict())
    return all(mine.get(key) == wanted[key] for key in ("model", "pair", "corpus"))


def _without_shares(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a run whose text is named without how it is split."""
    text, shares = settings.get("corpus"), ("test_share", "validation_share")
    if not isinstance(text, dict):
        return settings
    return settings | {"corpus": {k: v for k, v in text.items() if k not in shares}}


def _check_is_demo(out: Path, run: "Run") -> None:
    """Refuse to throw away what is not a demo.

    Raises:
        ConfigError: the folder holds something else.
    """
    from saekit.core.parts import is_empty

    if not is_empty(out) and not _is_demo(out, run):
        raise ConfigError(
            f"{out} holds something else than a demo, and --fresh deletes demos only. Choose "
            f"another --out."
        )


def _throw_away(out: Path) -> None:
    """Delete what a demo wrote; other files in its folder stay."""
    from saekit.core.parts import remove

    for name in WRITTEN:
        remove(out / name)


def _train(run: "Run", lm: "LanguageModel", out: Path, *, shown: bool) -> bool:
    """Train unless it is done; return whether anything was done."""
    from saekit.training import record
    from saekit.training.loop import RUN, train

    begun = (out / RUN).exists()
    if begun and record.completed(record.read(out / RUN).settings, type(run)) != run.to_dict():
        remedy = (
            "another --out, or replace it with --fresh" if _is_demo(out, run) else ("another --out")
        )
        raise ConfigError(f"{out} holds a run with other settings. Choose {remedy}.")
    if begun and record.is_done(out):
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
