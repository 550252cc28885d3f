"""Floors: SAEs that learned nothing, or half of it, by which a score is read."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from saekit.activations.harvest import Harvest
from saekit.activations.pairs import Pair
from saekit.activations.passes import pass_rows
from saekit.activations.rules import FittedRule, TokenRule
from saekit.core.errors import ConfigError, FormatError, SaekitError, UnknownNameError
from saekit.core.files import read_object
from saekit.core.seeds import generator
from saekit.data.base import Corpus, Split
from saekit.data.tokenise import TokenStream
from saekit.hub.native import load
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel
from saekit.saes.topk import TopK
from saekit.training.loop import RUN
from saekit.training.scaling import measure_scaling

SHUFFLED, ENCODER, DECODER = NAMES = ("shuffled_model", "random_encoder", "random_decoder")
NEEDS_A_RUN = (
    "it has to be trained: saekit train with the settings of this run, --arch frozen and "
    "--set sae.half=decoder, into a folder next to it or named by --floor random_decoder=RUN"
)


def stream_of(
    sae: TrainedSAE, lm: LanguageModel, text: tuple[Corpus, Split]
) -> tuple[TokenStream, Harvest]:
    """Return the rows of a text as an SAE reads them, and its activations on them."""
    corpus, split = text
    card = sae.card
    stream = TokenStream(
        corpus,
        split,
        lm.tokenizer,
        n_ctx=card.n_ctx,
        bos_each_row=card.bos_id(lm.tokenizer) is not None,
    )
    pair = Pair(read=(str(sae.site),), write=(str(card.written(sae.site)),))
    rule = next(iter(card.rules.values())).rule if card.rules else TokenRule()
    rows = pass_rows(lm, card.n_ctx)
    return stream, Harvest(lm, stream, pair, rule, batch_rows=rows, fitted=card.rules or None)


def random_encoder(
    sae: TrainedSAE, lm: LanguageModel, text: tuple[Corpus, Split], l0: float, seed: int
) -> TrainedSAE:
    """Return latents of random directions: as many, and as many of them on at a token.

    Which latents are on is all that sensitivity sees of an SAE. One whose encoder was frozen at its
    start differs from this in its decoder alone, so nothing has to be trained. Activations are
    centred and scaled as before training; those k latents are on whose directions fit best.

    Args:
        sae: the trained one.
        lm: its language model.
        text: a corpus and which part of it.
        l0: latents of the trained one that are on at a token.
        seed: of the directions.

    Source:
        arXiv:2602.14111 (frozen encoder). Differs: TopK whatever the trained architecture is; the
        decoder is not trained.
    """
    _, harvest = stream_of(sae, lm, text)
    width, k = sae.cfg.d_in, max(1, min(round(l0), sae.d_sae))
    cfg = TopK(d_in=width, d_out=width, d_sae=sae.d_sae, k=k)
    harvest = harvest.at(Pair(read=(str(sae.site),)))
    scaling = measure_scaling(harvest, cfg).x
    made = cfg.build(generator(seed, "random encoder")).eval().requires_grad_(False)
    made.rescale(scaling, scaling)
    return dataclasses.replace(sae, sae=made.to(sae.device))


def without_norms(sae: TrainedSAE, lm: LanguageModel) -> TrainedSAE:
    """Return an SAE whose rule leaves out special tokens alone, for another model's activations.

    The bound on norms was fitted on the model that the SAE was trained on.
    """
    special = tuple(sorted(lm.tokenizer.special_ids))
    rule = FittedRule(TokenRule(max_norm=None), special, 0.0)
    rules = {str(site): rule for site in sae.card.pair.sites}
    return dataclasses.replace(sae, card=dataclasses.replace(sae.card, rules=rules))


def sibling(run: Path, sae: TrainedSAE) -> Path | None:
    """Return a run next to this one that trained as many latents, at its site, on a random decoder.

    None where there is none.
    """
    folder = run.resolve().parent
    for path in sorted(folder.glob(f"*/{RUN}")) if folder.is_dir() else []:
        try:
            raw = read_object(path)
        except (SaekitError, OSError):
            continue  # a run of something else
        made = raw.get("sae")
        if not isinstance(made, Mapping) or (made.get("name"), made.get("half")) != (
            "frozen",
            "decoder",
        ):
            continue
        pair = raw.get("pair") or {}
        same = made.get("d_sae") == sae.d_sae and str(sae.site) in (pair.get("read") or [])
        if same and raw.get("model") == sae.card.run.get("model"):
            return path.parent
    return None


def named(asked: Sequence[str] | None, run: Path, sae: TrainedSAE) -> dict[str, TrainedSAE | None]:
    """Return the floors that a command line names: ``NAME`` or ``NAME=RUN``; None: every one.

    Where no run is named for the random decoder, one next to the SAE's is taken.

    Raises:
        UnknownNameError: there is no such floor.
        ConfigError: the run is of another width or site, or the floor takes none.
    """
    found: dict[str, TrainedSAE | None] = {}
    for words in NAMES if asked is None else asked:
        name, _, path = words.partition("=")
        known(name)
        if name == SHUFFLED and path:
            raise ConfigError(
                f"`{SHUFFLED}` is this SAE on the model with shuffled weights; it takes no run."
            )
        folder = Path(path) if path else None
        if folder is None and name == DECODER:
            folder = sibling(run, sae)
        found[name] = None if folder is None else _checked(folder, sae)
    return found


def known(name: str) -> str:
    """Return the name of a floor.

    Raises:
        UnknownNameError: there is no such floor.
    """
    if name not in NAMES:
        raise UnknownNameError(f"Floors are {', '.join(NAMES)}; got {name!r}.")
    return name


def _checked(folder: Path, sae: TrainedSAE) -> TrainedSAE:
    if not folder.is_dir():
        raise FormatError(f"There is no run {folder} to be a floor.")
    other = load(folder, site=str(sae.site))
    if (other.cfg.d_in, other.d_sae) != (sae.cfg.d_in, sae.d_sae):
        raise ConfigError(
            f"{folder} has {other.d_sae:,} latents of width {other.cfg.d_in}; a floor of this SAE "
            f"has {sae.d_sae:,} of width {sae.cfg.d_in}."
        )
    card = dataclasses.replace(other.card, n_ctx=sae.card.n_ctx)
    return dataclasses.replace(other, sae=other.sae.to(sae.device), card=card)
