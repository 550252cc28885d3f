"""The study: texts of each latent, explanations of them, and what judges make of those."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch

from saekit.analysis.logit_lens import top_logits
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import digest, read_object, to_json_line, write_json, write_text
from saekit.core.lock import claimed
from saekit.core.progress import Progress
from saekit.core.seeds import derive
from saekit.data.base import Corpus, Split
from saekit.generators.asker import NOTHING, Asker
from saekit.generators.base import Generator, Request
from saekit.generators.cache import ReplyCache
from saekit.generators.limits import Limits, Spent
from saekit.hub.steering import steer
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel, refuse_edits
from saekit.studies.explain import labels as explanations
from saekit.studies.explain.labels import VERDICTS, Label, label_of, without_model
from saekit.studies.explain.material import Case, case_from, cases
from saekit.studies.sensitivity.examples import ExampleConfig
from saekit.studies.sensitivity.study import SETTINGS as SETTINGS
from saekit.studies.sensitivity.study import (
    Sensitivity,
    collect,
    collected_from,
    record_of,
    same_settings,
    settings_of,
)

EXAMPLES, CASES, JOURNAL = "examples.json", "cases.json", "journal.jsonl"
LABELS = "labels.json"
PROMOTED = 10  # tokens of the logit lens that are kept
NEUTRAL = ("I think that", "Yesterday,", "The", "It was", "There is", "We", "In this", "My")


@dataclass(frozen=True, kw_only=True)
class Explain(Config):
    """How latents are explained, and which texts explanations will be scored on.

    Args:
        n_latents: latents, drawn from those that are on often enough.
        tokens: tokens of the corpus that examples are looked for in.
        with_negatives: show the explainer texts on which the latent is off too.
        most_words: of an explanation; longer ones are of no use.
        rounds: how often a latent is asked about again while it has no usable explanation.
        tests: texts that explanations are scored on, half of them held-out examples.
        steered: texts that are written with the latent turned up, for the causal check.
        strength: how far it is turned up, in multiples of its largest activation in the corpus.
        steered_tokens: length of these texts.
        examples: which texts show what a latent responds to.
        seed: decides latents, examples and prompts.

    Source:
        Bills et al. 2023, Language models can explain neurons in language models (OpenAI); Paulo,
        Mallen, Juang, Belrose 2024, arXiv:2410.13928.
    """

    name: ClassVar[str] = "explain"
    version: ClassVar[int] = 1
    n_latents: int = setting(20, least=1)
    tokens: int = setting(300_000, least=1)
    with_negatives: bool = True
    most_words: int = setting(25, least=1)
    rounds: int = setting(3, least=1)
    tests: int = setting(16, least=2)
    steered: int = setting(2, least=0, most=len(NEUTRAL))
    strength: float = setting(2.0, above=0)
    steered_tokens: int = setting(20, least=1)
    examples: ExampleConfig = dataclasses.field(default_factory=lambda: ExampleConfig(spare=5))
    seed: int = 0


class Made(NamedTuple):
    """Explanations of one latent."""

    tried: list[Label]  # as the generator gave them, in order
    tokens: str  # the one that no language model wrote

    @property
    def label(self) -> str | None:
        """The usable one; None where there is none."""
        return next((one.text for one in self.tried if one.verdict == "usable"), None)


@dataclass(frozen=True)
class Explained:
    """Explanations of some latents, and the texts to score them on.

    Args:
        folder: where they are.
        cases: by latent.
        made: explanations by latent.
        left_out: latents that were drawn and are not explained, and why.
        notes: what a reader must know of the texts.
        stopped: "budget" or "refused" where not all was asked; "" otherwise.
        reason: why, in words.
        spent: on the requests that were sent.
    """

    folder: Path
    cases: dict[int, Case]
    made: dict[int, Made]
    left_out: dict[int, str]
    stopped: str = ""
    reason: str = ""
    spent: Spent = NOTHING
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> dict[int, str]:
        """The usable explanation of each latent that has one."""
        return {latent: made.label for latent, made in self.made.items() if made.label}

    @property
    def verdicts(self) -> dict[str, int]:
        """How many replies were usable, empty, refusals, too long."""
        every = [one.verdict for made in self.made.values() for one in made.tried]
        return {verdict: every.count(verdict) for verdict in VERDICTS}


def explain(  # noqa: PLR0913 - the words of `saekit explain run`
    sae: TrainedSAE,
    lm: LanguageModel,
    by: Generator,
    out: Path | str,
    cfg: Explain | None = None,
    *,
    text: tuple[Corpus, Split],
    latents: Sequence[int] | None = None,
    limits: Limits | None = None,
    cache: ReplyCache | None = None,
    shown: bool = True,
) -> Explained:
    """Explain latents in a line each. Run the same once more to go on; nothing is asked twice.

    Args:
        sae: the SAE, with its rules (see `saekit.hub.opening`).
        lm: its language model.
        by: the generator that explains.
        out: the folder.
        cfg: how.
        text: a corpus and which part of it.
        latents: which; None: some are drawn.
        limits: what may be spent, and how fast.
        cache: replies of other runs; None: none are used.
        shown: show progress on stderr.

    Raises:
        ConfigError: the folder holds a run with other settings, the latents are none, or the SAE
            codes sites or windows jointly.
        DataError: the text holds no example of any latent.
    """
    cfg = cfg or Explain()
    _refuse(sae, lm)
    folder = Path(out)
    kept = f"Run the same command again to go on with {folder}."
    with claimed(folder, "saekit explain run", kept):
        found, left_out, notes = _prepared(folder, sae, lm, by, cfg, text, latents, shown)
        asker = Asker(by, folder / JOURNAL, limits, cache, shown)
        made = _explained(asker, found, cfg)
        record = {
            str(latent): {"tried": [t._asdict() for t in one.tried], "tokens": one.tokens}
            for latent, one in made.items()
        }
        write_json(folder / LABELS, record)
        by_latent = {case.latent: case for case in found}
        return Explained(
            folder, by_latent, made, left_out, asker.stopped, asker.reason, asker.spent, notes
        )


def prepared(  # noqa: PLR0913 - the words of `explain`
    sae: TrainedSAE,
    lm: LanguageModel,
    by: Generator,
    out: Path | str,
    cfg: Explain,
    text: tuple[Corpus, Split],
    latents: Sequence[int] | None = None,
    shown: bool = True,
) -> list[Case]:
    """Return the texts of each latent, made once and kept; nothing is asked.

    Args: as `explain`.
    """
    _refuse(sae, lm)
    with claimed(Path(out), "saekit explain plan"):
        return _prepared(Path(out), sae, lm, by, cfg, text, latents, shown)[0]


def _refuse(sae: TrainedSAE, lm: LanguageModel) -> None:
    refuse_edits(lm)
    if sae.cfg.event:
        raise ConfigError(
            f"`{sae.cfg.name}` codes {' and '.join(sae.cfg.event)} jointly; latents are explained "
            f"of SAEs of single tokens."
        )


def _prepared(  # noqa: PLR0913 - the words of `explain`
    folder: Path,
    sae: TrainedSAE,
    lm: LanguageModel,
    by: Generator,
    cfg: Explain,
    text: tuple[Corpus, Split],
    latents: Sequence[int] | None,
    shown: bool,
) -> tuple[list[Case], dict[int, str], tuple[str, ...]]:
    settings = settings_of(
        sae, lm, by, cfg, text, latents, version=cfg.version, wording=explanations.VERSION
    )
    same_settings(folder, settings, "folder")
    return _material(folder, sae, lm, cfg, text, latents, shown)


def read(folder: Path | str) -> Explained:
    """Return the explanations of a folder that `explain` made.

    Raises:
        FormatError: there are none, or they are damaged.
    """
    folder = Path(folder)
    if not (folder / LABELS).is_file():
        raise FormatError(
            f"{folder} holds no explanations. Make them first: saekit explain run RUN --out FOLDER."
        )
    raw = read_object(folder / CASES)
    found = {int(k): case_from(v) for k, v in raw["cases"].items()}
    made = {
        int(latent): Made([Label(**t) for t in one["tried"]], one["tokens"])
        for latent, one in read_object(folder / LABELS).items()
    }
    left_out = {int(k): v for k, v in raw["left_out"].items()}
    return Explained(folder, found, made, left_out, notes=tuple(raw.get("notes", ())))


def read_labels(path: Path) -> dict[int, str]:
    """Return explanations from a JSON file: an object from the latent's number to its text.

    Raises:
        FormatError: it is none.
    """
    raw, found = read_object(path), {}
    for key, text in raw.items():
        fits = isinstance(text, str) and text.strip() and key.isascii() and key.isdecimal()
        if not fits:
            raise FormatError(
                f'{path} is to hold texts by the number of a latent, as {{"12": "the word cat"}}; '
                f"got {key!r:.40}: {text!r:.40}."
            )
        found[int(key)] = " ".join(text.split())
    return found


def _material(  # noqa: PLR0913 - what a pass over a corpus needs
    folder: Path,
    sae: TrainedSAE,
    lm: LanguageModel,
    cfg: Explain,
    text: tuple[Corpus, Split],
    latents: Sequence[int] | None,
    shown: bool,
) -> tuple[list[Case], dict[int, str], tuple[str, ...]]:
    """Return the cases, made once and kept; which latents were left out; and notes."""
    path = folder / EXAMPLES
    if not path.exists():
        how = Sensitivity(
            n_latents=cfg.n_latents, tokens=cfg.tokens, examples=cfg.examples, seed=cfg.seed
        )
        write_text(path, to_json_line(record_of(collect(sae, lm, how, text, latents, shown))))
    if not (folder / CASES).exists():
        collected = collected_from(read_object(path))
        found = cases(collected, sae, lm, cfg.tests, cfg.seed, shown=shown)
        found = _steered(sae, lm, _with_logits(sae, lm, found), cfg, shown)
        record = {
            "cases": {str(case.latent): case.record() for case in found},
            "left_out": {str(k): v for k, v in collected.left_out.items()},
            "notes": collected.notes_on(cfg.tokens),
        }
        write_text(folder / CASES, to_json_line(record))
    raw = read_object(folder / CASES)
    found = [case_from(one) for one in raw["cases"].values()]
    left_out = {int(k): v for k, v in raw["left_out"].items()}
    return found, left_out, tuple(raw.get("notes", ()))


def _with_logits(sae: TrainedSAE, lm: LanguageModel, found: list[Case]) -> list[Case]:
    """Return cases with the tokens that their latents promote, where they write to the stream."""
    written = sae.card.written(sae.site)
    every = sae.directions
    if written.point == "mlp_in" or every.shape[-1] != lm.d_model:
        return found
    every = every.flatten(0, -3)[-1] if every.ndim > 2 else every
    some = every[torch.tensor([case.latent for case in found], device=every.device)]
    model = lm.model_at(written)
    records = top_logits(model, some, min(PROMOTED, model.vocab_size)).records()
    return [
        case._replace(promoted=tuple(token for token, _ in record["promoted"]))
        for case, record in zip(found, records, strict=True)
    ]


def _steered(
    sae: TrainedSAE, lm: LanguageModel, found: list[Case], cfg: Explain, shown: bool
) -> list[Case]:
    """Return cases with what the model writes when their latents are turned up, and otherwise."""
    if not cfg.steered:
        return found
    bar, out = Progress("steer", len(found), "latents", shown=shown), []
    for case in found:
        texts, others = [], []
        for number in range(cfg.steered):
            made = steer(
                lm,
                sae,
                case.latent,
                prompt=NEUTRAL[number],
                add=cfg.strength * case.largest,
                n=cfg.steered_tokens,
                temperature=1.0,
                seed=derive(cfg.seed, "steer", case.latent, number) % 2**31,
            )
            texts.append(made.doses[0].texts[0])
            others.append(made.alone.texts[0])
        out.append(case._replace(steered=tuple(texts), unsteered=tuple(others)))
        bar.add(1)
    bar.close()
    return out


def questions(by: Generator, some: Sequence[Case], cfg: Explain, tried: int = 0) -> list[Request]:
    """Return what the generator is asked about each latent.

    Args:
        by: the generator.
        some: latents with their texts.
        cfg: how they are explained.
        tried: how often it was asked before.
    """
    return [
        explanations.request(
            by,
            case,
            with_negatives=cfg.with_negatives,
            most_words=cfg.most_words,
            seed=cfg.seed,
            tried=tried,
        )
        for case in some
    ]


def _explained(asker: Asker, found: Sequence[Case], cfg: Explain) -> dict[int, Made]:
    tried: dict[int, list[Label]] = {case.latent: [] for case in found}
    for number in range(cfg.rounds):
        lacking = [
            case for case in found if not any(t.verdict == "usable" for t in tried[case.latent])
        ]
        if not lacking or asker.stopped:
            break
        asked = questions(asker.generator, lacking, cfg, number)
        replies = asker.replies(asked, "explain")
        for case, request in zip(lacking, asked, strict=True):
            if (reply := replies.get(asker.key(request))) is not None:
                tried[case.latent].append(label_of(reply.text, cfg.most_words))
    return {case.latent: Made(tried[case.latent], without_model(case)) for case in found}


def digest_of(cases: Mapping[int, Case], labels: Mapping[int, str]) -> str:
    """Return what tells texts and explanations from others, for the record of a score."""
    record = {str(k): case.record() for k, case in cases.items()}
    return digest([json.dumps([record, {str(k): v for k, v in labels.items()}], sort_keys=True)])
