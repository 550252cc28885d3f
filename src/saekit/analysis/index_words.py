"""What makers and readers of an index both know, without what making it needs."""

from typing import NamedTuple

# Latents of a group of rows, which is read at once; of an index that does not say it, 128. What a
# file says of its groups is in memory whole, 16 kB of each, so that there are not too many.
GROUP, FORMER_GROUP, MOST_GROUPS = 32, 128, 1024


def group_of(d_sae: int) -> int:
    """Return how many latents a group of rows has in an index that is made now."""
    return GROUP * max(1, -(-d_sae // (GROUP * MOST_GROUPS)))


def ends_of(d_sae: int) -> list[int]:
    """Return the latent before which each group of rows ends."""
    group = group_of(d_sae)
    return [min(end, d_sae) for end in range(group, d_sae + group, group)]


class Column(NamedTuple):
    """What a column is, for the reader."""

    label: str  # a word or three
    unit: str  # "" where it has none
    about: str  # one sentence


BANDS: dict[str, tuple[str, str]] = {
    "top": ("strongest", "The rows of tokens in which it is strongest."),
    "q4": ("strongest quarter", "Drawn from the strongest quarter of a sample of its rows."),
    "q3": ("third quarter", "Drawn from the second strongest quarter of a sample of its rows."),
    "q2": ("second quarter", "Drawn from the second weakest quarter of a sample of its rows."),
    "q1": ("weakest quarter", "Drawn from the weakest quarter of a sample of its rows."),
    "random": ("random", "Rows drawn at random among those in which it is on."),
    "boundary": ("weakest", "The rows in which its strongest activation is smallest."),
    "negative": (
        "off at its tokens",
        "Rows with one of the tokens it is most often on at, where it is off; off in all of the "
        "document's part of the row, where there are such.",
    ),
}
ORDER = list(BANDS)
