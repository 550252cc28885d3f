"""`saekit eval`: how good an SAE is, on text it was not trained on."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.cli.sweep_folder import evaluate_all, is_sweep
from saekit.terminal.output import emit, note_lines, score_lines
from saekit.terminal.sae_options import SAEOptions, takes

if TYPE_CHECKING:
    from saekit.core.result import Result
    from saekit.hub.native import Loaded
    from saekit.hub.opening import Opened
    from saekit.models.base import LanguageModel


@takes(SAEOptions)
def evaluate(
    run: Annotated[
        Path, typer.Argument(help="A run's folder, a folder with an SAE, or that of a sweep.")
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

    config = override(registry.get(name)(), settings or [])

    def one(folder: Path, path: Path) -> "tuple[Result, Opened]":
        opened = sae.open(folder, corpus=corpus, site=site)
        with claimed_file(path, "saekit eval", "Nothing was measured to its end."):
            result = measure(
                opened.loaded, opened.lm, config,
                corpus=corpus, site=site, seed=seed, shown=not quiet,
            )  # fmt: skip
            result.write(path)
        return result, opened

    if is_sweep(run):
        evaluate_all(run, name, lambda r: one(r, r / "eval" / f"{name}.json")[0], out, as_json)
        return
    path = out or run / "eval" / f"{name}.json"
    result, opened = one(run, path)
    record = {k: s.value for k, s in result.scores.items()} | {"result": str(path)}
    record |= {"notes": opened.notes}
    lines = [*score_lines(result.scores), *note_lines(opened.notes), f"result   {path}"]
    lines.append(f"next     saekit index {run}{sae.typed(corpus=corpus, site=site)}")
    emit(record, as_json=as_json, lines=lines)


def measure(
    loaded: "Loaded",
    lm: "LanguageModel",
    config: Any,
    *,
    corpus: str | None = None,
    site: str | None = None,
    seed: int = 0,
    shown: bool = True,
) -> "Result":
    """Run one evaluation of an SAE on the held-out part of its corpus, or of another.

    An SAE that codes its sites jointly is measured at all of them.

    Raises:
        ConfigError: the SAE is folded over several sites and none, or another one, was
            named; or it codes them jointly and one was.
    """
    from saekit.core.errors import ConfigError
    from saekit.data.tokenise import TokenStream
    from saekit.evals.base import Subject, Tools, Way
    from saekit.hub.opening import said_of, text_of
    from saekit.models.sites import parse_site

    card = loaded.card
    bos = card.bos_id(lm.tokenizer) is not None
    stream = TokenStream(
        text_of(loaded, corpus), "test", lm.tokenizer, n_ctx=card.n_ctx, bos_each_row=bos
    )
    ways = {
        read: Way(
            read, write, card.rules[str(read)],
            None if read == write else card.rules.get(str(write)),
        )
        for read, write in zip(card.pair.reads, card.pair.writes, strict=True)
    }  # fmt: skip
    joint = "site" in loaded.sae.cfg.event
    if joint and site is not None:
        raise ConfigError(
            f"The SAE codes {', '.join(map(str, ways))} jointly and is measured at all of them; "
            f"got --site {site}. Leave --site out: the result has each site's own scores."
        )
    read = parse_site(site) if site else card.pair.reads[0]
    if read not in ways or (site is None and len(ways) > 1 and not joint):
        raise ConfigError(
            f"The SAE reads {', '.join(map(str, ways))}; got {site or 'no site'}. Name one of "
            f"them with --site."
        )
    if card.scalings and card.at != str(read):
        raise ConfigError(
            f"The SAE was loaded for activations of {card.at or 'no site'}; got {read}. Load "
            f"it with site={str(read)!r}."
        )
    subject = Subject(
        sae=loaded.sae,
        lm=lm,
        read=read,
        write=ways[read].write,
        rule=ways[read].rule,
        write_rule=ways[read].write_rule,
        name=f"{card.pair.label} at {read}" if len(ways) > 1 and not joint else card.pair.label,
        beside=tuple(ways.values())[1:] if joint else (),
        window=card.pair.window,
    )
    tools = Tools(rows=stream.rows, seed=seed, shown=shown)
    result = config.run(subject, tools)
    return replace(result, provenance=result.provenance | said_of(card) | {"bos": bos})
