"""`saekit locality depth`, `context` and `presets`: runs on windows of text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.cli.locality import app
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


@app.command("depth")
def depth(
    sae: Sae = None,
    site: Sites = None,
    preset: PresetName = None,
    sae_root: Root = None,
    layer: Layers = None,
    model: Model = None,
    corpus: Text = None,
    dataset: Dataset = None,
    windows: Annotated[int, typer.Option(help="Windows of text.")] = 50,
    n_ctx: Annotated[int, typer.Option(help="Tokens of a window.")] = 64,
    min_active: Annotated[
        int, typer.Option(help="Refuse windows with fewer active latents at a site; 0: none.")
    ] = 0,
    threshold: Threshold = None,
    token_vector: Vector = "hutchinson",
    null: Annotated[
        list[str] | None, typer.Option(help="Baseline: random, shuffled, weights. Repeat.")
    ] = None,
    legacy_encode: Legacy = False,
    seed: Seed = 0,
    settings: Settings = None,
    memory: Memory = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    figures: Annotated[bool, typer.Option(help="Draw figures.")] = True,
    resume: Resume = False,
    tables: Format = "csv",
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("runs/locality-depth"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure entropy against depth: the same windows at every site the SAEs read.

    Example: saekit locality depth --sae demo --corpus stdlib --windows 20 --out demo/locality
    """
    from saekit.core.config import override
    from saekit.data.table_files import check
    from saekit.locality.depth import Depth, run
    from saekit.locality.measure import Measure

    check(tables)
    subjects, named = subjects_of(sae, site, preset, sae_root, layer, model)
    text, rule = text_of(corpus, dataset)
    at = threshold_of(threshold, preset)
    how = Measure(
        threshold=at, token_vector=token_vector, nulls=tuple(null or ()), seed=seed,  # type: ignore[arg-type]
        legacy_encode=legacy_encode,
    )  # fmt: skip
    config = Depth(
        corpus=text, filter=rule, n_ctx=n_ctx, windows=windows, min_active_latents=min_active,
        measure=how,
    )  # fmt: skip
    config = override(config, settings or [])
    lm = model_of(named, device)
    done = run(
        lm, subjects, config, out, resume=resume, memory_bytes=bytes_of(memory),
        shown=not quiet, tables=tables,
    )  # fmt: skip
    drawn = _drawn_depth(out, done) if figures else []
    wanted = ("entropy_bits_mean_over_windows", "token_vector_entropy_bits")
    lines = [
        f"  {k:<52} {s.text()} bits" for k, s in done.result.scores.items()
        if k.rpartition("/")[2] in wanted
    ]  # fmt: skip
    _end(out, lines, done.result, done.failures, drawn, as_json=as_json)


