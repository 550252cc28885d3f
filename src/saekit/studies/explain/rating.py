"""Rating: people judge explanations blind, by keys, and how far raters agree.

A rater sees an explanation and texts of the latent, never who made the explanation: a language
model, no language model, or another latent's. What rates the texts of one explanation rates the
others of it too, so controls are among the things that are rated.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import digest, read_object, write_json
from saekit.core.seeds import generator as chance_of
from saekit.core.stats.agreement import Kappa, kappa
from saekit.core.text import printable
from saekit.studies.explain import study
from saekit.studies.explain.material import Case, Sample
from saekit.studies.explain.scoring import LABEL, RANDOM, TOKENS, Everything, labels_by_maker
from saekit.studies.sensitivity.examples import Snippet
from saekit.studies.sensitivity.prompts import marked, marks_for

Task = Literal["labels", "texts"]
FOLDER, FORMAT = "ratings", "saekit.ratings"
VERSION = 1
SKIP, BACK, QUIT = "s", "b", "q"
KEYS: dict[str, dict[str, str]] = {
    "labels": {"1": "wrong", "2": "partly right", "3": "right"},
    "texts": {"y": "yes", "n": "no"},
}
SHOWN_TEXTS = 8  # of an explanation that is rated as a whole
TEXTS_A_LATENT = 4  # that are rated one by one
MARKED = 0.1  # of the largest activation: weaker tokens are not marked


class Item(NamedTuple):
    """One thing to rate."""

    key: str  # the same for every rater; says nothing of who made the explanation
    latent: int
    maker: str  # never shown
    explanation: str
    texts: tuple[str, ...]
    truth: str  # of a text: whether the latent fires; "" of a whole explanation


def items(
    explained: study.Explained, task: Task = "labels", *, latents: int = 20, seed: int = 0
) -> list[Item]:
    """Return what there is to rate, in an order that is drawn.

    Args:
        explained: explanations and texts.
        task: "labels": is the explanation right, from texts of the latent; "texts": by the
            explanation, does the latent fire on this text: what the judge is asked too.
        latents: how many at most, drawn.
        seed: of what is drawn, and of the order; raters who are compared use the same.
    """
    makers = labels_by_maker(explained.labels, explained.cases, seed)
    have = sorted(explained.labels)
    order = torch.randperm(len(have), generator=chance_of(seed, "rated")).tolist()[:latents]
    found = []
    for latent in (have[i] for i in order):
        case = explained.cases[latent]
        for maker in (LABEL, TOKENS, RANDOM):
            text = makers[maker].get(latent)
            if text is None or (task == "texts" and maker != LABEL):
                continue
            found += _whole(case, maker, text) if task == "labels" else _each(case, text, seed)
    mixed = torch.randperm(len(found), generator=chance_of(seed, "order", task)).tolist()
    return [found[i] for i in mixed]


def _whole(case: Case, maker: str, label: str) -> list[Item]:
    on, off = case.on[: SHOWN_TEXTS // 2], case.off[: SHOWN_TEXTS // 2]
    texts = tuple(_marked(s, case.largest) for s in [*on, *off])
    return [Item(_key("labels", case.latent, label, ""), case.latent, maker, label, texts, "")]


def _each(case: Case, label: str, seed: int) -> list[Item]:
    chance = chance_of(seed, "rated texts", case.latent)
    order = torch.randperm(len(case.tests), generator=chance)[:TEXTS_A_LATENT].tolist()
    return [
        Item(
            _key("texts", case.latent, label, one.text),
            case.latent,
            LABEL,
            label,
            (one.text,),
            "yes" if one.is_on else "no",
        )
        for one in (case.tests[i] for i in order)
    ]


def _key(*parts: Any) -> str:
    return digest([json.dumps(parts)])[:16]


def _marked(sample: Sample, largest: float) -> str:
    marks = marks_for([sample.text])
    snippet = Snippet([0] * len(sample.pieces), sample.acts, 0, 0, 0, 0)
    return marked(snippet, sample.pieces, marks, MARKED * largest)


class Ratings(NamedTuple):
    """The verdicts of one rater."""

    rater: str
    task: str
    verdicts: dict[str, str]  # by the key of an item

    def record(self, known: Sequence[Item]) -> dict[str, Any]:
        """Return it JSON-ready, each verdict with what it is of."""
        by_key = {item.key: item for item in known}
        return {
            "format": FORMAT,
            "version": VERSION,
            "rater": self.rater,
            "task": self.task,
            "verdicts": [
                {"key": key, "verdict": verdict}
                | (
                    {"latent": one.latent, "maker": one.maker, "explanation": one.explanation}
                    if (one := by_key.get(key))
                    else {}
                )
                for key, verdict in self.verdicts.items()
            ],
        }


def read_ratings(path: Path) -> Ratings:
    """Return the ratings in a file.

    Raises:
        FormatError: it holds something else, or a verdict that no key gives.
    """
    raw = read_object(path)
    task = raw.get("task")
    if raw.get("format") != FORMAT or raw.get("version") != VERSION or task not in KEYS:
        raise FormatError(
            f"{path} holds no ratings of version {VERSION}. `saekit explain rate` writes them."
        )
    allowed = set(KEYS[task].values())
    verdicts: dict[str, str] = {}
    listed: Any = raw.get("verdicts")
    every: list[Any] = listed if isinstance(listed, list) else [listed]
    for one in every:
        fits = isinstance(one, dict) and isinstance(one.get("key"), str)
        if not fits or one.get("verdict") not in allowed:
            raise FormatError(
                f"{path} holds a verdict that is none: {one!r:.80}; allowed are "
                f"{', '.join(sorted(allowed))}."
            )
        verdicts[one["key"]] = one["verdict"]
    return Ratings(str(raw.get("rater", path.stem)), task, verdicts)


def place_of(folder: Path, rater: str, task: str) -> Path:
    """Return the file of a rater's verdicts.

    Raises:
        ConfigError: the name is no plain word.
    """
    if not rater or not all(c.isalnum() or c in "-_" for c in rater):
        raise ConfigError(
            f"A rater's name is letters, digits, - and _, as it names a file; got {rater!r}."
        )
    return folder / FOLDER / f"{task}-{rater}.json"


def rate(
    listed: Sequence[Item],
    path: Path,
    rater: str,
    task: Task,
    *,
    key: Callable[[], str],
    show: Callable[[str], None],
) -> Ratings:
    """Ask a person for a verdict on each item that has none yet; keep each as it comes.

    Args:
        listed: what to rate, in the order that it is shown.
        path: file of the verdicts; what it holds already is not asked again.
        rater: who rates.
        task: of the items.
        key: returns the next key that is pressed.
        show: shows text.
    """
    done = read_ratings(path).verdicts if path.exists() else {}
    keys = KEYS[task]
    at, skipped = 0, set()
    while True:
        todo = [i for i, one in enumerate(listed) if one.key not in done and i not in skipped]
        if not todo:
            break
        at = at if at in todo else next((i for i in todo if i > at), todo[0])
        item = listed[at]
        show(_shown(item, task, len(done), len(listed)))
        while (pressed := key().lower()) not in {*keys, SKIP, BACK, QUIT}:
            show(f"Press {', '.join([*keys, SKIP, BACK, QUIT])}.")
        if pressed == QUIT:
            break
        if pressed == SKIP:
            skipped.add(at)
        elif pressed == BACK:
            before = [i for i in range(at) if listed[i].key in done or i in skipped]
            if before:
                at = before[-1]
                done.pop(listed[at].key, None)
                skipped.discard(at)
        else:
            done[item.key] = keys[pressed]
        write_json(path, Ratings(rater, task, done).record(listed))
    return Ratings(rater, task, done)


def _shown(item: Item, task: Task, n: int, of: int) -> str:
    asked = {
        "labels": "Does the explanation say when it fires? (what fires it is marked)",
        "texts": "By the explanation, does it fire on this text?",
    }[task]
    keys = "  ".join(f"[{k}] {word}" for k, word in KEYS[task].items())
    texts = "\n".join(f"  - {printable(t).replace(chr(10), '↵')}" for t in item.texts)
    return (
        f"\n{n} of {of} rated\n\n{texts}\n\nexplanation: {printable(item.explanation)}\n\n{asked}\n"
        f"{keys}  [{SKIP}] skip  [{BACK}] back  [{QUIT}] quit"
    )


def merged(path: Path, rater: str, other: Ratings, listed: Sequence[Item]) -> Ratings:
    """Add the verdicts of a file from elsewhere to those that are kept; its own win.

    Raises:
        ConfigError: it rates another task, or things that are not in this folder.
    """
    unknown = other.verdicts.keys() - {item.key for item in listed}
    if unknown:
        raise ConfigError(
            f"{len(unknown)} of {len(other.verdicts)} verdicts are of things that are not to be "
            f"rated here. Give the folder, --latents and --seed that they were made with."
        )
    before = read_ratings(path).verdicts if path.exists() else {}
    found = Ratings(rater, other.task, other.verdicts | before)
    write_json(path, found.record(listed))
    return found


def agreement(one: Ratings, other: Ratings) -> Kappa:
    """Return Cohen's kappa of two raters, over what both rated.

    Raises:
        ConfigError: they rated different tasks.
    """
    if one.task != other.task:
        raise ConfigError(
            f"{one.rater} rated {one.task} and {other.rater} rated {other.task}; compare raters of "
            f"one task."
        )
    both = [k for k in one.verdicts if k in other.verdicts]
    return kappa([one.verdicts[k] for k in both], [other.verdicts[k] for k in both])


def judge_as_rater(listed: Sequence[Item], answers: Everything, name: str) -> Ratings:
    """Return what a judge said in detection as ratings of texts, to be compared with people.

    What is no answer has no verdict, and is left out of an agreement.
    """
    said = {
        (latent, one.about): one.said
        for latent, some in answers.get("detection", {}).get(LABEL, {}).items()
        for one in some
    }
    verdicts = {}
    for item in listed:
        value = said.get((item.latent, item.texts[0]))
        if item.truth and value is not None:
            verdicts[item.key] = "yes" if value else "no"
    return Ratings(name, "texts", verdicts)


def truth_as_rater(listed: Sequence[Item]) -> Ratings:
    """Return what the model really does as ratings of texts."""
    return Ratings("the model", "texts", {item.key: item.truth for item in listed if item.truth})


def by_maker(ratings: Ratings, listed: Sequence[Item]) -> dict[str, dict[str, int]]:
    """Return how often each verdict was given to explanations of each maker."""
    counts: dict[str, dict[str, int]] = {}
    for item in listed:
        if verdict := ratings.verdicts.get(item.key):
            of = counts.setdefault(item.maker, dict.fromkeys(KEYS[ratings.task].values(), 0))
            of[verdict] += 1
    return counts
