"""`saekit locality events, draw, cards`: H_pos where latents are strongest."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.cli.locality import app
from saekit.cli.locality_options import Format, Memory, bytes_of
from saekit.cli.show import emit
from saekit.core.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from saekit.activations.latents import LatentStore
    from saekit.hub.native import Loaded
    from saekit.models.base import LanguageModel

Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Latents = Annotated[
    str | None, typer.Option(help="Latents by number, as 3,17,200-210. [drawn from living ones]")
]
Index = Annotated[Path | None, typer.Option(help="Folder of `saekit index`. [SAE/index]")]
PARTLY = 3  # exit code: done, but for some events


@app.command("events")
def events(
    sae: Annotated[Path, typer.Argument(help="A run's folder, or a folder with an SAE.")],
    index: Index = None,
    latents: Latents = None,
    n_latents: Annotated[int, typer.Option(help="Latents drawn where none are named.")] = 50,
    features: Annotated[
        Path | None, typer.Option(help="YAML or JSON with `features`: feature_id, description.")
    ] = None,
    min_density: Annotated[float, typer.Option(help="Least share of tokens, drawn ones.")] = 1e-5,
    max_density: Annotated[float, typer.Option(help="Most of it.")] = 0.1,
    top: Annotated[int, typer.Option(help="Events per latent.")] = 16,
    per: Annotated[str, typer.Option(help="One event per: document or row.")] = "document",
    n_ctx: Annotated[
        list[int] | None, typer.Option(help="Window, tokens. Repeatable. [16 32 64 96 128]")
    ] = None,
    threshold: Annotated[float, typer.Option(help="An activation counts above this.")] = 0.0,
    same_tokens: Annotated[
        int, typer.Option(help="Events of a latent with so many equal last tokens are one.")
    ] = 32,
    legacy_encode: Annotated[
        bool, typer.Option("--legacy-encode", help="Encode as the published code did.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides which latents are drawn.")] = 0,
    figures: Annotated[bool, typer.Option(help="Draw figures and cards.")] = True,
    tables: Format = "csv",
    out: Annotated[Path | None, typer.Option(help="Folder to make. [SAE/locality/events]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    memory: Memory = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score how far back latents look at the tokens where they are strongest.

    Example: saekit locality events demo --n-latents 40 --top 8 --n-ctx 32 --n-ctx 64
    """
    from saekit.data.table_files import check
    from saekit.hub.native import load
    from saekit.locality import events as found_events
    from saekit.locality.event_run import EventRun
    from saekit.locality.windows import check_length

    check(tables)
    if per not in ("document", "row"):
        raise ConfigError(f"`--per` is document or row; got {per}.")
    run = EventRun(threshold=threshold, legacy_encode=legacy_encode)
    run = replace(run, n_ctx=tuple(n_ctx)) if n_ctx else run
    about = _features(features) if features else {}
    loaded = load(sae)
    store = open_index(index or sae / "index", loaded)
    chosen = numbers(latents, store.d_sae) if latents else list(about)
    drawn = not chosen
    if drawn:
        chosen = draw_latents(store, n_latents, (min_density, max_density), seed)
    lm = float32_model(loaded, device)
    check_length(lm, max(run.n_ctx) + (loaded.card.bos_id(lm.tokenizer) is not None), "n_ctx")
    places = _places(store, chosen, top, per, threshold)
    found = found_events.from_store(store, *places, n_ctx=max(run.n_ctx))
    found = found_events.strongest(found_events.distinct(found, same_tokens), top)
    folder = out or sae / "locality" / "events"
    source = {
        "index": str(index or sae / "index"), "tokens": store.n_tokens, "per": per, "top": top,
        "same_tokens": same_tokens, "latents": "drawn" if drawn else "named", "seed": seed,
        "density": [min_density, max_density] if drawn else None,
        "densities": {str(a): int(store.counts[a]) / store.n_tokens for a in sorted(chosen)},
    }  # fmt: skip
    counts = run.write(
        loaded, lm, found, folder, source=source, about=about,
        resume=resume, memory_bytes=bytes_of(memory), shown=not quiet, tables=tables,
    )  # fmt: skip
    finish(folder, counts, figures, as_json)


