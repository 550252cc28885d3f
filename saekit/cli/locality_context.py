"""`saekit locality context`: entropy against the length of context."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.cli.locality import app
from saekit.cli.locality_options import (
    Dataset,
    Format,
    Json,
    Layers,
    Legacy,
    Memory,
    Model,
    PresetName,
    Quiet,
    Resume,
    Root,
    Sae,
    Seed,
    Settings,
    Sites,
    Text,
    Threshold,
    Vector,
    bytes_of,
    end,
    model_of,
    subjects_of,
    text_of,
    threshold_of,
)
from saekit.core.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from saekit.models.base import LanguageModel


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
    end(out, lines, done.result, done.failures, drawn, as_json=as_json)


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


def _drawn_context(out: Path, done: Any) -> list[str]:
    from saekit.report.figures import context_length

    return [str(context_length.draw(out, out / "figures" / "context_length.png"))]
