"""`saekit eval`: how good an SAE is, on text it was not trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saekit.cli.sweep_folder import evaluate_all, is_sweep
from saekit.core.result import score_lines
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import SAEOptions, takes

if TYPE_CHECKING:
    from saekit.core.result import Result
    from saekit.hub.opening import OpenSAE


@takes(SAEOptions)
def evaluate(
    run: Annotated[
        Path, typer.Argument(help="A run's folder, one with an SAE, a published SAE, or a sweep.")
    ],
    name: Annotated[
        str, typer.Option("--eval", help="Which evaluation (see: saekit list evals).")
    ] = "core",
    corpus: Annotated[
        str | None, typer.Option(help="Other text; its held-out part is used. [the run's]")
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Which site, where the SAE is folded over several.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of it, as ce_tokens=4096.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Result file. [RUN/eval/NAME.json]")] = None,
    seed: Annotated[int, typer.Option(help="Of what an evaluation draws; core: nothing.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    *,
    sae: SAEOptions,
) -> None:
    """Measure an SAE on held-out text, or every SAE of a sweep.

    Example: saekit eval runs/mine
    """
    from saekit.core.config import override
    from saekit.core.lock import claimed_file
    from saekit.evals.base import registry
    from saekit.evals.evaluate import evaluate as measure
    from saekit.hub.names import results_folder

    config = override(registry.get(name)(), settings or [])

    def one(folder: Path, path: Path) -> "tuple[Result, OpenSAE]":
        opened = sae.open(folder, corpus=corpus, site=site)
        with claimed_file(path, "saekit eval", "Nothing was measured to its end."):
            result = measure(
                opened.loaded,
                opened.lm,
                config,
                corpus=opened.text,
                site=site,
                seed=seed,
                out=path,
                shown=not quiet,
            )
        return result, opened

    if is_sweep(run):
        evaluate_all(run, name, lambda r: one(r, r / "eval" / f"{name}.json")[0], out, as_json)
        return
    path = out or results_folder(run) / "eval" / f"{name}.json"
    result, opened = one(run, path)
    record = {k: s.value for k, s in result.scores.items()} | {"result": str(path)}
    record |= {"notes": opened.notes}
    lines = [*score_lines(result.scores), *note_lines(opened.notes), f"result   {path}"]
    lines.append(f"next     saekit index {run}{sae.typed(corpus=corpus, site=site)}")
    emit(record, as_json=as_json, lines=lines)
