"""Figures and cards of a folder of events, read from its files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.errors import DataError, FormatError
from saekit.core.files import read_json, write_json
from saekit.core.stats import plain
from saekit.studies.locality.events import event_files, quality
from saekit.studies.locality.events.event_entropy import OK
from saekit.studies.locality.events.event_files import Row
from saekit.studies.locality.events.event_run import MANIFEST
from saekit.studies.locality.events.neuronpedia import URL
from saekit.studies.locality.figures import (
    case_studies,
    continuum,
    feature_table,
    h_pos_context,
    h_pos_frequency,
    h_pos_overview,
    profile_contrast,
)


class Extra(NamedTuple):
    """What is told of a latent beside its events."""

    notes: Sequence[str] = ()
    trace: Sequence[float | None] = ()
    link: str = ""


def draw_all(folder: Path, n_ctx: int | None = None) -> tuple[list[Path], list[str]]:
    """Draw the figures of a folder into ``figures/``; return paths, and what cannot be drawn.

    Args:
        folder: of events.
        n_ctx: length of the figures of one length; the longest by default.

    Raises:
        FormatError: the folder holds no events, or none of this length.
        MissingExtraError: matplotlib is not installed.
    """
    found = event_files.read(folder)
    n = _length(found, folder, n_ctx)
    title = _title(folder)
    figures = folder / "figures"
    jobs: list[tuple[Path, Any]] = [
        (
            figures / f"feature_continuum_ctx{n}.png",
            lambda at: continuum.draw(found[n], n, at, title),
        ),
        (
            figures / f"feature_profile_contrast_ctx{n}.png",
            lambda at: profile_contrast.draw(found[n], n, at),
        ),
        (
            figures / f"h_pos_overview_ctx{n}.png",
            lambda at: h_pos_overview.draw(found[n], n, at, title),
        ),
        (figures / "h_pos_vs_ctxlen.png", lambda at: h_pos_context.draw(found, at, title)),
        (
            figures / f"h_pos_vs_frequency_ctx{n}.png",
            lambda at: h_pos_frequency.draw(_with_density(folder, found[n]), at, title),
        ),
    ]
    drawn, missing = [], []
    for path, draw in jobs:
        try:
            draw(path)
            drawn.append(path)
        except DataError as error:
            missing.append(f"{path.name}: {error}")
    return drawn, missing


def write_cards(  # noqa: PLR0913 - which cards, and what is on them
    folder: Path,
    out: Path,
    *,
    n_ctx: int | None = None,
    latents: Sequence[int] | None = None,
    top: int = 5,
    tokens: int = 16,
    title: str = "Case studies",
    extra: Mapping[int, Extra] | None = None,
) -> Path:
    """Write the page of cards of a folder of events, and what it is of beside it as .json.

    The most local latents come first.

    Args:
        folder: of events.
        out: the page.
        n_ctx: length of the windows; the longest by default.
        latents: which, in this order; all of the folder by mean H by default.
        top: events shown of each, the strongest.
        tokens: shown of each event, the last ones.
        title: heading.
        extra: what else is told of a latent.

    Raises:
        FormatError: the folder lacks events, their texts, or a latent asked for.
    """
    found = event_files.read(folder)
    n = _length(found, folder, n_ctx)
    by = _by_latent(found[n])
    if missing := [a for a in latents or () if a not in by]:
        raise FormatError(
            f"{folder} has no events of latents {', '.join(map(str, missing[:8]))}; it has "
            f"{len(by)} latents."
        )
    texts = _texts(folder)
    chosen = list(latents or plain.by_mean(_entropies(by)))
    cards = [
        _card(a, by[a], texts.get(str(a), []), (extra or {}).get(a, Extra()), top, tokens)
        for a in chosen
    ]
    _write_manifest(out, folder, n, cards, (top, tokens))
    population = f"{len(chosen)} latents, {sum(len(c.H) for c in cards)} events with an entropy"
    facts = {"of": _title(folder), "window": f"{n} tokens", "population": population}
    return case_studies.write(out, cards, n_ctx=n, title=title, facts=facts)


def _write_manifest(
    out: Path, folder: Path, n_ctx: int, cards: Sequence[case_studies.Card], shown: tuple[int, int]
) -> None:
    """Write beside a page of cards what it is of, with the fields of the published manifests."""
    made = _manifest(folder)
    known, features = quality.read(folder), []
    tiers = {row.feature_id: row.tier for row in event_files.read(folder, n_ctx)[n_ctx]}
    for card in cards:
        mean, std = case_studies.moments(card.H)
        features.append(
            {
                "feature_id": card.latent,
                "tier": tiers[card.latent],
                "description": card.description,
                "mean_h_pos": mean,
                "std_h_pos": std,
                "n_events": len(card.H),
                "recall_alt": known.get(card.latent, quality.Quality()).recall_alt,
            }
        )
    write_json(
        out.with_suffix(".json"),
        {
            "experiment": "feature_case_studies",
            "timestamp": made.get("timestamp"),
            "preset": made.get("preset"),
            "layer": made.get("layer"),
            "site": made.get("site"),
            "ctx_len": n_ctx,
            "top_n_contexts": shown[0],
            "tokens_shown": shown[1],
            "source_expt_dir": folder.resolve().name,
            "features": features,
        },
    )


def write_table(
    folder: Path,
    *,
    n_ctx: int | None = None,
    kept: quality.LatentFilter | None = None,
    cache: Path | None = None,
) -> Path:
    """Write the table of a folder's latents into ``figures/``, the most local first.

    What is known of a latent's quality is what its events tell, over that what a
    feature_quality_stats of the folder tells, over that what Neuronpedia's files tell.

    Args:
        folder: of events.
        n_ctx: length of the windows; the longest by default.
        kept: which latents; all by default.
        cache: folder ``MODEL/SAE`` of a cache of Neuronpedia.

    Raises:
        FormatError: the folder lacks events or their texts, or the cache lacks all of them.
        ConfigError: recall is asked for and not known.
    """
    kept = kept or quality.LatentFilter()
    found = event_files.read(folder)
    n = _length(found, folder, n_ctx)
    by = _by_latent(found[n])
    texts = _texts(folder)
    ranked = plain.by_mean(_entropies(by))
    cards = {
        a: _card(
            a,
            by[a],
            texts.get(str(a), []),
            Extra(link=_link(cache, a)),
            len(by[a]),
            feature_table.TOKENS + 1,
        )
        for a in ranked
    }
    known = {a: feature_table.of_card(card) for a, card in cards.items()}
    for more in (quality.read(folder), quality.of_cache(cache, ranked) if cache else {}):
        known = {a: quality.over(q, more.get(a)) for a, q in known.items()}
    those, left = kept.split(known)
    shown = [cards[a] for a in those]
    facts = {
        "of": _title(folder),
        "window": f"{n} tokens",
        "population": f"{len(shown)} of {len(cards)} latents, "
        f"{sum(len(c.H) for c in shown)} events with an entropy",
        "interval": "95 % of the mean, over events; from 8 events on",
    }
    if left:
        facts["left out"] = ", ".join(f"{count} {why}" for why, count in left.items())
    out = folder / "figures" / f"feature_table_ctx{n}{kept.ending}.html"
    return feature_table.write(
        out, shown, n_ctx=n, title="Latents by locality", facts=facts, quality=known
    )


def _link(cache: Path | None, latent: int) -> str:
    """Return the address of Neuronpedia's page about a latent of a cache."""
    if cache is None:
        return ""
    model, sae = cache.resolve().parts[-2:]
    return f"{URL}/{model}/{sae.replace('__', '/')}/{latent}"


