"""`saekit locality context`: entropy against the length of context."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError, FormatError
from saekit.studies.locality.commands import app
from saekit.studies.locality.commands.options import (
    Dataset,
    Documents,
    Folders,
    Format,
    Layers,
    Legacy,
    Memory,
    Out,
    PresetName,
    Resume,
    Root,
    Saes,
    Seed,
    Settings,
    Sites,
    Text,
    Threshold,
    Vector,
    WindowOptions,
    bytes_of,
    end,
    held_out_text,
    model_of,
    subjects_of,
    threshold_of,
)
from saekit.terminal.common_options import AsJson, Device, Quiet
from saekit.terminal.output import note_lines
from saekit.terminal.sae_options import takes
from saekit.terminal.settings_help import lists

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saekit.models.base import LanguageModel
    from saekit.studies.locality.runs.context_length import ContextLength
    from saekit.studies.locality.runs.run_folder import FinishedRun
    from saekit.studies.locality.runs.subjects import Subject


@app.command("context", cls=lists("saekit.studies.locality.runs.context_length:ContextLength"))
@takes(WindowOptions)
def context(
    folders: Folders = None,
    saes: Saes = None,
    site: Sites = None,
    preset: PresetName = None,
    sae_root: Root = None,
    layers: Layers = None,
    prompt: Annotated[
        Path | None, typer.Option(help="File with the text to read, the same for every model.")
    ] = None,
    corpus: Text = None,
    dataset: Dataset = None,
    documents: Documents = 0,
    windows: Annotated[int, typer.Option(help="Windows of text, without --prompt.")] = 1,
    least: Annotated[int, typer.Option(help="Shortest context, in tokens.")] = 8,
    n_ctx: Annotated[
        int | None,
        typer.Option(
            "--n-ctx", "--most", help="Longest context, in tokens. [2048, or the preset's]"
        ),
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="Tokens from one length to the next. [128, or the preset's]")
    ] = None,
    threshold: Threshold = None,
    token_vector: Vector = "hutchinson",
    legacy_encode: Legacy = False,
    seed: Seed = 42,
    settings: Settings = None,
    memory: Memory = None,
    device: Device = "auto",
    figures: Annotated[bool, typer.Option(help="Draw figures, or not.")] = True,
    resume: Resume = False,
    tables: Format = "csv",
    out: Out = Path("runs/locality-context"),
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: WindowOptions,
) -> None:
    """Measure on how many tokens latents depend as the text before one token grows.

    SAEs of several sites are measured on the same text, each in a folder below --out. Several
    models: once for each, with the same --prompt.

    Example: saekit locality context demo --prompt text.txt --n-ctx 520 --out demo/context
    """
    from saekit.core.config import override
    from saekit.studies.locality.runs.context_length import ContextLength, run_sites
    from saekit.studies.locality.runs.measure import Measure
    from saekit.studies.locality.runs.run_folder import RunOptions

    options = RunOptions(
        resume=resume, memory_bytes=bytes_of(memory), shown=not quiet, tables=tables
    )
    every = [*(folders or []), *(saes or [])]
    subjects, named = subjects_of(every, site, layers, (preset, sae_root), sae)
    at = threshold_of(threshold, preset)
    how = Measure(
        threshold=at,
        token_vector=token_vector,  # type: ignore[arg-type]
        seed=seed,
        legacy_encode=legacy_encode,
    )
    longest, between = _sizes(preset, n_ctx, step)
    sweep = ContextLength(least=least, most=longest, step=between, measure=how)
    config = override(sweep, sae.settings(settings))
    lm = model_of(named, device)
    text = SweepText(
        prompt=prompt, corpus=corpus, dataset=dataset, documents=documents, windows=windows
    )
    tokens, source = _windows_of(lm, config, text, subjects)
    runs = run_sites(lm, subjects, tokens, config, out, options, source=source)
    if prompt is not None:
        for home in runs:
            keep_prompt(prompt, home, config.trim)
    drawn = [path for home in runs for path in (_drawn_context(home) if figures else [])]
    _end(out, runs, drawn, source.get("notes", []), as_json)


def _end(
    out: Path, runs: "dict[Path, FinishedRun]", drawn: list[str], notes: list[str], as_json: bool
) -> None:
    """Print the scores; leave with 3 where a length or a site failed."""
    wanted, many = ("/entropy_bits_pooled", "/token_vector_entropy_bits"), len(runs) > 1
    lines, scores = [], {}
    for home, done in runs.items():
        if many:
            lines.append(f"{home.name}")
        prefix = f"{home.name}/" if many else ""
        lines += [
            f"  {k:<44} {s.text()} bits"
            for k, s in done.result.scores.items()
            if k.endswith(wanted)
        ]
        scores |= {prefix + k: s for k, s in done.result.scores.items()}
    failures = [failure for done in runs.values() for failure in done.failures]
    lines += note_lines(notes)
    results = [home / "result.json" for home in runs]
    end(out, lines, (scores, results), failures, drawn, as_json=as_json)


def _sizes(preset: str | None, most: int | None, step: int | None) -> tuple[int, int]:
    """Return the longest context and the step."""
    from saekit.studies.locality.presets import preset as find

    known = find(preset) if preset else None
    longest, between = (known.n_ctx_max, known.n_ctx_step) if known else (2048, 128)
    return longest if most is None else most, between if step is None else step


@dataclass(frozen=True, kw_only=True)
class SweepText:
    """The options that say what text is read."""

    prompt: Path | None
    corpus: str | None
    dataset: str | None
    documents: int
    windows: int


def _windows_of(
    lm: "LanguageModel", config: "ContextLength", text: SweepText, subjects: "Sequence[Subject]"
) -> tuple[Any, dict[str, Any]]:
    """Return the longest windows, and where they are from."""
    from saekit.core.files import digest
    from saekit.studies.locality.runs.context_length import prompt_tokens
    from saekit.studies.locality.windows import drawing

    drawing.check_length(lm, config.most, "n_ctx")
    if text.prompt is not None:
        if (text.corpus, text.dataset, text.documents, text.windows) != (None, None, 0, 1):
            raise ConfigError(
                "--prompt is the text of a sweep, one window of it; --corpus, --dataset, "
                "--documents and --windows do not go with it. Give one or the other."
            )
        words = _text_of(text.prompt)
        source = {
            "prompt": text.prompt.name,
            "n_chars": len(words),
            "sha256": digest([words]),
            "trim": config.trim,
        }
        return prompt_tokens(lm.tokenizer, words, config), source
    corpus, rule = held_out_text(text.corpus, text.dataset, subjects)
    drawn = drawing.from_corpus(
        corpus,
        "test",
        lm.tokenizer,
        rule,
        n_ctx=config.most - config.bos,
        windows=text.windows,
        seed=config.measure.seed,
        most_docs=text.documents,
    )
    source = {
        "corpus": corpus.to_dict(),
        "filter": rule.to_dict(),
        "start": drawn.start.tolist(),
        "sample": None if drawn.sample is None else drawn.sample.record(),
        "notes": drawing.notes_on(drawn, text.windows),
    }
    return drawn.tokens, source


def _text_of(prompt: Path) -> str:
    try:
        return prompt.read_bytes().decode("utf-8")
    except OSError as error:
        raise FormatError(f"{prompt} cannot be read as a prompt: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{prompt} is not text in UTF-8: {error}. Name a text file.") from error


def keep_prompt(prompt: Path, out: Path, trim: str) -> None:
    """Keep a sweep's text beside its results, for the sweep of another model."""
    from saekit.core.files import read_json, replace_with, sha256_of, write_json

    data, beside = prompt.read_bytes(), prompt.with_name(f"{prompt.name}.meta.json")
    told = read_json(beside) if beside.is_file() else {"source": prompt.name}
    replace_with(out / "prompt.txt", data)
    told |= {"n_chars": len(data.decode("utf-8")), "sha256": sha256_of(out / "prompt.txt")}
    write_json(out / "prompt.txt.meta.json", told | {"trim_strategy": trim})


def _drawn_context(out: Path) -> list[str]:
    from saekit.studies.locality.figures import context_length

    return [str(context_length.draw(out, out / "figures" / "context_length.png"))]
