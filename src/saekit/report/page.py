"""One HTML file of a run: what it gave, how, and what each latent does."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from saekit.core.border import bordered
from saekit.core.errors import FormatError
from saekit.core.files import read_object, replace_with
from saekit.core.result import Result, Score, without_interval
from saekit.core.stats.plain import share
from saekit.hub.index_manifest import read_manifest
from saekit.metrics.base import in_order
from saekit.metrics.base import registry as metrics
from saekit.report.bare_page import assembled, own_file
from saekit.report.bare_page import escaped as _e
from saekit.report.payload import curves, index_place, latents, to_script

ABOUT_INDEX = {
    "density of a latent": "Share of the indexed tokens on which it is on (not 0).",
    "max, mean": "Its activation of largest size, and its mean when on, in the model's own units.",
    "promotes, suppresses": "Tokens whose logits one unit of the latent's direction raises or "
    "lowers most, by the logit lens: the model's unembedding with the final norm's gain, "
    "without its division by the norm.",
}
_LISTS = ("columns", "bands", "files", "sets", "card")  # of an index; no provenance
ABOUT_CURVES = "Training curves are over training batches, activations scaled as in training."


@bordered("a run")
def write_report(run: Path, out: Path, *, contexts_per_latent: int = 8) -> Path:
    """Write one self-contained HTML page of a run folder and return its path.

    Reads `run.json`, `manifest.json`, `log.jsonl`, `eval/core.json` and `index/` where they
    are; the page says what is missing and which command makes it. It computes no score. It
    asks the network for nothing, and text of the corpus is never markup in it.

    Args:
        run: a folder that training, evaluation or indexing wrote to.
        out: the file to write; replaced where it exists.
        contexts_per_latent: contexts embedded for each latent, the first of the index.

    Raises:
        FormatError: the folder holds nothing of a run, or a file in it is damaged.
    """
    config = _json(run / "run.json")
    manifest = _json(run / "manifest.json")
    core_path = run / "eval" / "core.json"
    core = _result(core_path) if core_path.exists() else None
    index = _index_said(run)
    data = {
        "curves": curves(run / "log.jsonl"),
        "histogram": core.details.get("density_histogram") if core else None,
        "latents": latents(run / "index", contexts_per_latent),
    }
    if not any((config, manifest, core, data["curves"], data["latents"])):
        raise FormatError(
            f"{run} holds no run: no run.json, manifest.json, log.jsonl, eval/core.json or "
            f"index/. Name the folder that `saekit train` made."
        )
    config = config or manifest.get("config", {})
    sections = [
        _head(run, config, core),
        _notes(core, index),
        _headline(run, core),
        _training(run, data["curves"]),
        _histogram(run, data["histogram"], core),
        _browser(run, data["latents"]),
        _left_out(manifest, core, index),
        _definitions(),
        _provenance(config, manifest, core, index),
    ]
    page = document(_title(run, config), "\n".join(sections), to_script(data))
    replace_with(out, page.encode("utf-8", "backslashreplace"))
    return out


def _json(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _index_said(run: Path) -> dict[str, Any]:
    """Return what the index of a run says of itself; nothing where there is none."""
    place = index_place(run / "index")
    return {} if place is None else read_manifest(place)


def _result(path: Path) -> Result:
    try:
        return Result.read(path)
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path} is no result: {error}. Make it again: saekit eval {path.parents[1]}"
        ) from error


def document(
    title: str,
    body: str,
    data: str,
    *,
    scripts: Iterable[str] = ("dom.js", "charts.js", "browser.js", "page.js"),
    styles: Iterable[str] = ("page.css",),
) -> str:
    """Assemble a page; its policy allows its own style and script, and no request.

    Args:
        title: text.
        body: HTML.
        data: JSON from `payload.to_script`.
        scripts: files of this package.
        styles: files of this package.
    """
    return assembled(
        title,
        f"<main>\n{body}\n</main>",
        "\n".join(map(own_file, styles)),
        script="\n".join(map(own_file, scripts)),
        data=data,
        head='<meta name="color-scheme" content="light dark">\n',
    )


def _facts(run: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return model, site, architecture and sizes, as far as the settings name them."""
    sae, pair = config.get("sae") or {}, config.get("pair") or {}
    if not isinstance(sae, Mapping) or not isinstance(pair, Mapping):
        raise FormatError(f"{run / 'run.json'} has no settings of an SAE and of its sites.")
    site = " + ".join(map(str, pair.get("read") or []))
    if written := pair.get("write"):
        site += " to " + " + ".join(map(str, written))
    facts = {"model": config.get("model"), "site": site, "architecture": sae.get("name")}
    facts |= {"latents": _count(sae.get("d_sae"))}
    facts |= {"training tokens": _count(config.get("tokens"))}
    if config.get("epochs") not in (None, 1):
        facts |= {"epochs of these": _count(config.get("epochs"))}
    return {k: str(v) for k, v in facts.items() if v} or {"run": run.resolve().name}


