"""Cases whose truth is known: latents that fire on letters, in texts of single bytes."""

import random

import torch

from saekit.studies.explain.material import Case, Sample

WORDS = [
    "the",
    "tree",
    "here",
    "we",
    "see",
    "at",
    "home",
    "on",
    "a",
    "hill",
    "with",
    "hats",
    "and",
    "bells",
]


def sample(text: str, letters: str, kind: str) -> Sample:
    return Sample(list(text), [2.0 if c in letters else 0.0 for c in text], kind)


def case(latent: int, letters: str, n: int = 8, seed: int = 0) -> Case:
    """A latent that fires on some letters, each in as many of its texts as the others."""
    chance = random.Random(f"{seed} {latent}")

    def text(letter: str) -> str:
        words = chance.choices(WORDS, k=6)
        words.insert(chance.randrange(6), f"{letter}o{letter}" if letter else "do")
        return " ".join(words) + f" {chance.randrange(1000)}"

    on = [sample(text(letters[i % len(letters)]), letters, "held_out") for i in range(n)]
    off = [sample(text(""), letters, "random") for _ in range(n)]
    shown = [sample(text(letters[i % len(letters)]), letters, "shown") for i in range(6)]
    negatives = [sample(text(""), letters, "same_document") for _ in range(3)]
    steered = tuple(f"I think that {letters * 4}" for _ in range(2))
    return Case(
        latent, 2.0, 100, shown, negatives, on + off, ("a", "b"), steered, ("I think so.",) * 2
    )


def embed(texts):
    """Vectors by the letters that mean something in these tests, of length 1 or 0."""
    letters = "zqxkjv"
    rows = []
    for text in texts:
        body = text.removeprefix("letters ")
        row = torch.tensor([float(c in body) for c in letters])
        rows.append(row / row.norm().clamp(min=1))
    return torch.stack(rows)
