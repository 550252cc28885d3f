"""Explanation: a line that says when the latent is on, and how it stands to its controls."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.files import read_object
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.panels import base
from saekit.report.panels.base import Measured, number, registry

LABELS = ("explain*/labels.json",)
ANSWERS = "answers.json"
ABOUT = {
    "detection": "A judge says of each text whether the latent fires on it.",
    "fuzzing": "A judge says whether the right words of a text are marked.",
    "intruder": "A judge says which of some texts the latent does not fire on.",
    "embedding": "Texts that fire are nearer to the explanation than others, by their embeddings.",
    "simulation": "A judge says how strong the latent is on each token: correlation.",
    "steering": "A judge tells the explanation from what the model writes with the latent up.",
}
CONTROLS = {
    "random": "another latent's explanation",
    "tokens": "without a language model",
    "shuffled": "shuffled truths",
}
SAID = {1.0: "says it fires", 0.0: "says it does not fire"}


@final
@registry.register
class ExplainPanel(Measured):
    """A line that says when a latent is on, with its scores."""

    name: ClassVar[str] = "explain"
    title: ClassVar[str] = "Explanation"
    about: ClassVar[str] = (
        "A language model was shown the latent's examples and said in a line what they share. "
        "Judges then told from that line alone on which other texts it fires."
    )

    tables: ClassVar[tuple[str, ...]] = ("explain*/scores/*/explanations.csv",)
    lacking: ClassVar[str] = "This latent was not explained."
    command: ClassVar[str] = "saekit explain run {run} --latent {latent} --out NEW"

    @override
    def of_row(self, path: Path, run: Path, row: dict[str, str], latent: int) -> list[Block]:
        return _blocks(path, run, row, latent)

    @override
    def without(self, run: Path, latent: int) -> list[Block]:
        paths = base.found(run, LABELS)
        return [block for path in paths for block in _unscored(path, run, latent)]


def _blocks(path: Path, run: Path, row: dict[str, str], latent: int) -> list[Block]:
    source = f"{base.named(path, run)}; saekit explain score"
    title = f"Judged by {path.parent.name}"
    found = [blocks.label(row["explanation"], by="saekit explain", title=title, source=source)]
    facts = []
    for name in (key.removesuffix("_invalid") for key in row if key.endswith("_invalid")):
        said: list[str] = [ABOUT.get(name, "")]
        for control, words in CONTROLS.items():
            if (value := number(row.get(f"{name}_{control}"))) is not None:
                said.append(f"{words}: {value:.2f}.")
        if invalid := number(row[f"{name}_invalid"]):
            said.append(f"{invalid:.0%} of the replies were no answer.")
        value = number(row.get(name))
        more: dict[str, Any] = {"about": " ".join(one for one in said if one)}
        if value is not None and value == number(row.get(f"{name}_accuracy")):
            more |= {"low": number(row[f"{name}_low"]), "high": number(row[f"{name}_high"])}
        shown = row.get(f"{name}_reason", "") if value is None else value
        facts.append(blocks.fact(name.capitalize(), shown, **more))
    facts.append(blocks.fact("Without a language model", row["without_model"]))
    found.append(blocks.facts(facts, source=source))
    texts = []
    answers = path.with_name(ANSWERS)
    by_latent = base.kept(_detected, answers) if answers.exists() else {}
    for one in by_latent.get(latent, []):
        right = one["said"] == one["truth"]
        fires = "fires" if one["truth"] else "does not fire"
        judged = SAID.get(one["said"], "gives no answer")
        texts.append((one["about"], "hit" if right else "miss", f"{fires}; the judge {judged}"))
    if texts:
        found.append(blocks.texts(texts, title="Texts it was judged on", source=source))
    return found


def _unscored(path: Path, run: Path, latent: int) -> list[Block]:
    """Return the explanation of a latent that no judge has seen yet."""
    one = base.kept(read_object, path).get(str(latent))
    line = (
        next((t["text"] for t in one["tried"] if t["verdict"] == "usable"), None) if one else None
    )
    if line is None:
        return []
    source = f"{base.named(path, run)}; saekit explain run"
    command = f"saekit explain score {base.quoted(path.parent)}"
    shown = blocks.label(line, by="saekit explain", title="Not judged yet", source=source)
    return [shown, blocks.missing("How right it is has not been measured.", command)]


def _detected(path: Path) -> dict[int, list[dict[str, Any]]]:
    """Return the answers about the explanation in detection, by latent."""
    some = read_object(path).get("detection", {}).get("label", {})
    return {int(latent): said for latent, said in some.items()}