def entropies(rows: Sequence[Row]) -> dict[int, list[float]]:
    """Return the entropies of the events of each latent that has one, latents in order."""
    found: dict[int, list[float]] = {}
    for row in sorted(rows, key=lambda r: (r.feature_id, r.event_idx)):
        if row.status == OK:
            found.setdefault(row.feature_id, []).append(row.H_pos)
    return found


def _with_density(folder: Path, rows: Sequence[Row]) -> dict[int, tuple[Sequence[float], float]]:
    """Return the entropies and the density of each latent of a folder whose manifest has them.

    Raises:
        DataError: it has none.
    """
    made = _manifest(folder)
    source = made.get("source")  # in published manifests the pattern of the files, as text
    densities = source.get("densities") if isinstance(source, dict) else None
    if not densities:
        raise DataError("no manifest here says how often latents are on")
    H = entropies(rows)
    latents = sorted({row.feature_id for row in rows})
    return {a: (H.get(a, ()), densities.get(str(a), 0.0)) for a in latents}


def _card(
    latent: int,
    rows: Sequence[Row],
    texts: Sequence[dict[str, Any]],
    extra: Extra,
    top: int,
    tokens: int,
) -> case_studies.Card:
    events = []
    ok = [row for row in rows if row.status == OK and row.J is not None]
    for row in sorted(ok, key=lambda r: r.event_idx)[:top]:
        if row.event_idx >= len(texts):
            raise FormatError(f"Latent {latent}: event {row.event_idx} has no text.")
        (pieces, ids), J = _upto_peak(texts[row.event_idx]), row.J
        assert J is not None
        k = min(tokens, len(J), len(pieces))
        events.append(
            case_studies.CardEvent(
                pieces[-k:], ids[-k:], J[-k:].tolist(), row.peak_value, row.H_pos, row.n_positions
            )
        )
    said = next((row.description for row in rows if row.description), "")
    H = [row.H_pos for row in rows if row.status == OK]
    return case_studies.Card(latent, said, H, events, extra.notes, extra.trace, extra.link)


