"""Options that several commands of `saekit locality` take, what they open, and how a run ends."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.cli.show import emit
from saekit.core.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from saekit.locality.measure import Failure
    from saekit.locality.subjects import Named, Subject
    from saekit.models.base import LanguageModel

Sae = Annotated[
    list[Path] | None, typer.Option("--sae", help="A run's folder, or one with an SAE. Repeat.")
]
Sites = Annotated[
    list[str] | None, typer.Option("--site", help="Only these of the sites it reads. Repeat.")
]
PresetName = Annotated[
    str | None, typer.Option("--preset", help="Model and SAEs by name (locality presets).")
]
Root = Annotated[
    Path | None, typer.Option("--sae-root", help="Folder with the files of a preset's SAEs.")
]
Layers = Annotated[
    list[int] | None, typer.Option("--layer", help="Layers of the preset. Repeat. [published]")
]
Model = Annotated[
    str | None, typer.Option(help="Language model, by name or folder. [the SAE's, the preset's]")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the run, as measure.probes=128. Repeat."),
]
Memory = Annotated[
    float | None, typer.Option("--memory", help="GB for gradients. [half of what is free]")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Format = Annotated[str, typer.Option("--format", help="Of tables: csv, or parquet.")]
Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]
Seed = Annotated[int, typer.Option(help="Decides windows, probes and nulls.")]
Threshold = Annotated[
    float | None, typer.Option(help="A latent counts above this. [0, or the preset's]")
]
Vector = Annotated[
    str, typer.Option("--token-vector", help="Baseline: none, exact or hutchinson.")
]
Legacy = Annotated[
    bool, typer.Option("--legacy-encode", help="Encode as the published code does.")
]
Text = Annotated[
    str | None, typer.Option("--corpus", help="packaged, stdlib, a path, or a hub data set.")
]
Dataset = Annotated[
    str | None,
    typer.Option(help="Window filter, and text where no --corpus: plain, wikitext, gsm8k, "
                      "code-python."),
]  # fmt: skip


def subjects_of(
    sae: list[Path] | None, site: list[str] | None, preset: str | None, root: Path | None,
    layers: list[int] | None, model: str | None,
) -> tuple[list["Subject"], "Named"]:  # fmt: skip
    """Return the SAEs of a run, and what names their language model.

    Raises:
        ConfigError: neither or both of --sae and --preset, or SAEs of several models.
    """
    from saekit.locality import subjects
    from saekit.locality.presets.base import preset as find

    if bool(sae) == (preset is not None):
        came = "both" if sae else "neither"
        raise ConfigError(
            f"Give SAEs with --sae, or a --preset with --sae-root; got {came}. Presets: saekit "
            f"locality presets."
        )
    if sae and (root is not None or layers):
        raise ConfigError("--sae-root and --layer go with --preset. Choose sites with --site.")
    if preset is not None and site:
        raise ConfigError("--site goes with --sae. Choose layers of a preset with --layer.")
    if preset is not None:
        return subjects.of_preset(find(preset), root, layers or (), model)
    found, named = subjects.of_folders(sae or [], site or ())
    return found, named if model is None else subjects.Named(model)


def model_of(named: "Named", device: str) -> "LanguageModel":
    """Return the language model of SAEs, in float32, for gradients.

    Raises:
        FormatError: the model of that name is now another one.
    """
    from saekit.models.hf import load

    lm = load(named.name, revision=named.hub_revision, dtype="float32", device=device)
    if named.revision not in (None, lm.revision):
        raise FormatError(
            f"The SAE was trained on {named.name} at revision {named.revision}; what loads under "
            f"that name now is {lm.revision}. Point the name at the right model."
        )
    return lm


def text_of(corpus: str | None, dataset: str | None) -> tuple[Any, Any]:
    """Return the corpus and the window filter.

    Raises:
        ConfigError: the data set has no text of its own and none is given.
        UnknownNameError: there is no such filter or corpus.
    """
    from saekit.data.corpora.hub import Hub
    from saekit.data.corpora.question_answer import QuestionAnswer
    from saekit.data.open import open_corpus
    from saekit.locality.filters.base import registry

    name = dataset or ("code-python" if corpus == "stdlib" else "plain")
    rule = registry.get(name)()
    if corpus is not None and name == "gsm8k":
        return QuestionAnswer(paths=(str(Path(corpus).expanduser().absolute()),)), rule
    if corpus is not None:
        return open_corpus(corpus), rule
    if name == "gsm8k":
        raise ConfigError("Give the rows of GSM8K (question, answer) with --corpus FILE.jsonl.")
    if name == "wikitext":
        return Hub(repo="Salesforce/wikitext", config="wikitext-2-raw-v1", test_share=0.0), rule
    return open_corpus("stdlib" if name == "code-python" else "packaged"), rule


def bytes_of(gigabytes: float | None) -> int | None:
    """Return a budget of memory in bytes.

    Raises:
        ConfigError: it is not above 0.
    """
    if gigabytes is not None and not gigabytes > 0:
        raise ConfigError(f"`--memory` is a number of GB above 0; got {gigabytes}.")
    return None if gigabytes is None else int(gigabytes * 1e9)


def threshold_of(given: float | None, preset: str | None) -> float:
    """Return the threshold that was given, or the preset's."""
    from saekit.locality.presets.base import preset as find

    if given is not None:
        return given
    return find(preset).threshold if preset else 0.0


def end(
    out: Path, lines: list[str], result: Any, failures: list["Failure"], drawn: list[str],
    *, as_json: bool,
) -> None:  # fmt: skip
    """Print what was found; leave with 3 where a window, a length or a layer failed."""
    record = {
        "result": str(out / "result.json"),
        "scores": {k: s.value for k, s in result.scores.items()},
        "failures": [f._asdict() for f in failures],
        "figures": drawn,
    }
    lines = [*lines, *(f"failed   {f.site}, {f.unit}: {f.reason}" for f in failures)]
    lines += [f"figure   {path}" for path in drawn[:4]]
    if len(drawn) > 4:
        lines.append(f"         and {len(drawn) - 4} more in {out / 'figures'}")
    emit(record, as_json=as_json, lines=[*lines, f"result   {out / 'result.json'}"])
    if failures:
        raise typer.Exit(3)