@app.command("draw-events")
def draw(
    folder: Annotated[Path, typer.Argument(help="Folder of `saekit locality events`.")],
    n_ctx: Annotated[int | None, typer.Option(help="Window. [the longest]")] = None,
    as_json: Json = False,
) -> None:
    """Draw the figures of events again, from their files, of either published generation.

    Example: saekit locality draw-events demo/locality/events --n-ctx 64
    """
    from saekit.report.event_pages import draw_all

    drawn, missing = draw_all(folder, n_ctx)
    lines = [f"figure   {path}" for path in drawn] + [f"left out {m}" for m in missing]
    emit({"figures": [str(p) for p in drawn], "missing": missing}, as_json=as_json, lines=lines)


@app.command("cards")
def cards(
    folder: Annotated[Path, typer.Argument(help="Folder of `saekit locality events`.")],
    n_ctx: Annotated[int | None, typer.Option(help="Window. [the longest]")] = None,
    latents: Latents = None,
    top: Annotated[int, typer.Option(help="Events shown per latent.")] = 5,
    tokens: Annotated[int, typer.Option(help="Tokens shown per event.")] = 16,
    out: Annotated[Path | None, typer.Option(help="Page. [FOLDER/feature_case_studies.html]")]
    = None,
    as_json: Json = False,
) -> None:
    """Write a page of case studies: a card a latent, texts tinted by influence.

    Example: saekit locality cards demo/locality/events --latents 12,40 --tokens 32
    """
    from saekit.report.event_pages import write_cards

    if top < 1 or tokens < 1:
        raise ConfigError(f"`--top` and `--tokens` must be at least 1; got {top} and {tokens}.")
    path = write_cards(
        folder, out or folder / "feature_case_studies.html", n_ctx=n_ctx,
        latents=numbers(latents, 2**31) if latents else None, top=top, tokens=tokens,
    )  # fmt: skip
    record = {"page": str(path), "bytes": path.stat().st_size}
    emit(record, as_json=as_json, lines=[f"page     {path}"])


