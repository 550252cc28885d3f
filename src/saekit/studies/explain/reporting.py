"""What a folder of explanations says: scores, the line of each latent, agreement of raters."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.errors import FormatError
from saekit.core.result import Result, score_lines
from saekit.core.text import printable
from saekit.data import table_files
from saekit.studies.explain import rating, study
from saekit.studies.explain.rating import FOLDER, Ratings
from saekit.studies.explain.scoring import ANSWERS, RESULT, SCORES, STATS, answers_of


class Report(NamedTuple):
    """What is shown, as lines and as a record."""

    lines: list[str]
    record: dict[str, Any]


def scores_in(folder: Path) -> list[Path]:
    """Return the folders of finished scores, by name."""
    return sorted(p.parent for p in (folder / SCORES).glob(f"*/{RESULT}"))


def report(folder: Path, name: str = "", *, latents: int = 20, seed: int = 0) -> Report:
    """Return what there is to say of a folder of explanations.

    Args:
        folder: that `saekit explain run` made.
        name: of the scores to show; "": all.
        latents: how many people rated at most, as in `rating.items`.
        seed: of what they rated.

    Raises:
        FormatError: there are no explanations, or no scores of that name.
    """
    explained = study.read(folder)
    places = [p for p in scores_in(folder) if not name or p.name == name]
    if name and not places:
        have = ", ".join(p.name for p in scores_in(folder)) or "none"
        raise FormatError(
            f"{folder} has no scores {name!r}; it has {have}. Name one of these, or make them: "
            f"saekit explain score {folder}"
        )
    lines: list[str] = []
    record: dict[str, Any] = {"folder": str(folder), "scores": {}, "agreement": []}
    for place in places:
        result = Result.read(place / RESULT)
        main = result.details["scorers"]
        lines += [f"judge    {place.name}", *score_lines(result.scores)]
        record["scores"][place.name] = {k: s.value for k, s in result.scores.items()}
        for row in table_files.rows(place / f"{STATS}.csv"):
            cells = "  ".join(f"{row.get(one, '') or '-':>6.6}" for one in main)
            lines.append(f"{row['latent']:>8}  {cells}  {printable(row['explanation'])}")
        lines.append(f"{'latent':>8}  {'  '.join(f'{one[:6]:>6}' for one in main)}  explanation")
    if not places:
        lines += [f"{k:>8}  {printable(v)}" for k, v in explained.labels.items()]
    for task in rating.KEYS:
        lines += _agreements(folder, explained, task, places, latents, seed, record["agreement"])
    return Report(lines, record)


def _agreements(  # noqa: PLR0913 - what raters are compared by
    folder: Path,
    explained: study.Explained,
    task: str,
    places: list[Path],
    latents: int,
    seed: int,
    record: list[dict[str, Any]],
) -> list[str]:
    people = [
        rating.read_ratings(path) for path in sorted((folder / FOLDER).glob(f"{task}-*.json"))
    ]
    if not people:
        return []
    which: rating.Task = "labels" if task == "labels" else "texts"
    listed = rating.items(explained, which, latents=latents, seed=seed)
    raters: list[Ratings] = list(people)
    if which == "texts":
        raters += [
            rating.judge_as_rater(listed, answers_of(place), f"judge {place.name}")
            for place in places
            if (place / ANSWERS).exists()
        ]
        raters.append(rating.truth_as_rater(listed))
    lines = []
    for one in people:
        for maker, counts in rating.by_maker(one, listed).items():
            said = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
            lines.append(f"{one.rater} on {task} by {maker}: {said}")
    for one, other in itertools.combinations(raters, 2):
        found = rating.agreement(one, other)
        record.append({"task": task, "raters": [one.rater, other.rater]} | found._asdict())
        value = found.reason if found.value is None else f"{found.value:.2f}"
        span = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
        lines.append(f"{one.rater} and {other.rater} on {task}: kappa {value}{span}, n = {found.n}")
    return lines