def _count(value: object) -> str | None:
    """Return a number with its thousands apart; what a file has in its place, as it is."""
    return f"{value:,}" if isinstance(value, int) else None if value is None else str(value)


def _title(run: Path, config: Mapping[str, Any]) -> str:
    facts = _facts(run, config)
    named = [facts[k] for k in ("model", "site", "architecture", "run") if k in facts]
    return " · ".join(named)


def _head(run: Path, config: Mapping[str, Any], core: Result | None) -> str:
    facts = _facts(run, config)
    listed = "".join(f"<span><b>{_e(k)}</b> {_e(v)}</span>" for k, v in facts.items())
    when = _moment(core.provenance.get("time")) if core else ""
    measured = f" Measured {_e(when)}." if when else ""
    return (
        f'<header><h1>{_e(_title(run, config))}</h1><p class="facts">{listed}</p>'
        f"<p>A sparse autoencoder and what it found.{measured}</p>"
        '<nav><a href="#scores">Scores</a> <a href="#training">Training</a> '
        '<a href="#densities">Densities</a> <a href="#latents">Latents</a> '
        '<a href="#definitions">Definitions</a> <a href="#provenance">Provenance</a></nav></header>'
    )


def _moment(said: object) -> str:
    """Return a time as people write it; what a file has in its place, as it is."""
    try:
        return f"{datetime.fromisoformat(str(said)).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return "" if said is None else str(said)


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}"><h2>{_e(title)}</h2>\n{body}\n</section>'


def _missing(what: str, command: str) -> str:
    return f'<p class="missing">{_e(what)} Make it with <code>{_e(command)}</code></p>'


def notes_of_run(run: Path) -> list[str]:
    """Return what a reader of a run's page must know of the SAE."""
    core = run / "eval" / "core.json"
    return notes_in(_result(core) if core.exists() else None, _index_said(run))