@app.command("table")
def feature_table(
    folder: Annotated[Path, typer.Argument(help="Folder of `saekit locality events`.")],
    n_ctx: Annotated[int | None, typer.Option(help="Window. [the longest]")] = None,
    max_peak_diversity: Annotated[
        float, typer.Option(help="Leave out latents with a larger share of distinct peak tokens.")
    ] = 1.0,
    min_recall: Annotated[
        float | None, typer.Option(help="Leave out latents whose explanation has a lower recall.")
    ] = None,
    exclude_bos_dominated: Annotated[
        bool, typer.Option("--exclude-bos-dominated", help="Leave out those mostly on at BOS.")
    ] = False,
    neuronpedia: Annotated[
        Path | None, typer.Option(help="Folder MODEL/SAE of a cache, for recall and BOS.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a page with a row for each latent of a folder of events, the most local first.

    Example: saekit locality table demo/locality/events --max-peak-diversity 0.5
    """
    from saekit.locality.quality import Kept
    from saekit.report.event_pages import write_table

    kept = Kept(
        min_recall=min_recall, max_peak_diversity=max_peak_diversity,
        exclude_bos_dominated=exclude_bos_dominated,
    )  # fmt: skip
    path = write_table(folder, n_ctx=n_ctx, kept=kept, cache=neuronpedia)
    emit({"page": str(path)}, as_json=as_json, lines=[f"page     {path}"])


def finish(folder: Path, counts: dict[str, Any], figures: bool, as_json: bool) -> None:
    """Draw where asked, print what there is, and end with 3 where events failed."""
    drawn: list[Path] = []
    missing: list[str] = []
    if figures:
        from saekit.report.event_pages import draw_all, write_cards, write_table

        drawn, missing = draw_all(folder)
        drawn += [write_cards(folder, folder / "feature_case_studies.html"), write_table(folder)]
    ok = ", ".join(f"N={n}: {k}" for n, k in counts["ok"].items())
    lines = [
        f"events   {folder}: {counts['latents']} latents, {counts['events']} events",
        f"scored   {ok}",
        *(f"figure   {path}" for path in drawn),
        *(f"left out {m}" for m in missing),
    ]
    if counts["failed"]:
        lines.append(f"failed   {counts['failed']} events; see {folder / 'manifest.json'}")
    record = {"events_folder": str(folder), "figures": [str(p) for p in drawn], **counts}
    emit(record | {"missing": missing}, as_json=as_json, lines=lines)
    if counts["failed"]:
        raise typer.Exit(PARTLY)


def numbers(text: str, below: int) -> list[int]:
    """Return the latents that a word names, each once, in its order.

    Raises:
        ConfigError: it is no list of numbers and ranges, or one is out of range.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ConfigError(f"`--latents` reads 3,17,200-210; got {text!r}.")
        found |= dict.fromkeys(range(int(first), int(last or first) + 1))
    if not found or max(found) >= below:
        raise ConfigError(f"`--latents` must name latents of 0..{below - 1}; got {text!r}.")
    return list(found)


def draw_latents(
    store: "LatentStore", n: int, density: tuple[float, float], seed: int
) -> list[int]:
    """Return `n` latents drawn from those whose share of tokens is in a range, in order.

    Raises:
        ConfigError: `n` is below 1, or no latent is in the range.
    """
    import torch

    from saekit.core.seeds import generator

    share = store.counts.double() / store.n_tokens
    pool = ((share >= density[0]) & (share <= density[1]) & (store.counts > 0)).nonzero()[:, 0]
    if n < 1 or not len(pool):
        raise ConfigError(
            f"Asked for {n} of {len(pool)} latents with a density of {density[0]:g} to "
            f"{density[1]:g}. Ask for 1 or more, or widen --min-density and --max-density."
        )
    order = torch.randperm(len(pool), generator=generator(seed, "latents"))
    return sorted(pool[order[:n]].tolist())


def open_index(folder: Path, loaded: "Loaded") -> "LatentStore":
    """Return the store of an SAE's codes.

    Raises:
        FormatError: there is none, or it is of an SAE of another width.
    """
    from saekit.activations.latents import LatentStore

    if not (folder / "manifest.json").exists():
        raise FormatError(f"There is no index in {folder}. Make one: saekit index {folder.parent}")
    store = LatentStore.open(folder)
    if store.d_sae != loaded.sae.cfg.d_sae:
        raise FormatError(
            f"{folder} is of an SAE with {store.d_sae} latents; this has "
            f"{loaded.sae.cfg.d_sae}. Index again, or name the right one with --index."
        )
    return store


def float32_model(loaded: "Loaded", device: str) -> "LanguageModel":
    """Return the model an SAE was trained on, in float32: gradients are not for rounded ones."""
    from saekit.hub.opening import model_of

    model = loaded.card.model | {"dtype": "float32"}
    return model_of(loaded._replace(card=replace(loaded.card, model=model)), device)


def _places(store: "LatentStore", chosen: list[int], top: int, per: str, threshold: float) -> Any:
    """Return latent, place and value of candidates: twice as many as wanted, for some are alike."""
    import torch

    from saekit.activations.text_axis import axis_of
    from saekit.analysis.document_peaks import DocumentPeaks
    from saekit.analysis.max_acts import MaxActs

    latents = torch.tensor(chosen)
    if per == "document":
        peaks = DocumentPeaks(n=2 * top, threshold=threshold).peaks(store).of(latents)
        return peaks.latent, peaks.place, peaks.value
    rows = MaxActs(n=2 * top).peaks(store)
    mine = torch.isin(rows.latent, latents) & (rows.value > threshold)
    place = axis_of(store).place(rows.row[mine], rows.pos[mine])
    return rows.latent[mine], place, rows.value[mine]


def _features(path: Path) -> dict[int, str]:
    """Return the descriptions of a file of features, by latent."""
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {int(f["feature_id"]): str(f.get("description", "")) for f in raw["features"]}
    except FileNotFoundError as error:
        raise FormatError(f"There is no file {path}.") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{path} must hold `features`, a list of feature_id and description: {error}."
        ) from error
