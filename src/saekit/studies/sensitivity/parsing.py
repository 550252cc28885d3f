"""Replies to texts: split, cleaned of what is no text, and each with a verdict on its use."""

import json
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from saekit.studies.sensitivity.prompts import MARKS, NEWLINE, SEPARATOR

Verdict = Literal["usable", "duplicate", "copied", "refusal", "about it", "too short", "beyond"]
NEAR_COPY = 0.8  # Jaccard of word sets from which a text is a copy of an example
LEAST_WORDS = 3

_NUMBER = re.compile(r"^\s*(?:\(?\d{1,3}[.):]|[-*•])\s+")
_FENCE = re.compile(r"^\s*```[\w-]*\s*$|^\s*```\s*", re.MULTILINE)
_OPENING = re.compile(
    r"^\s*(?:sure|certainly|of course|okay|here (?:are|is)|below (?:are|is))\b[^\n]{0,160}:\s*$",
    re.IGNORECASE,
)
REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:cannot|can't|won't) (?:help|assist|write|"
    r"provide|comply|create|generate)|as an ai\b)",
    re.IGNORECASE,
)
# What small models write in place of a passage: a sentence about the passage.
_ABOUT = re.compile(
    r"^\W*(?:here(?:'s| is| are)\b|(?:this|the (?:above|following|given|next)|"
    r"one (?:more|additional)|another|a new|in this) passages?\b|passage \d|"
    r"(?:i am|i'm|you are|you're) (?:an?|ready|glad|happy)\b[^.!?]{0,40}"
    r"\b(?:ai|assist|help)\b)",
    re.IGNORECASE,
)
_ANNOUNCED = 16  # words: a line that ends in a colon and is no longer announces a text


class Text(NamedTuple):
    """A text that a generator wrote.

    Only usable ones are measured; the others are counted.
    """

    text: str
    verdict: Verdict


def split(reply: str) -> list[str]:
    """Return the texts of a reply, in order, without numbers, bullets, fences and marks.

    The first way that gives several is taken: the separator, a JSON list, a numbered or bulleted
    list, blank lines. A reply that none splits is one text.
    """
    reply = _FENCE.sub("", reply.replace("\r\n", "\n")).strip("\n")
    for way in (_by_separator, _by_json, _by_list, _by_blank_lines):
        if parts := way(reply):
            break
    else:
        parts = [reply]
    if len(parts) > 1 and _OPENING.match(parts[0].strip()):
        parts = parts[1:]
    else:
        first, _, rest = parts[0].lstrip().partition("\n")
        if rest and _OPENING.match(first):
            parts[0] = rest
    texts = [cleaned(part) for part in parts]
    return [text for text in texts if text.strip()]


def single(reply: str) -> str:
    """Return the text of a reply that was to hold one: without an opening, quotes or a bullet."""
    lines = [line for line in reply.strip().split("\n") if line.strip()]
    if len(lines) > 1 and _OPENING.match(lines[0]):
        lines = lines[1:]
    text = cleaned(lines[0]) if lines else ""
    for opening, closing in (('"', '"'), ("“", "”"), ("'", "'")):
        if len(text) > 2 and text.startswith(opening) and text.endswith(closing):
            text = text[1:-1]
    return text


def _by_separator(reply: str) -> list[str]:
    return reply.split(SEPARATOR) if SEPARATOR in reply else []


def _by_json(reply: str) -> list[str]:
    text = reply.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return found if found and all(isinstance(x, str) for x in found) else []


def _by_list(reply: str) -> list[str]:
    lines = reply.split("\n")
    starts = [i for i, line in enumerate(lines) if _NUMBER.match(line)]
    if len(starts) < 2:
        return []
    ends = [*starts[1:], len(lines)]
    return ["\n".join(lines[a:b]) for a, b in zip(starts, ends, strict=True)]


def _by_blank_lines(reply: str) -> list[str]:
    parts = [part for part in re.split(r"\n[ \t]*\n", reply) if part.strip()]
    return parts if len(parts) > 1 else []


def cleaned(text: str) -> str:
    """Return a text without the number or bullet before it and without pairs of marks."""
    text = _NUMBER.sub("", text.strip("\n"), count=1)
    for opening, closing in MARKS:
        # Marks are taken away in pairs: an unpaired one may be part of the text.
        pattern = re.escape(opening) + r"(.*?)" + re.escape(closing)
        text = re.sub(pattern, r"\1", text, flags=re.DOTALL)
    return text.replace(NEWLINE, "\n").strip(" \t")


def _announces(text: str) -> bool:
    return text.rstrip(" \n*").endswith(":") and len(text.split()) <= _ANNOUNCED


def words(text: str) -> frozenset[str]:
    """Return the set of words of a text, lower case, by which copies are found."""
    return frozenset(re.findall(r"\w+|[^\w\s]", text.lower()))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the size of what two sets share over the size of both; 0 of two empty ones."""
    both = len(one | other)
    return len(one & other) / both if both else 0.0


def judged(
    texts: Sequence[str], examples: Sequence[str], wanted: int, before: Sequence[Text] = ()
) -> list[Text]:
    """Return texts with a verdict each: the first `wanted` that are of use are usable.

    Args:
        texts: new ones, in the order they came.
        examples: what the generator was shown; near copies are of no use.
        wanted: usable texts in all.
        before: texts of earlier replies, among which duplicates are looked for too.
    """
    known = [words(example) for example in examples]
    seen = {" ".join(t.text.lower().split()) for t in before}
    n = sum(t.verdict == "usable" for t in before)
    out = []
    for text in texts:
        plain, bag = " ".join(text.lower().split()), words(text)
        verdict: Verdict = "usable"
        if REFUSAL.search(text[:200]):
            verdict = "refusal"
        elif _ABOUT.search(text) or _announces(text):
            verdict = "about it"
        elif len(bag) < LEAST_WORDS:
            verdict = "too short"
        elif any(jaccard(bag, example) >= NEAR_COPY for example in known):
            verdict = "copied"
        elif plain in seen:
            verdict = "duplicate"
        elif n >= wanted:
            verdict = "beyond"
        n += verdict == "usable"
        seen.add(plain)
        out.append(Text(text, verdict))
    return out
