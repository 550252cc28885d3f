"""`saekit prompt`, `steer` and `attribute`: an SAE at work inside its language model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError
from saekit.terminal.common_options import AsJson, OneSite, Seed
from saekit.terminal.output import emit, note_lines
from saekit.terminal.sae_options import SAEOptions, takes

if TYPE_CHECKING:
    from saekit.hub.trained import TrainedSAE
    from saekit.models.base import LanguageModel

Run = Annotated[str, typer.Argument(help="Folder of a run or an SAE, or a published SAE's name.")]


def _opened(run: str, sae: SAEOptions, site: str | None) -> "tuple[TrainedSAE, LanguageModel]":
    from saekit.hub.opening import ready

    loaded = sae.read_from(Path(run), site=site, corpus="")
    return ready(loaded, sae.use())


def _emit(record: dict[str, Any], loaded: "TrainedSAE", text: str, *, as_json: bool) -> None:
    """Print a result with what its reader must know of the SAE and the model."""
    from saekit.hub.opening import notes_of

    notes = notes_of(loaded.card)
    emit(record | {"notes": notes}, as_json=as_json, lines=[text, *note_lines(notes)])


@takes(SAEOptions)
def prompt(
    run: Run,
    text: Annotated[str, typer.Argument(help="Text for the model to read.")],
    top: Annotated[int, typer.Option(help="Most latents to show at each token.")] = 5,
    site: OneSite = None,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Show which latents are on at each token of a text, the strongest first.

    Example: saekit prompt runs/mine "The cat sat on the"
    """
    from saekit.hub.prompting import prompt as show

    loaded, lm = _opened(run, sae, site)
    found = show(lm, loaded, text, top=top)
    _emit(found.to_dict(), loaded, str(found), as_json=as_json)


@takes(SAEOptions)
def steer(  # noqa: PLR0913 - what is steered, how far, and how the text is drawn
    run: Run,
    latent: Annotated[int, typer.Argument(metavar="latent", help="Number of the latent.")],
    text: Annotated[str, typer.Option("--prompt", help="Text to continue.")] = "I think",
    add: Annotated[
        list[float] | None,
        typer.Option(
            help="How much to add to the latent's activation at every token, in its own units. "
            "Repeatable."
        ),
    ] = None,
    scale: Annotated[
        list[float] | None,
        typer.Option(
            help="How much to add, as a multiple of the latent's largest activation in the index. "
            "Repeatable."
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Most tokens to write.")] = 40,
    temperature: Annotated[
        float, typer.Option(help="Temperature of sampling; 0 always takes the likeliest token.")
    ] = 0.0,
    seed: Seed = 0,
    seeds: Annotated[
        int, typer.Option(help="Number of texts at each strength, from as many seeds.")
    ] = 1,
    index: Annotated[
        Path | None, typer.Option(help="Folder of the SAE's index, for --scale. [RUN/index]")
    ] = None,
    site: OneSite = None,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Show what the model writes with one latent turned up or down, at several strengths.

    Example: saekit steer runs/mine 1234 --prompt "I think" --add -4 --add 4 --add 8
    """
    from saekit.hub.steering import steer as move

    loaded, lm = _opened(run, sae, site)
    found = move(
        lm,
        loaded,
        latent,
        prompt=text,
        add=add or None,
        scale=scale or None,
        n=n,
        temperature=temperature,
        seed=seed,
        seeds=seeds,
        index=index,
    )
    _emit(found.to_dict(), loaded, str(found), as_json=as_json)


@takes(SAEOptions)
def attribute(
    run: Run,
    text: Annotated[str, typer.Argument(help="Text whose next token is asked about.")],
    of: Annotated[
        str, typer.Option(help="Next token whose logit to explain, as ' Paris'. Required.")
    ] = "",
    against: Annotated[
        str | None, typer.Option(help="Token whose logit is subtracted from it, as ' Rome'. [none]")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="How effects are computed: gradient, or integrated, whose effects add up better."
        ),
    ] = "gradient",
    steps: Annotated[
        int, typer.Option(help="Number of gradients that --method integrated averages.")
    ] = 10,
    top: Annotated[int, typer.Option(help="Number of effects to show.")] = 10,
    site: OneSite = None,
    as_json: AsJson = False,
    *,
    sae: SAEOptions,
) -> None:
    """Say how much each latent at each token adds to the logit of a next token.

    Example: saekit attribute runs/mine "The capital of France is" --of " Paris" --against " Rome"
    """
    from saekit.hub.attribution import METHODS
    from saekit.hub.attribution import attribute as trace

    if not of:
        raise ConfigError("Say whose logit is meant: --of ' Paris'.")
    if method not in METHODS:
        raise ConfigError(f"`--method` is {' or '.join(METHODS)}; got {method}.")
    loaded, lm = _opened(run, sae, site)
    row = loaded.tokens(text, lm)
    found = trace(
        lm,
        loaded,
        row,
        of=of,
        against=against,
        method=method,
        steps=steps,  # type: ignore[arg-type]
    )
    record = {
        "quantity": found.quantity,
        "total": found.total,
        "method": found.method,
        "effects": [
            {"place": at, "token": found.pieces[at], "latent": i, "act": act, "effect": effect}
            for at, i, act, effect in found.top(top)
        ],
    }
    _emit(record, loaded, found.text(top), as_json=as_json)
