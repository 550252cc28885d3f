"""Published examples: what SAEBench showed those who explained its latents, from its files."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.errors import FormatError
from saekit.core.files import digest, read_object
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel
from saekit.studies.sensitivity.examples import Snippet
from saekit.studies.sensitivity.prompts import NEWLINE
from saekit.studies.sensitivity.scoring import token_acts

BEGIN, END = "Generation phase", "Scoring phase"
BAR = "│"
OPEN, CLOSE = "<<", ">>"
LOST = "\ufffd"  # stands for bytes that are no whole character
_MARKED = re.compile(re.escape(OPEN) + r"(.+?)" + re.escape(CLOSE), re.DOTALL)


class PublishedExample(NamedTuple):
    """A text, the largest activation it had there, and the places in it that were marked."""

    top_act: float
    text: str
    marked: list[tuple[int, int]]  # first and last character + 1


@dataclass(frozen=True)
class PublishedExamples:
    """Examples by latent, and what the files do not tell.

    Args:
        latents: the examples of each, in the order of the file.
        defects: how many rows or latents have one of each kind.
    """

    latents: dict[int, list[PublishedExample]]
    defects: dict[str, int]

    @property
    def digest(self) -> str:
        """SHA-256 of the examples, for the record of a run."""
        return digest([json.dumps({str(k): v for k, v in self.latents.items()}, sort_keys=True)])


def read_published(path: Path) -> PublishedExamples:
    """Read an ``..._eval_results.json`` of SAEBench's automatic interpretation.

    A latent's log is text in which a table was drawn. What drawing it destroyed is counted in
    `defects`: spaces at the ends of a text (every row), characters that tokens share (``lost
    bytes``), marks that the text may have had itself (``ambiguous marks``). A text with a bar or a
    dash of the frame in it is read whole. The sign for a line break is a line break again.

    Args:
        path: the file.

    Raises:
        FormatError: it is another file, or no latent in it has a table.

    Source:
        SAEBench, huggingface.co/datasets/adamkarvonen/sae_bench_results_0125.
        Differs from how nathanhu0/sae-sensitivity reads it: see above.
    """
    raw = read_object(path)
    logs = raw.get("eval_result_unstructured")
    if not isinstance(logs, Mapping) or not logs:
        raise FormatError(
            f"{path} is no result of SAEBench's automatic interpretation: it has no "
            f"eval_result_unstructured."
        )
    defects: Counter[str] = Counter()
    found: dict[int, list[PublishedExample]] = {}
    for name, one in logs.items():
        text = one.get("logs") if isinstance(one, Mapping) else None
        if not isinstance(text, str) or not str(name).isdecimal():
            defects["latents without a log"] += 1
            continue
        rows = _rows(text, defects)
        if rows:
            found[int(name)] = rows
        else:
            defects["latents without a table"] += 1
    if not found:
        raise FormatError(f"{path} has no table of examples between {BEGIN!r} and {END!r}.")
    return PublishedExamples(found, dict(defects))


def _rows(log: str, defects: Counter[str]) -> list[PublishedExample]:
    start = log.find(BEGIN)
    if start < 0:
        return []
    end = log.find(END, start)
    part = log[start : end if end >= 0 else len(log)]
    found = []
    for line in part.split("\n"):
        line = line.strip()
        # Only a row begins with the bar itself: the frame's lines begin with corners.
        if not line.startswith(BAR) or not line.endswith(BAR) or len(line) < 3:
            continue
        number, bar, text = line[1:-1].partition(BAR)
        try:
            top = float(number)
        except ValueError:
            defects["rows without an activation"] += number.strip() != "Top act"
            continue
        if not bar or not text.strip():
            defects["rows without a text"] += 1
            continue
        defects["texts whose ends lost their spaces"] += 1
        defects["texts with a bar"] += BAR in text
        defects["texts with lost bytes"] += LOST in text
        # One space on each side is the table's.
        found.append(_example(top, text.strip(" ").replace(NEWLINE, "\n"), defects))
    return found


def _example(top: float, text: str, defects: Counter[str]) -> PublishedExample:
    plain, at, marked = [], 0, []
    n = 0
    for hit in _MARKED.finditer(text):
        before = text[at : hit.start()]
        plain += [before, hit[1]]
        marked.append((n + len(before), n + len(before) + len(hit[1])))
        n += len(before) + len(hit[1])
        at = hit.end()
    plain.append(text[at:])
    clean = "".join(plain)
    defects["texts with ambiguous marks"] += OPEN in clean or CLOSE in clean
    defects["texts without a mark"] += not marked
    return PublishedExample(top, clean, marked)


def snippets(
    sae: TrainedSAE, lm: LanguageModel, examples: Mapping[int, Sequence[PublishedExample]]
) -> dict[int, list[Snippet]]:
    """Return published texts as examples, with activations as each is read alone.

    The files have one activation a text, of a longer context, and say which tokens were on; here
    every token has its own. Texts are tokenised again. Place and document are unknown (-1).

    Args:
        sae: the SAE.
        lm: its language model.
        examples: by latent.
    """
    flat = [(latent, e) for latent, some in examples.items() for e in some]
    ids = [list(one) for one in lm.tokenizer.encode([e.text for _, e in flat])] if flat else []
    acts = token_acts(sae, lm, ids, [latent for latent, _ in flat])
    found: dict[int, list[Snippet]] = {latent: [] for latent in examples}
    for (latent, _), tokens, own in zip(flat, ids, acts, strict=True):
        values: Any = own.tolist()
        peak = values.index(max(values)) if values and max(values) > 0 else -1
        found[latent].append(Snippet(tokens, values, peak, -1, -1, -1))
    return found
