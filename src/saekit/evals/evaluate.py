"""`saekit.evaluate`: one evaluation of an SAE on text it was not trained on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from saekit.core.errors import ConfigError
from saekit.core.result import Result
from saekit.data.base import Corpus
from saekit.data.tokenise import TokenStream
from saekit.evals.base import Eval, SitePair, Subject, Tools, registry
from saekit.hub.opening import opened, said_of, text_of
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel, refuse_edits
from saekit.models.sites import parse_site


def evaluate(  # noqa: PLR0913 - the words of `saekit eval`
    sae: TrainedSAE | Path | str,
    lm: LanguageModel | None = None,
    eval: Eval | str = "core",
    *,
    corpus: Corpus | Path | str | Sequence[str] | None = None,
    site: str | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    shown: bool = True,
    tokens: int | None = None,
    **settings: Any,
) -> Result:
    """Measure an SAE on the held-out part of its text, or of another.

    Args:
        sae: the SAE, or the folder it is in.
        lm: its language model; None: the one that its card names.
        eval: which evaluation (`saekit list evals`), or one with its settings.
        corpus: other text, by name or file, or a list of texts; None: that of training.
        site: which site, where several share the SAE.
        seed: of what an evaluation draws; core draws nothing.
        out: a file to write the result to.
        shown: show progress on stderr.
        tokens: how much text, `n_tokens` of the evaluation; losses are of a quarter of it.
        settings: settings of the evaluation, as ``ce_tokens=4_096``.

    Returns:
        scores with 95 % intervals; `print` shows them.

    Raises:
        ConfigError: a setting is unknown, or the SAE's files leave out its text or model.
        DataError: the held-out text is shorter than a row.
    """
    loaded, model, text = opened(sae, lm, corpus, site)
    config = registry.get(eval)() if isinstance(eval, str) else eval
    if tokens is not None:
        settings = {"n_tokens": tokens} | settings
    if "n_tokens" in settings and hasattr(config, "ce_tokens") and "ce_tokens" not in settings:
        most = min(int(config.ce_tokens), int(settings["n_tokens"]))  # type: ignore[attr-defined]
        settings["ce_tokens"] = most if tokens is None else max(tokens // 4, 1)
    config = type(config).from_dict(config.to_dict() | settings)
    result = measure(
        loaded, model, config, corpus=text, site=site or loaded.card.at, seed=seed, shown=shown
    )
    if out is not None:
        result.write(Path(out))
    return result


def measure(
    loaded: TrainedSAE,
    lm: LanguageModel,
    config: Eval,
    *,
    corpus: Corpus | str | None = None,
    site: str | None = None,
    seed: int = 0,
    shown: bool = True,
) -> Result:
    """Run one evaluation of an SAE on the held-out part of its corpus, or of another.

    An SAE that codes its sites jointly is measured at all of them.

    Raises:
        ConfigError: the SAE is folded over several sites and none, or another one, was
            named; or it codes them jointly and one was.
    """
    refuse_edits(lm)
    card = loaded.card
    text = corpus if isinstance(corpus, Corpus) else text_of(loaded, corpus)
    bos = card.bos_id(lm.tokenizer) is not None
    stream = TokenStream(text, "test", lm.tokenizer, n_ctx=card.n_ctx, bos_each_row=bos)
    ways = {
        read: SitePair(
            read,
            write,
            card.rules[str(read)],
            None if read == write else card.rules.get(str(write)),
        )
        for read, write in zip(card.pair.reads, card.pair.writes, strict=True)
    }
    joint = "site" in loaded.sae.cfg.event
    if joint and site is not None:
        raise ConfigError(
            f"The SAE codes {', '.join(map(str, ways))} jointly and is measured at all of them; "
            f"got {site}. Leave `site` out: the result has each site's own scores."
        )
    read = parse_site(site) if site else card.pair.reads[0]
    if read not in ways or (site is None and len(ways) > 1 and not joint):
        raise ConfigError(
            f"The SAE reads {', '.join(map(str, ways))}; got {site or 'no site'}. Name one of "
            f"them: site=, on a command line --site."
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
