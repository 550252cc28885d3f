"""Options that several commands of `saekit locality` take, what they open, and how a run ends.

The same option has the same words everywhere: --site, --layers, --n-ctx, --corpus, --tokens,
--seed, --out, --device, --set, --resume, --quiet, --json. What files of SAEs leave out is said as
to every other command (`sae_options`); --n-ctx is of windows here, and the language model computes
in float32, for gradients of rounded numbers are none.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError, FormatError
from saekit.terminal.output import emit
from saekit.terminal.sae_options import HintOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saekit.activations.latents import LatentStore
    from saekit.data.base import Corpus
    from saekit.hub.trained import TrainedSAE
    from saekit.models.base import LanguageModel
    from saekit.studies.locality.runs.measure import Failure
    from saekit.studies.locality.runs.subjects import ModelName, Subject

PARTLY = 3  # exit code: done, but not all of it

Folders = Annotated[
    list[Path] | None, typer.Argument(metavar="[SAE]...", help="Folders of runs or SAEs.")
]
Folder = Annotated[Path, typer.Argument(metavar="SAE", help="Folder of a run or an SAE.")]
Saes = Annotated[
    list[Path] | None,
    typer.Option("--sae", help="Folder of a run or an SAE, as an option. Repeatable."),
]
Sites = Annotated[
    list[str] | None,
    typer.Option(
        "--site",
        help="Site to study, of those that the SAE reads, or its site if its files do "
        "not say. Repeatable. [all]",
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset", help="Published model and SAEs to study (see: saekit locality presets)."
    ),
]
Root = Annotated[
    Path | None, typer.Option("--sae-root", help="Folder with the files of the preset's SAEs.")
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        "--layer",
        help="Layers to study, as 0,3,6-11. Repeatable. [all; for a preset, the published ones]",
    ),
]
NCtx = Annotated[int, typer.Option("--n-ctx", help="Tokens in a window of text.")]
Documents = Annotated[
    int,
    typer.Option(
        help="Draw windows from this many documents at the beginning of the corpus; 0 is all of it."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder to write to.")]
OutOrBeside = Annotated[
    Path | None,
    typer.Option("--out", help="Folder to write to. [SAE/locality/NAME of the command]"),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, of those listed below. Repeatable.")
]
Memory = Annotated[
    float | None,
    typer.Option("--memory", help="Most memory for gradients, in GB. [half of what is free]"),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue what is in --out; give the other options as before."),
]
Format = Annotated[str, typer.Option("--format", help="File type of tables: csv or parquet.")]
Seed = Annotated[int, typer.Option(help="Seed that decides windows, probes and nulls.")]
Threshold = Annotated[
    float | None,
    typer.Option(help="A latent is on above this activation, in act units. [0, or the preset's]"),
]
NLatents = Annotated[int, typer.Option(help="Number of latents to draw if none are named.")]
MinDensity = Annotated[
    float,
    typer.Option(help="Draw only latents that are on at no smaller share of tokens than this."),
]
MaxDensity = Annotated[
    float,
    typer.Option(help="Draw only latents that are on at no larger share of tokens than this."),
]
Above = Annotated[float, typer.Option(help="A latent is on above this activation, in act units.")]
Vector = Annotated[
    str,
    typer.Option(
        "--token-vector",
        help="How to compute the token vector, a baseline: exact, hutchinson (an "
        "estimate from random probes), or none.",
    ),
]
Legacy = Annotated[
    bool,
    typer.Option(
        "--legacy-encode",
        help="Encode as the published code does, mistakes included, to compare with its numbers.",
    ),
]
Text = Annotated[
    str | None,
    typer.Option(
        "--corpus", help="Text: packaged, stdlib, a file or glob, or a hub dataset OWNER/NAME."
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        help="Which windows may be used: plain, wikitext, gsm8k or code-python; "
        "without --corpus also which text. [plain]"
    ),
]


@dataclass(frozen=True, kw_only=True)
class WindowOptions(HintOptions):
    """What the user says of SAEs that are studied on windows of text, which have no rows."""

    bos: Annotated[
        bool | None, typer.Option("--bos/--no-bos", help="Put BOS before each window, or not. [no]")
    ] = None

    def settings(self, others: list[str] | None) -> list[str]:
        """Return the settings of `--set`, and before them what these options set."""
        bos = [] if self.bos is None else [f"bos={str(self.bos).lower()}"]
        return [*bos, *(others or [])]


def subjects_of(
    folders: list[Path],
    site: list[str] | None,
    layers: list[str] | None,
    released: tuple[str | None, Path | None],
    sae: HintOptions,
) -> tuple[list["Subject"], "ModelName"]:
    """Return the SAEs of a run, and what names their language model.

    Args:
        folders: of SAEs.
        site: which of the sites that they read.
        layers: likewise.
        released: a preset, and the folder with the files of its release.
        sae: what the user says where files do not.

    Raises:
        ConfigError: neither or both of SAEs and --preset, or SAEs of several models.
    """
    from saekit.studies.locality.presets import preset as find
    from saekit.studies.locality.runs import subjects

    preset, root = released
    if bool(folders) == (preset is not None):
        came = "both" if folders else "neither"
        raise ConfigError(
            f"Give folders of SAEs, or a --preset with --sae-root; got {came}. Presets: saekit "
            f"locality presets."
        )
    if folders and root is not None:
        raise ConfigError("--sae-root goes with --preset. Choose sites with --site or --layers.")
    if preset is not None and site:
        raise ConfigError("--site goes with folders of SAEs. Choose a preset's with --layers.")
    if site and layers:
        raise ConfigError("--site and --layers both choose sites. Give one of them.")
    wanted = layers_of(layers)
    if preset is not None:
        _check_preset(preset, sae)
        return subjects.of_preset(find(preset), root, wanted, sae.model)
    read = functools.partial(sae.read_from, corpus="")  # windows are of a text of their own
    found, named = subjects.of_folders(folders, site or (), wanted, read)
    return found, named if sae.model is None else subjects.ModelName(sae.model)


def _check_preset(preset: str, sae: HintOptions) -> None:
    """Refuse words on files whose every gap the preset fills.

    Raises:
        ConfigError: there are some.
    """
    given = {
        "--from": sae.from_,
        "--read": sae.read,
        "--write": sae.write,
        "--k": sae.k,
        "--architecture": sae.architecture,
        "--input-scale": sae.input_scale,
    }
    if said := [option for option, value in given.items() if value]:
        raise ConfigError(
            f"The preset {preset} says all of its files; got {', '.join(said)}. Leave that out, or "
            f"give the folder of an SAE in place of --preset."
        )


def layers_of(words: list[str] | None) -> list[int]:
    """Return the layers that `--layers` names; none: all."""
    return list(dict.fromkeys(i for w in words or () for i in numbers(w, 10_000, "--layers")))


def opened(
    folder: Path,
    site: list[str] | None,
    layers: list[str] | None,
    preset: str | None,
    sae: HintOptions,
    corpus: str | None = "",
) -> "TrainedSAE":
    """Return the SAE of a folder, for one of the sites that it reads.

    Args:
        folder: of a run or an SAE; of a preset, with the files of its release.
        site: which, of those it reads; where its files do not say, the one.
        layers: likewise; of a preset, one.
        preset: whose release it is.
        sae: what the user says where files do not.
        corpus: text that will be read, None: that of training, "": none.

    Raises:
        ConfigError: several sites are chosen, or one that it does not read.
        FormatError: the folder holds no SAE.
    """
    from saekit.studies.locality.presets import preset as find
    from saekit.studies.locality.runs.subjects import loaded_layer, located

    if preset is not None:
        _check_preset(preset, sae)
        wanted_layers = layers_of(layers)
        if site or len(wanted_layers) != 1:
            raise ConfigError(
                f"Of a preset one layer is studied at a time. Give --layers with one of "
                f"{', '.join(map(str, find(preset).layers))}, and no --site."
            )
        return sae.answered(loaded_layer(find(preset), folder, wanted_layers[0]))
    read = functools.partial(sae.read_from, corpus=corpus)
    reads = located(folder, site or (), read).card.pair.reads
    if not site and not layers:
        return read(folder)
    wanted, deep = set(site or ()), set(layers_of(layers))
    found = [str(s) for s in reads if str(s) in wanted or s.layer in deep]
    if len(found) != 1 or len(wanted) > 1:
        raise ConfigError(
            f"One site is studied at a time; --site and --layers choose "
            f"{', '.join(found) or 'none'} of those that {folder} reads, "
            f"{', '.join(map(str, reads))}."
        )
    return read(folder, site=found[0])


def float32_model(loaded: "TrainedSAE", device: str, name: str | None = None) -> "LanguageModel":
    """Return the model an SAE was trained on, in float32: gradients are not for rounded ones."""
    from saekit.hub.opening import model_of

    model = loaded.card.model | {"dtype": "float32"}
    return model_of(replace(loaded, card=replace(loaded.card, model=model)), device, name)


def codes_of(
    loaded: "TrainedSAE",
    lm: "LanguageModel",
    text: "tuple[Corpus | str | None, str]",
    folder: Path,
    tokens: int,
    *,
    sizes: tuple[int, int],
    shown: bool,
) -> "LatentStore":
    """Return the codes of whole documents, made in `folder`.

    Args:
        loaded: the SAE.
        lm: its model.
        text: corpus or its name, None for that of the SAE's run; and split.
        folder: to make; codes that are there are made anew.
        tokens: at which number no further document is begun.
        sizes: tokens of a pass, and of its overlap with the one before.
        shown: whether progress is.

    Raises:
        ConfigError: there is no such split, or no text.
    """
    from saekit.analysis.document_index import DocumentIndex
    from saekit.data.base import as_split
    from saekit.hub.opening import complete, text_of

    split = as_split(text[1])
    chosen = text_of(loaded, text[0])
    cfg = DocumentIndex(n_ctx=sizes[0], overlap=sizes[1])
    loaded = complete(loaded, lm, chosen)  # SAEs of other libraries come without a token rule
    return cfg.write(loaded, lm, (chosen, split), folder, tokens=tokens, shown=shown)


def numbers(text: str, below: int, option: str = "--latents") -> list[int]:
    """Return the numbers that a word names, each once, in its order.

    Raises:
        ConfigError: it is no list of numbers and ranges, or one is out of range.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(f"`{option}` reads 3,17,200-210; got {text!r}.")
        ends = int(first), int(last or first)
        if not ends[0] <= ends[1] < below:  # checked before a range is spelt out
            raise ConfigError(
                f"`{option}` must name numbers of 0..{below - 1}, ranges upwards; got {text!r}."
            )
        found |= dict.fromkeys(range(ends[0], ends[1] + 1))
    return list(found)