def notes_in(core: Result | None, index: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the numbers must know of the SAE, as evaluation and index say."""
    said = (core.provenance if core else {}), index.get("said") or {}
    return list(dict.fromkeys(str(note) for part in said for note in part.get("notes") or []))


def _notes(core: Result | None, index: Mapping[str, Any]) -> str:
    notes = notes_in(core, index)
    if not notes:
        return ""
    listed = "".join(f"<li>{_e(note)}</li>" for note in notes)
    return _section("notes", "Notes on this SAE", f"<ul>{listed}</ul>")


def _headline(run: Path, core: Result | None) -> str:
    if core is None:
        body = _missing("There is no evaluation yet.", f"saekit eval {run}")
        return _section("scores", "Scores", body)
    headline = [n for n in in_order() if n in core.scores and metrics.get(n).place]
    cards = [_card(_label(n), core.scores[n]) for n in headline]
    others = {n: s for n, s in core.scores.items() if n not in headline}
    rows = [(_label(n), s.text(), s.unit, s.n) for n, s in others.items()]
    more = _table(("score", "value [95 % interval]", "unit", "blocks"), rows) if rows else ""
    note = f"On held-out text, evaluation {_e(core.name)} version {_e(core.version)}; "
    note += "intervals are 95 %, over documents or blocks of them (dead and density: over latents)."
    body = f'<p>{note}</p><div class="cards">{"".join(cards)}</div>'
    if reasons := _without(core):
        body += f"<p><small>{'<br>'.join(map(_e, reasons))}</small></p>"
    if more:
        body += f"<details><summary>More scores</summary>{more}</details>"
    return _section("scores", "Scores", body)


def _label(name: str) -> str:
    """Return what a score is in words; its name where no metric has it."""
    known = name in metrics.names()
    return (metrics.get(name).label if known else "") or name


def _without(core: Result) -> list[str]:
    """Return why scores have no interval, each reason once with the scores that it is of."""
    return [
        f"{', '.join(_label(name).replace(',', '') for name in names)}: {why}."
        for why, names in without_interval(core.scores).items()
    ]


def _card(name: str, score: Score) -> str:
    if score.value is None:
        return (
            f'<div class="card"><b>{_e(name)}</b><strong>undefined</strong>'
            f"<small>{_e(score.reason)}</small></div>"
        )
    interval = "no interval"
    if score.low is not None and score.high is not None:
        interval = f"{score.low:.4g} to {score.high:.4g}"
    better = {"lower": "lower is better", "higher": "higher is better"}.get(score.better, "")
    return (
        f'<div class="card"><b>{_e(name)}</b><strong>{score.value:.4g}</strong>'
        f"<small>{_e(interval)}</small><small>{_e(score.unit)}</small>"
        f"<small>{_e(better)}</small></div>"
    )


def _training(run: Path, found: dict[str, Any] | None) -> str:
    if found is None:
        body = _missing("There is no training log.", f"saekit train --resume {run}")
        return _section("training", "Training", body)
    kept = f" One record in {found['every']} is drawn." if found["every"] > 1 else ""
    return _section(
        "training", "Training", f'<p>{ABOUT_CURVES}{kept}</p><div class="charts" id="curves"></div>'
    )


def _histogram(run: Path, found: Mapping[str, Any] | None, core: Result | None) -> str:
    if not found:
        why = "There is no histogram of densities" + (" in the evaluation." if core else " yet.")
        return _section("densities", "Densities", _missing(why, f"saekit eval {run}"))
    never = _count(found.get("never_fired", 0))
    note = f"Latents by the share of held-out tokens they are on for; {never} never were."
    return _section(
        "densities", "Densities", f'<p>{_e(note)}</p><div class="chart" id="histogram"></div>'
    )


def _browser(run: Path, found: dict[str, Any] | None) -> str:
    if found is None:
        body = _missing("There is no index of latents yet.", f"saekit index {run}")
        return _section("latents", "Latents", body)
    shown = max((len(c) for c in found["contexts"]), default=0)
    cut = "" if shown == found["found"] else f" (of {found['found']} in the index)"
    if not shown:
        note = _missing("The index holds no contexts.", f"saekit index {run}")
    else:
        note = (
            f"<p>{len(found['id']):,} latents, each with up to {shown} contexts{cut}. The stronger "
            f"a token's colour, the stronger the latent on it, relative to its maximum; the peak "
            f"is underlined. Keys: <kbd>/</kbd> search, <kbd>[</kbd> <kbd>]</kbd> turn pages, "
            f"<kbd>Tab</kbd> and <kbd>Enter</kbd> open a latent. The address keeps the view.</p>"
        )
    return _section(
        "latents",
        "Latents",
        f'{note}<div id="browser"></div>'
        f'<noscript><p class="missing">The list of latents needs JavaScript.</p></noscript>',
    )


def _left_out(manifest: Mapping[str, Any], core: Result | None, index: Mapping[str, Any]) -> str:
    parts = {"training": manifest.get("harvest"), "index": index.get("harvest")}
    parts["evaluation"] = core.details.get("tokens") if core else None
    rows = []
    for name, counts in parts.items():
        if not isinstance(counts, Mapping) or not counts.get("seen"):
            continue
        if not all(isinstance(n, int) for n in counts.values()):
            raise FormatError(f"Token counts of the {name} must be numbers; got {counts!r:.200}")
        seen = counts["seen"]
        names = ("special", "high_norm", "high_norm_predicted", "kept")
        kinds = (counts.get(kind, 0) for kind in names)
        shares = [f"{100 * share(n, seen):.3g} %" for n in kinds]
        rows.append((name, f"{seen:,}", *shares))
    if not rows:
        return ""
    head = (
        "pass",
        "tokens seen",
        "left out: special",
        "left out: high norm at the site read",
        "left out: high norm at the site predicted alone",
        "kept",
    )
    note = "Special tokens, and tokens whose activation is far longer than the median, are left "
    note += "out of training, scores and index alike."
    return _section("left-out", "Tokens left out", f"<p>{note}</p>{_table(head, rows, 'counts')}")


def _definitions() -> str:
    about = {m["name"]: m["about"] for m in metrics.describe()}
    items = {_label(n): about[n] for n in in_order()} | ABOUT_INDEX
    listed = "".join(f"<dt>{_e(k)}</dt><dd>{_e(v)}</dd>" for k, v in items.items())
    return _section("definitions", "Definitions", f"<dl>{listed}</dl>")


def _provenance(
    config: Mapping[str, Any],
    manifest: Mapping[str, Any],
    core: Result | None,
    index: Mapping[str, Any],
) -> str:
    made = {k: v for k, v in manifest.items() if k != "config"}
    parts = {"Settings of the run": config, "Training": made}
    if core:
        parts |= {"Evaluation": core.config, "Evaluation, made from": core.provenance}
    parts["Index"] = {k: v for k, v in index.items() if k not in _LISTS}
    blocks = [
        f"<details><summary>{_e(name)}</summary>"
        f"{_table(('setting', 'value'), _flat(part))}</details>"
        for name, part in parts.items()
        if part
    ]
    body = "".join(blocks) or "<p>Nothing was recorded.</p>"
    return _section("provenance", "Configuration and provenance", body)


def _flat(value: Any, at: str = "") -> list[tuple[str, object]]:
    """Return the leaves of nested objects with their dotted names."""
    if isinstance(value, Mapping) and value:
        return [x for k, v in value.items() for x in _flat(v, f"{at}.{k}" if at else str(k))]
    if isinstance(value, list):
        if any(isinstance(v, Mapping) for v in value):
            return [x for i, v in enumerate(value) for x in _flat(v, f"{at}.{i}")]
        return [(at, ", ".join(map(str, value)))]
    return [(at, "null" if value is None else value)]


def _table(head: Iterable[str], rows: Iterable[Iterable[object]], kind: str = "") -> str:
    """Return a table of text, of a class of the style."""
    top = "".join(f"<th>{_e(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{_e(c)}</td>" for c in row) + "</tr>" for row in rows)
    return (
        f'<div class="{f"wide {kind}".strip()}"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
