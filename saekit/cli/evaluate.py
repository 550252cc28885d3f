"""`saekit eval`: how good an SAE is, on text it was not trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.cli.show import emit, score_lines

if TYPE_CHECKING:
    from saekit.core.result import Result
    from saekit.data.base import Corpus
    from saekit.hub.native import Loaded
    from saekit.models.base import LanguageModel


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a folder with an SAE.")],
    name: Annotated[
        str, typer.Option("--eval", help="Which evaluation (see: saekit list evals).")
    ] = "core",
    corpus: Annotated[
        str | None, typer.Option(help="Other text; its held-out part is used. [the run's]")
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Which site, where the SAE is folded over several.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Language model, where the SAE's files do not say.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of it, as ce_tokens=4096.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Result file. [RUN/eval/NAME.json]")] = None,
    seed: Annotated[int, typer.Option(help="Of what an evaluation draws; core: nothing.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Measure an SAE on held-out text.

    Example: saekit eval runs/pythia-70m-deduped-L3.resid_post-topk-4096
    """
    from saekit.core.config import override
    from saekit.evals.base import registry
    from saekit.hub.complete import complete
    from saekit.hub.native import load

    loaded = load(run, site=site)
    config = override(registry.get(name)(), settings or [])
    lm = model_of(loaded, device, model)
    loaded = complete(loaded, lm, text_of(loaded, corpus))
    result = measure(
        loaded, lm, config, corpus=corpus, site=site, seed=seed, shown=not quiet
    )
    path = out or run / "eval" / f"{name}.json"
    result.write(path)
    record = {k: s.value for k, s in result.scores.items()} | {"result": str(path)}
    lines = [*score_lines(result.scores), f"result   {path}", f"next     saekit index {run}"]
    emit(record, as_json=as_json, lines=lines)


def model_of(loaded: "Loaded", device: str, name: str | None = None) -> "LanguageModel":
    """Return the language model an SAE was trained on, at the precision it was trained at.

    Args:
        loaded: the SAE.
        device: where the model goes.
        name: the model, where the SAE's files do not say or name it as no hub does.

    Raises:
        ConfigError: neither the files nor `name` say the model.
        FormatError: the model of that name is now another one.
    """
    from saekit.core.errors import ConfigError, FormatError
    from saekit.models.hf import load

    made_from = loaded.card.model
    wanted = name or loaded.card.run.get("model", made_from["name"])
    if wanted == "unknown":
        raise ConfigError("The SAE's files do not say the language model. Name it with --model.")
    revision = loaded.card.run.get("revision")
    dtype = "auto" if made_from["dtype"] == "unknown" else made_from["dtype"]
    lm = load(wanted, revision=revision, dtype=dtype, device=device)
    if made_from["revision"] is not None and lm.revision != made_from["revision"]:
        raise FormatError(
            f"The SAE was trained on {wanted} at revision {made_from['revision']}; what loads "
            f"under that name now is {lm.revision}. Point the name at the right model."
        )
    return lm.separated() if made_from.get("separate_documents") else lm


def text_of(loaded: "Loaded", corpus: str | None) -> "Corpus":
    """Return a corpus by its name, or the one the SAE was trained on.

    Raises:
        ConfigError: no corpus was named, and the SAE has no run with one.
    """
    from saekit.core.errors import ConfigError
    from saekit.data.base import Corpus
    from saekit.data.open import open_corpus

    if corpus:
        return open_corpus(corpus)
    if "corpus" not in loaded.card.run:
        raise ConfigError("The SAE's files hold no text to use. Name some with --corpus.")
    return Corpus.from_dict(loaded.card.run["corpus"])


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
    from saekit.models.sites import parse_site

    card = loaded.card
    text = text_of(loaded, corpus)
    stream = TokenStream(text, "test", lm.tokenizer, n_ctx=card.n_ctx, bos_each_row=card.bos)
    ways = {
        read: Way(read, write, card.rules[str(read)])
        for read, write in zip(card.pair.reads, card.pair.writes, strict=True)
    }
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
        name=f"{card.pair.label} at {read}" if len(ways) > 1 and not joint else card.pair.label,
        beside=tuple(ways.values())[1:] if joint else (),
        window=card.pair.window,
    )
    tools = Tools(rows=stream.rows, seed=seed, shown=shown)
    return config.run(subject, tools)