def model_of(named: "ModelName", device: str) -> "LanguageModel":
    """Return the language model of SAEs, in float32, for gradients.

    Raises:
        ConfigError: nobody said which it is.
        FormatError: the model of that name is now another one.
    """
    from saekit.models.hf import load
    from saekit.models.model_files import pinned

    if named.name == "unknown":
        raise ConfigError("The SAE's files do not say the language model. Name it with --model.")
    revision = pinned(named.hub_revision, {"revision": named.revision})
    lm = load(named.name, revision=revision, dtype="float32", device=device)
    if named.revision not in (None, lm.revision):
        raise FormatError(
            f"The SAE was trained on {named.name} at revision {named.revision}; what loads under "
            f"that name now is {lm.revision}. Point the name at the right model."
        )
    return lm


def held_out_text(
    corpus: str | None, dataset: str | None, subjects: "Sequence[Subject]"
) -> tuple[Any, Any]:
    """Return the corpus, of which no test document was in a training of these SAEs, and the filter.

    One that is read whole, as the published runs read theirs, stays whole.

    Raises:
        ConfigError: the trainings kept no text in common; or as `text_of`.
    """
    from saekit.data.held_out import kept_from_all

    text, rule = text_of(corpus, dataset)
    if text.shares is not None and not text.shares.held_out:
        return text, rule
    trained = [(f"{s.source} at {s.site}", s.trained_on) for s in subjects]
    return kept_from_all(text, trained, "test"), rule