def _upto_peak(text: dict[str, Any]) -> tuple[list[str], list[int]]:
    """Return an example's tokens up to the peak, and their ids: none in published files."""
    end = text["token_idx"] + 1  # published texts go on after the peak
    return text["tokens"][:end], text.get("ids", [])[:end]


def _by_latent(rows: Sequence[Row]) -> dict[int, list[Row]]:
    by: dict[int, list[Row]] = {}
    for row in rows:
        by.setdefault(row.feature_id, []).append(row)
    return by


def _entropies(by: Mapping[int, Sequence[Row]]) -> dict[int, list[float]]:
    """Return the entropies of the events of each latent, also of one that has none."""
    return {a: [row.H_pos for row in rows if row.status == OK] for a, rows in by.items()}


def _length(found: Mapping[int, Any], folder: Path, n_ctx: int | None) -> int:
    if n_ctx is not None and n_ctx not in found:
        raise FormatError(
            f"{folder} has no events of length {n_ctx}; it has {', '.join(map(str, found))}."
        )
    return n_ctx or max(found)


def _texts(folder: Path) -> dict[str, list[dict[str, Any]]]:
    paths = sorted(folder.glob("top_contexts_layer*.json"))
    if not paths:
        raise FormatError(f"{folder} has no top_contexts_layer<L>.json, which cards show.")
    return {a: one["examples"] for a, one in read_json(paths[0]).items()}


def _title(folder: Path) -> str:
    manifest = _manifest(folder)
    layer = manifest.get("layer")
    named = [
        manifest.get("preset"),
        manifest.get("site") or (None if layer is None else f"layer {layer}"),
    ]
    return " · ".join(str(n) for n in named if n) or folder.resolve().name


def _manifest(folder: Path) -> dict[str, Any]:
    """Return how a folder was made; nothing where it does not say."""
    found = read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else {}
    if not isinstance(found, dict):
        raise FormatError(f"{folder / MANIFEST} must be an object; it is {type(found).__name__}.")
    return found