@app.command("context")
def context(
    sae: Sae = None,
    site: Sites = None,
    preset: PresetName = None,
    sae_root: Root = None,
    layer: Layers = None,
    model: Model = None,
    prompt: Annotated[
        Path | None, typer.Option(help="A text file: the same text for every model.")
    ] = None,
    corpus: Text = None,
    dataset: Dataset = None,
    windows: Annotated[int, typer.Option(help="Windows, where there is no --prompt.")] = 1,
    least: Annotated[int, typer.Option(help="Shortest context, tokens.")] = 8,
    most: Annotated[int | None, typer.Option(help="Longest. [2048, or the preset's]")] = None,
    step: Annotated[int | None, typer.Option(help="Between lengths. [128]")] = None,
    threshold: Threshold = None,
    token_vector: Vector = "hutchinson",
    legacy_encode: Legacy = False,
    seed: Seed = 42,
    settings: Settings = None,
    memory: Memory = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    figures: Annotated[bool, typer.Option(help="Draw figures.")] = True,
    resume: Resume = False,
    tables: Format = "csv",
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("runs/locality-context"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure entropy against context length: one last token, more and more before it.

    Several models: once for each, with the same --prompt.

    Example: saekit locality context --sae demo --prompt text.txt --most 520 --out demo/context
    """
    from saekit.core.config import override
    from saekit.data.table_files import check
    from saekit.locality.context_length import ContextLength, run
    from saekit.locality.measure import Measure

    check(tables)
    subjects, named = subjects_of(sae, site, preset, sae_root, layer, model)
    if len(subjects) != 1:
        raise ConfigError(
            f"A sweep is of one SAE at one site; got {', '.join(str(s.site) for s in subjects)}. "
            f"Choose with --site or --layer."
        )
    at = threshold_of(threshold, preset)
    how = Measure(
        threshold=at, token_vector=token_vector, seed=seed, legacy_encode=legacy_encode  # type: ignore[arg-type]
    )
    longest, between = _sizes(preset, most, step)
    sweep = ContextLength(least=least, most=longest, step=between, measure=how)
    config = override(sweep, settings or [])
    lm = model_of(named, device)
    tokens, told = _swept(lm, config, prompt, corpus, dataset, windows)
    done = run(
        lm, subjects[0], tokens, config, out, told=told, resume=resume,
        memory_bytes=bytes_of(memory), shown=not quiet, tables=tables,
    )  # fmt: skip
    if prompt is not None:
        keep_prompt(prompt, out, config.trim)
    drawn = _drawn_context(out, done) if figures else []
    lines = [
        f"  {k:<44} {s.text()} bits" for k, s in done.result.scores.items()
        if k.endswith(("/entropy_bits_pooled", "/token_vector_entropy_bits"))
    ]  # fmt: skip
    _end(out, lines, done.result, done.failures, drawn, as_json=as_json)


@app.command("draw-depth")
def draw_depth(
    runs: Annotated[list[Path], typer.Argument(help="Folders of `saekit locality depth`.")],
    kind: Annotated[str, typer.Option(help="Marks: violin or box.")] = "violin",
    out: Annotated[
        Path, typer.Option(help="The figure, .png, .svg or .pdf; a .csv goes beside.")
    ] = Path("entropy_vs_depth.png"),
    as_json: Json = False,
) -> None:
    """Draw runs of several models or corpora side by side, a panel for each.

    Example: saekit locality draw-depth runs/news runs/code --out figures/entropy_vs_depth.png
    """
    from saekit.report.figures import entropy_depth

    labels = [folder.name for folder in runs]
    if len(set(labels)) < len(labels):  # as gpt2-small/wikitext and pythia-70m/wikitext
        labels = [f"{folder.parent.name}, {folder.name}" for folder in runs]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"A run is drawn once; got {', '.join(map(str, runs))}.")
    path = entropy_depth.draw(dict(zip(labels, runs, strict=True)), out, kind)
    emit({"figure": str(path)}, as_json=as_json, lines=[f"figure   {path}"])


@app.command("presets")
def presets(as_json: Json = False) -> None:
    """List models with published SAEs: what is read, and what the published encode forgets.

    Example: saekit locality presets
    """
    from saekit.locality.presets.base import names, preset

    found = [preset(n).to_dict() for n in names()]
    lines = [
        f"{p['key']:<14} {p['model']:<34} {p['architecture']:<9} {p['sae_format']:<20} "
        f"{p['repo'] or 'your own'}" for p in found
    ]  # fmt: skip
    emit({"presets": found}, as_json=as_json, lines=lines)


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
        return QuestionAnswer(paths=(corpus,)), rule
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


def _sizes(preset: str | None, most: int | None, step: int | None) -> tuple[int, int]:
    """Return the longest context and the step."""
    from saekit.locality.presets.base import preset as find

    known = find(preset) if preset else None
    longest, between = (known.n_ctx_max, known.n_ctx_step) if known else (2048, 128)
    return longest if most is None else most, between if step is None else step


def _swept(
    lm: "LanguageModel", config: Any, prompt: Path | None, corpus: str | None,
    dataset: str | None, windows: int,
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """Return the longest windows, and where they are from."""
    from saekit.core.files import digest
    from saekit.locality import windows as drawing
    from saekit.locality.context_length import prompt_tokens

    drawing.check_length(lm, config.most, "most")
    if prompt is not None:
        if corpus is not None or dataset is not None or windows != 1:
            raise ConfigError(
                "--prompt is the text of a sweep, one window of it; --corpus, --dataset and "
                "--windows do not go with it. Give one or the other."
            )
        text = _text_of(prompt)
        told = {"prompt": prompt.name, "n_chars": len(text), "sha256": digest([text])}
        return prompt_tokens(lm.tokenizer, text, config), told | {"trim": config.trim}
    source, rule = text_of(corpus, dataset)
    drawn = drawing.from_corpus(
        source, "test", lm.tokenizer, rule, n_ctx=config.most - config.bos, windows=windows,
        seed=config.measure.seed,
    )  # fmt: skip
    told = {"corpus": source.to_dict(), "filter": rule.to_dict(), "start": drawn.start.tolist()}
    return drawn.tokens, told


def _text_of(prompt: Path) -> str:
    try:
        return prompt.read_bytes().decode("utf-8")
    except OSError as error:
        raise FormatError(f"{prompt} cannot be read as a prompt: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{prompt} is no text in UTF-8: {error}. Name a text file.") from error


def keep_prompt(prompt: Path, out: Path, trim: str) -> None:
    """Keep a sweep's text beside its results, for the sweep of another model."""
    from saekit.core.files import read_json, replace_with, sha256_of, write_json

    data, beside = prompt.read_bytes(), prompt.with_name(f"{prompt.name}.meta.json")
    told = read_json(beside) if beside.is_file() else {"source": prompt.name}
    replace_with(out / "prompt.txt", data)
    told |= {"n_chars": len(data.decode("utf-8")), "sha256": sha256_of(out / "prompt.txt")}
    write_json(out / "prompt.txt.meta.json", told | {"trim_strategy": trim})


def _drawn_depth(out: Path, done: Any) -> list[str]:
    from saekit.report.figures import entropy_depth, windows

    label = out.name
    paths = [entropy_depth.draw({label: out}, out / "figures" / f"entropy_depth_{kind}.png", kind)
             for kind in entropy_depth.KINDS]  # fmt: skip
    return [*map(str, paths), *map(str, windows.draw_all(out, out / "figures" / "windows"))]


def _drawn_context(out: Path, done: Any) -> list[str]:
    from saekit.report.figures import context_length

    return [str(context_length.draw(out, out / "figures" / "context_length.png"))]


def _end(
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
