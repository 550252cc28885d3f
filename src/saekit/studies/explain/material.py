"""Material: texts of each latent with what it really does on them, for explaining and for scoring.

Texts for scoring are never those that the explanation was made from. Whether a latent is on in a
text is read from the model, of each text by itself, whatever kind of text it was picked as.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch

from saekit.core.seeds import generator
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel
from saekit.studies.sensitivity.examples import LatentExamples, Snippet
from saekit.studies.sensitivity.scoring import token_acts
from saekit.studies.sensitivity.statistics import ON
from saekit.studies.sensitivity.study import Collected

Kind = Literal["shown", "held_out", "same_document", "random"]
SHOWN_NEGATIVES = 5  # texts on which it is off that an explainer may see; they are not tested


class Sample(NamedTuple):
    """A text and what a latent does on each of its tokens."""

    pieces: list[str]
    acts: list[float]  # act units; of a tested text as it is read alone
    kind: Kind

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)

    @property
    def is_on(self) -> bool:
        """Whether the latent fires on it."""
        return max(self.acts, default=0.0) > ON


class Case(NamedTuple):
    """All that is known of one latent when it is explained and when explanations are scored."""

    latent: int
    largest: float  # activation in the corpus
    count: int  # tokens of the corpus it is on for
    shown: list[Sample]  # to the explainer, the strongest first, as in the corpus
    negatives: list[Sample]  # to the explainer, off
    tests: list[Sample]  # to the judge alone
    promoted: tuple[str, ...] = ()  # tokens by the logit lens
    steered: tuple[str, ...] = ()  # what the model writes with the latent turned up
    unsteered: tuple[str, ...] = ()  # what it writes otherwise

    @property
    def on(self) -> list[Sample]:
        """Tested texts on which it fires."""
        return [s for s in self.tests if s.is_on]

    @property
    def off(self) -> list[Sample]:
        """Tested texts on which it does not."""
        return [s for s in self.tests if not s.is_on]

    def record(self) -> dict[str, Any]:
        """Return it JSON-ready; `case_from` reads it."""
        raw = self._asdict()
        for name in ("shown", "negatives", "tests"):
            raw[name] = [s._asdict() for s in raw[name]]
        return raw


def case_from(raw: Mapping[str, Any]) -> Case:
    """Return a case from its record."""
    samples: dict[str, Any] = {
        name: [Sample(**one) for one in raw[name]] for name in ("shown", "negatives", "tests")
    }
    texts: dict[str, Any] = {
        name: tuple(raw[name]) for name in ("promoted", "steered", "unsteered")
    }
    return Case(**(dict(raw) | samples | texts))


def cases(  # noqa: PLR0913 - what a pass over the texts needs
    collected: Collected,
    sae: TrainedSAE,
    lm: LanguageModel,
    n_tests: int,
    seed: int,
    *,
    shown: bool = False,
) -> list[Case]:
    """Return the texts of every latent, those to be tested with the activations read alone.

    Half of the tested texts are held-out examples; of the rest half are of the same documents, and
    half from anywhere. Where one kind has too few, texts from anywhere fill the place of negatives.
    A text that reads the same as a shown one, or as another tested one, is not tested.

    Args:
        collected: what the corpus gave.
        sae: the SAE.
        lm: its language model.
        n_tests: texts to be tested for each latent, of both halves together.
        seed: of the draw of random texts.
        shown: show progress on stderr.
    """
    chosen = {
        latent: _tests(latent, one, collected.random, n_tests, seed)
        for latent, one in collected.latents.items()
    }
    flat = [(latent, s) for latent, some in chosen.items() for s, _ in some]
    acts = iter(token_acts(sae, lm, [s.tokens for _, s in flat], [i for i, _ in flat], shown=shown))
    pieces = lm.tokenizer.pieces
    found = []
    for latent, one in collected.latents.items():
        tests = [
            Sample(pieces(s.tokens), _rounded(next(acts).tolist()), kind)
            for s, kind in chosen[latent]
        ]
        examples = [Sample(pieces(s.tokens), _rounded(s.acts), "shown") for s in one.shown]
        negatives = [
            Sample(pieces(s.tokens), _rounded(s.acts), "same_document")
            for s in one.negatives[:SHOWN_NEGATIVES]
        ]
        found.append(Case(latent, one.largest, one.count, examples, negatives, tests))
    return found


def _tests(
    latent: int, one: LatentExamples, anywhere: Sequence[Snippet], n: int, seed: int
) -> list[tuple[Snippet, Kind]]:
    half = max(n // 2, 1)
    known = {tuple(s.tokens) for s in [*one.shown, *one.negatives[:SHOWN_NEGATIVES]]}

    def new(some: Sequence[Snippet], most: int) -> list[Snippet]:
        found = []
        for snippet in some:
            if len(found) < most and (ids := tuple(snippet.tokens)) not in known:
                known.add(ids)
                found.append(snippet)
        return found

    order = torch.randperm(len(anywhere), generator=generator(seed, "random texts", latent))
    held_out = new(one.held_out, half)
    near = new(one.negatives[SHOWN_NEGATIVES:], half // 2)
    far = new([anywhere[i] for i in order.tolist()], half - len(near))
    kinds: dict[Kind, list[Snippet]] = {"held_out": held_out, "same_document": near, "random": far}
    return [(snippet, kind) for kind, some in kinds.items() for snippet in some]


def _rounded(acts: Sequence[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in acts]