def text_of(corpus: str | None, dataset: str | None) -> tuple[Any, Any]:
    """Return the corpus and the window filter.

    Raises:
        ConfigError: the data set has no text of its own and none is given.
        UnknownNameError: there is no such filter or corpus.
    """
    from saekit.data.corpora.hub import Hub
    from saekit.data.corpora.question_answer import QuestionAnswer
    from saekit.data.open import open_corpus
    from saekit.studies.locality.filters.base import registry

    name = dataset or ("code-python" if corpus == "stdlib" else "plain")
    rule = registry.get(name)()
    if corpus is not None and name == "gsm8k":
        return QuestionAnswer(paths=(str(Path(corpus).expanduser().absolute()),)), rule
    if corpus is not None:
        return open_corpus(corpus), rule
    if name == "gsm8k":
        raise ConfigError("Give the rows of GSM8K (question, answer) with --corpus FILE.jsonl.")
    if name == "wikitext":
        repo, config = "Salesforce/wikitext", "wikitext-2-raw-v1"
        # As the published runs read it: whole.
        return Hub(repo=repo, config=config, test_share=0.0, validation_share=0.0), rule
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
    from saekit.studies.locality.presets import preset as find

    if given is not None:
        return given
    return find(preset).threshold if preset else 0.0


def end(
    out: Path,
    lines: list[str],
    found: tuple[dict[str, Any], list[Path]],
    failures: list["Failure"],
    drawn: list[str],
    *,
    as_json: bool,
) -> None:
    """Print what was found; leave with 3 where a window, a length or a layer failed.

    Args:
        out: folder of the run.
        lines: what a reader is shown of the scores.
        found: the scores, and the files of results.
        failures: what could not be measured.
        drawn: the figures.
        as_json: print one line of JSON instead.
    """
    scores, results = found
    record = {
        "result": str(results[0]),
        "results": [str(path) for path in results],
        "scores": {k: s.value for k, s in scores.items()},
        "failures": [f._asdict() for f in failures],
        "figures": drawn,
    }
    lines = [*lines, *(f"failed   {f.site}, {f.unit}: {f.reason}" for f in failures)]
    lines += [f"figure   {path}" for path in drawn[:4]]
    if len(drawn) > 4:
        lines.append(f"         and {len(drawn) - 4} more in {out}")
    lines += [f"result   {path}" for path in results]
    emit(record, as_json=as_json, lines=lines)
    if failures:
        raise typer.Exit(PARTLY)
