"""What comes in with a request, checked before anything is done with it.

Only these kinds of jobs exist, with only these settings: nothing else can be run.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from saekit.explorer.labels import ADDRESS_CHARS, MOST_ITEMS, NAME_CHARS, NOTE_CHARS, TEXT_CHARS

MOST_TEXT = 10_000  # characters of a text that a model reads
MOST_TEXTS, MOST_TOKENS, MOST_STRENGTHS, MOST_SEEDS = 32, 256, 16, 8
MOST_INDEXED = 100_000_000
LARGEST = 2**31 - 1

Id = Annotated[str, Field(min_length=1, max_length=500)]
Text = Annotated[str, Field(max_length=MOST_TEXT)]
Latent = Annotated[int, Field(ge=0, le=LARGEST)]
Number = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Strengths = Annotated[list[Number], Field(min_length=1, max_length=MOST_STRENGTHS)]


class Given(BaseModel):
    """A body: no field that is not known, no value of another kind."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Token(Given):
    """The token of the address that the terminal shows."""

    token: Annotated[str, Field(min_length=1, max_length=200)]


class NewLabel(Given):
    """A label of a latent."""

    text: Annotated[str, Field(min_length=1, max_length=TEXT_CHARS)]
    note: Annotated[str, Field(max_length=NOTE_CHARS)] = ""
    by: Annotated[str, Field(max_length=NAME_CHARS)] = ""


class Item(Given):
    """A latent in a list."""

    weights: Annotated[str, Field(min_length=1, max_length=100)]
    latent: Latent
    note: Annotated[str, Field(max_length=NOTE_CHARS)] = ""


class NewList(Given):
    """A list of latents."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_CHARS)]
    note: Annotated[str, Field(max_length=NOTE_CHARS)] = ""
    items: Annotated[list[Item], Field(max_length=MOST_ITEMS)] = []


class ListChange(Given):
    """What is to be changed of a list."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_CHARS)] | None = None
    note: Annotated[str, Field(max_length=NOTE_CHARS)] | None = None
    items: Annotated[list[Item], Field(max_length=MOST_ITEMS)] | None = None


class NewView(Given):
    """An address of the pages, kept under a name."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_CHARS)]
    address: Annotated[str, Field(min_length=2, max_length=ADDRESS_CHARS, pattern="^#/")]


class ViewName(Given):
    """What a saved view is called from now on."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_CHARS)]


class LabelOf(Given):
    """A label as it is exported."""

    weights: Annotated[str, Field(min_length=1, max_length=100)]
    latent: Latent
    text: Annotated[str, Field(min_length=1, max_length=TEXT_CHARS)]
    note: Annotated[str, Field(max_length=NOTE_CHARS)] = ""
    by: Annotated[str, Field(max_length=NAME_CHARS)] = ""
    time: Annotated[str, Field(max_length=40)] = ""


class Exported(Given):
    """What the export of labels gives, and the import takes."""

    format: Literal["saekit.labels"]
    version: Literal[1]
    labels: Annotated[list[LabelOf], Field(max_length=100_000)]
    lists: Annotated[list[NewList], Field(max_length=1000)] = []
    views: Annotated[list[NewView], Field(max_length=1000)] = []
    replace: bool = False


class Prompt(Given):
    """Read a text, and show the active latents of each token at every site."""

    kind: Literal["prompt"]
    sae: Id
    text: Text
    pos: Annotated[int, Field(ge=0, le=MOST_TEXT)] | None = None
    latent: Latent | None = None


class Logits(Given):
    """Next tokens by the model, by the reconstruction of a site, and with a latent added."""

    kind: Literal["logits"]
    sae: Id
    text: Text
    site: Annotated[str, Field(max_length=100)] | None = None
    pos: Annotated[int, Field(ge=0, le=MOST_TEXT)] | None = None
    latent: Latent | None = None
    factor: Number = 1.0
    unit: Literal["act", "norm", "max"] = "norm"
    n: Annotated[int, Field(ge=1, le=50)] = 10


