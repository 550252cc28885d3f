"""`saekit verify`: is an SAE the right one, at the right site of the right model, loaded right?"""

from pathlib import Path
from typing import Annotated

import typer

from saekit.terminal.common_options import AsJson, OneSite, Quiet
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import SAEOptions, takes


@takes(SAEOptions)
def verify(
    run: Annotated[
        str, typer.Argument(help="Folder of a run or an SAE, or a published SAE's name.")
    ],
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Text to measure on, named as for saekit train --corpus. [the one it was trained "
            "on, or the packaged one]"
        ),
    ] = None,
    site: OneSite = None,
    tokens: Annotated[
        int, typer.Option(help="Tokens to measure the SAE on, for each way of using it.")
    ] = 2048,
    ce_tokens: Annotated[
        int,
        typer.Option(
            help="Tokens that pass through the whole model; 0 leaves out cross-entropy and KL."
        ),
    ] = 1024,
    l0: Annotated[
        float | None,
        typer.Option(help="L0 that the SAE should have, as published. [as the files say]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the verdict, as JSON. [RUN/eval/verify.json]")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Check that an SAE is loaded right and belongs to this site of this model.

    Exit codes: 0 it fits, 3 there are doubts, 1 something is wrong.

    Example: saekit verify runs/mine
    """
    from saekit.evals.verify.verify import verify as check
    from saekit.hub.names import results_folder
    from saekit.hub.opening import model_of, notes_of

    loaded = sae.read_from(Path(run), site=site, corpus=corpus)
    lm = model_of(loaded, sae.device, sae.model, sae.dtype, sae.processing)
    verdict = check(
        loaded,
        lm,
        corpus=corpus,
        n_ctx=sae.n_ctx or 0,
        tokens=tokens,
        ce_tokens=ce_tokens,
        l0=l0,
        out=out or results_folder(run) / "eval" / "verify.json",
        shown=not quiet,
    )
    notes = note_lines([*notes_of(loaded.card), *verdict.made_from.get("notes", [])])
    emit(verdict.to_dict(), as_json=as_json, lines=[str(verdict), *notes])
    raise typer.Exit(verdict.exit_code)