class Activate(Given):
    """Show how strongly one latent is on at each token of some texts."""

    kind: Literal["activate"]
    sae: Id
    latent: Latent
    texts: Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]


class Steer(Given):
    """Continue a text with a latent moved, by multiples of its maximum or in act units."""

    kind: Literal["steer"]
    sae: Id
    latent: Latent
    prompt: Text
    scale: Strengths | None = None
    add: Strengths | None = None
    n: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 40
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.0
    seed: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] = 1

    @model_validator(mode="after")
    def _one(self) -> "Steer":
        if (self.scale is None) == (self.add is None):
            raise ValueError("give one of scale (times its maximum) and add (act units)")
        if self.seeds > 1 and not self.temperature:
            raise ValueError(
                f"at temperature 0 the {self.seeds} texts at a strength would all be the same; "
                f"raise the temperature, or ask for 1 text"
            )
        return self


class Ablate(Given):
    """Set a latent to 0, and show how the loss of each token of a text changes."""

    kind: Literal["ablate"]
    sae: Id
    latent: Latent
    text: Text


class Match(Given):
    """Find the nearest latent of another SAE for each latent of one."""

    kind: Literal["match"]
    sae: Id
    other: Id


class MakeIndex(Given):
    """Make the index of an SAE."""

    kind: Literal["index"]
    sae: Id
    tokens: Annotated[int, Field(ge=1, le=MOST_INDEXED)] = 300_000
    fresh: bool = False


JOBS = (Prompt, Logits, Activate, Steer, Ablate, Match, MakeIndex)
KINDS = tuple(model.model_fields["kind"].annotation.__args__[0] for model in JOBS)  # type: ignore[union-attr]
NewJob = Annotated[
    Prompt | Logits | Activate | Steer | Ablate | Match | MakeIndex, Field(discriminator="kind")
]


# What the pages call fields of jobs, by the names that the API has for them.
ON_PAGES = {
    "n": "tokens",
    "seeds": "texts",
    "scale": "how far, times the maximum",
    "add": "how far, units of activation",
    "factor": "steer by",
    "prompt": "text",
}
_WRONG = {  # what may come, by the kind of error that pydantic found
    "too_short": "at least {min_length}; got {actual_length}",
    "too_long": "at most {max_length} can be given; got {actual_length}",
    "string_too_short": "at least {min_length} character",
    "string_too_long": "at most {max_length} characters",
    "greater_than_equal": "at least {ge:g}; got {came}",
    "less_than_equal": "at most {le:g}; got {came}",
    "int_type": "a whole number; got {came}",
    "int_from_float": "a whole number; got {came}",
}


def told(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a part of a request, in words that a page may show.

    Args:
        error: as pydantic lists it.
    """
    came = str(error.get("input"))[:40]
    known = _WRONG.get(error["type"])
    said = known.format(came=came, **error.get("ctx", {})) if known else error["msg"]
    said = said.removeprefix("Value error, ")
    place = list(error["loc"])
    if place[:1] == ["body"] and len(place) > 1 and place[1] in KINDS:
        place = place[2:]
    if not place:
        return said
    name, *within = place
    label = f"{ON_PAGES[name]} (`{name}`)" if name in ON_PAGES else str(name)
    number = "".join(f", number {n + 1}" if isinstance(n, int) else f".{n}" for n in within)
    return f"{label}{number}: {said}"


class ProblemBody(BaseModel):
    """An answer that is an error."""

    type: str
    title: str
    status: int
    detail: str
    remedy: str


def kinds() -> list[dict[str, Any]]:
    """Return what each kind of job does and takes, for the pages."""
    found = []
    for name, model in zip(KINDS, JOBS, strict=True):
        fields = [n for n in model.model_fields if n != "kind"]
        found.append({"kind": name, "about": (model.__doc__ or "").strip(), "fields": fields})
    return found
