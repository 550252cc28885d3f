"""One HTML file of a run: the explorer's own pages, with what the run gave inside."""

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from saekit.analysis.index_folder import Index
from saekit.core.border import bordered
from saekit.core.errors import FormatError
from saekit.core.files import read_object, replace_with
from saekit.core.result import Result, Score, without_interval
from saekit.core.stats.plain import share
from saekit.hub.index_manifest import read_manifest, sites_in
from saekit.metrics.base import in_order
from saekit.metrics.base import registry as metrics
from saekit.report.bare_page import assembled, check
from saekit.report.bundle import bundled, web_file
from saekit.report.payload import columns_of, curves, index_place, latents, to_script

ABOUT_INDEX = {
    "density of a latent": "Share of the indexed tokens on which it is on (not 0).",
    "max, mean": "Its activation of largest size, and its mean when on, in the model's own units.",
    "promotes, suppresses": "Tokens whose logits one unit of the latent's direction raises or "
    "lowers most, by the logit lens: the model's unembedding with the final norm's gain, "
    "without its division by the norm.",
}
_LISTS = ("columns", "bands", "files", "sets", "card")  # of an index; no provenance


@bordered("a run")
def write_report(run: Path, out: Path, *, contexts_per_latent: int = 8) -> Path:
    """Write one self-contained HTML page of a run folder and return its path.

    Reads `run.json`, `manifest.json`, `log.jsonl`, `eval/core.json` and `index/` where they
    are; the page says what is missing and which command makes it. It computes no score. It
    asks the network for nothing, and text of the corpus is never markup in it.

    Args:
        run: a folder that training, evaluation or indexing wrote to.
        out: the file to write; replaced where it exists.
        contexts_per_latent: strongest examples embedded for each latent; of every other kind of
            example one or two are.

    Raises:
        FormatError: the folder holds nothing of a run, or a file in it is damaged.
        ConfigError: `out` does not end in .html.
    """
    check(out)
    config = _json(run / "run.json")
    manifest = _json(run / "manifest.json")
    core_path = run / "eval" / "core.json"
    core = _result(core_path) if core_path.exists() else None
    place = index_place(run / "index")
    index = None if place is None else Index(place)
    drawn = curves(run / "log.jsonl")
    if not any((config, manifest, core, drawn, index)):
        raise FormatError(
            f"{run} holds no run: no run.json, manifest.json, log.jsonl, eval/core.json or "
            f"index/. Name the folder that `saekit train` made."
        )
    config = config or manifest.get("config", {})
    name = run.resolve().name or "run"
    overview = _overview(run, config, manifest, core, index)
    overview["card"]["id"] = name
    if drawn:
        overview["card"]["run"] = name
    sae: dict[str, Any] = {"overview": overview}
    if index is not None:
        sae |= latents(index, contexts_per_latent)
    data = {
        "library": {"saes": [overview["card"]], "runs": [], "studies": []},
        "saes": {name: sae},
        "runs": {name: {"id": name, "title": name, "curves": drawn}} if drawn else {},
    }
    page = document(overview["card"]["title"], "", to_script(data), entry="report.js")
    replace_with(out, page.encode("utf-8", "backslashreplace"))
    return out


def _json(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _result(path: Path) -> Result:
    try:
        return Result.read(path)
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path} is no result: {error}. Make it again: saekit eval {path.parents[1]}"
        ) from error


def document(title: str, body: str, data: str, *, entry: str) -> str:
    """Assemble a page; its policy allows its own style and script, and no request.

    Args:
        title: text.
        body: HTML, before what the script adds.
        data: JSON from `payload.to_script`.
        entry: the module of the pages that begins; see `saekit.report.bundle`.
    """
    return assembled(
        title,
        f"{body}\n<noscript><p>This page needs JavaScript.</p></noscript>",
        web_file("app.css"),
        script=bundled(entry),
        data=data,
        head='<meta name="color-scheme" content="light dark">\n',
    )


def _overview(
    run: Path,
    config: Mapping[str, Any],
    manifest: Mapping[str, Any],
    core: Result | None,
    index: Index | None,
) -> dict[str, Any]:
    """Return what the page of the SAE shows above its latents and below."""
    made = {} if index is None else index.manifest
    facts = _facts(run, config)
    d_sae = index.d_sae if index else None
    when = _moment(core.provenance.get("time")) if core else ""
    histogram = core.details.get("density_histogram") if core else None
    found: dict[str, Any] = {
        "card": {"title": _title(run, config), "d_sae": d_sae, "site": made.get("site", "")},
        "facts": [[label, value] for label, value in facts.items()],
        "notes": notes_in(core, made),
        "scores": _scores(run, core),
        "about": _about(core),
        "without": _without(core) if core else [],
        "histogram": histogram,
        "columns": [],
        "bands": {},
        "blocks": _left_out(manifest, core, made),
        "definitions": _definitions(),
        "settings": dict(config),
        "provenance": _provenance(manifest, core, made),
        "missing": _missing(run, core, index, histogram),
    }
    if when:
        found["facts"].append(["measured", when])
    if (verdict := _verdict(run)) is not None:
        found["card"]["verify"] = verdict
    if len(sites := sites_in(run / "index")) > 1:
        found["notes"].append(
            f"Its latents are indexed at {len(sites)} sites; this page has {sites[0]}. All of "
            f"them: saekit serve {run}"
        )
    if index is not None:
        found["columns"] = columns_of(index)
        found["notes"] += index.notes
        found["bands"] = {name: band._asdict() for name, band in index.bands.items()}
    return found


def _verdict(run: Path) -> dict[str, Any] | None:
    made = _json(run / "eval" / "verify.json")
    if not made:
        return None
    return {"verdict": str(made.get("status")), "at": (made.get("made_from") or {}).get("time")}


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


def _moment(said: object) -> str:
    """Return a time as people write it; what a file has in its place, as it is."""
    try:
        return f"{datetime.fromisoformat(str(said)).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return "" if said is None else str(said)


def notes_of_run(run: Path) -> list[str]:
    """Return what a reader of a run's page must know of the SAE."""
    core = run / "eval" / "core.json"
    place = index_place(run / "index")
    made = {} if place is None else read_manifest(place)
    return notes_in(_result(core) if core.exists() else None, made)


def notes_in(core: Result | None, index: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the numbers must know of the SAE, as evaluation and index say."""
    said = (core.provenance if core else {}), index.get("said") or {}
    return list(dict.fromkeys(str(note) for part in said for note in part.get("notes") or []))


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


def _about(core: Result | None) -> str:
    if core is None:
        return ""
    return (
        f"On held-out text, evaluation {core.name} version {core.version}; intervals are 95 %, "
        f"over documents or blocks of them (dead and density: over latents)."
    )


def _scores(run: Path, core: Result | None) -> list[dict[str, Any]]:
    """Return the scores, those of the head first."""
    if core is None:
        return []
    first = [n for n in in_order() if n in core.scores and metrics.get(n).place]
    others = [n for n in core.scores if n not in first]
    source = f"eval/core.json (saekit eval {run})"
    return [_score(n, core.scores[n], source, n in first) for n in [*first, *others]]


def _score(name: str, score: Score, source: str, headline: bool) -> dict[str, Any]:
    known = {m["name"]: m["about"] for m in metrics.describe()}
    return {
        "name": name,
        "label": _label(name),
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "n": score.n,
        "unit": score.unit,
        "better": score.better,
        "reason": score.reason,
        "about": known.get(name, ""),
        "source": source,
        "headline": headline,
    }


def _missing(
    run: Path, core: Result | None, index: Index | None, histogram: object
) -> dict[str, Any]:
    """Return what there is not, by its place in the page, with the command that makes it."""
    found, named = {}, shlex.quote(str(run))
    if core is None:
        found["scores"] = ("There is no evaluation yet.", f"saekit eval {named}")
    if not histogram:
        why = "There is no histogram of densities" + (" in the evaluation." if core else " yet.")
        found["densities"] = (why, f"saekit eval {named}")
    if not (run / "log.jsonl").exists() or curves(run / "log.jsonl") is None:
        found["training"] = ("There is no training log.", f"saekit train --resume {named}")
    if index is None:
        found["latents"] = ("There is no index of latents yet.", f"saekit index {named}")
    return {place: {"text": text, "command": command} for place, (text, command) in found.items()}


def _left_out(
    manifest: Mapping[str, Any], core: Result | None, index: Mapping[str, Any]
) -> list[dict[str, Any]]:
    parts = {"training": manifest.get("harvest"), "index": index.get("harvest")}
    parts["evaluation"] = core.details.get("tokens") if core else None
    rows = []
    for name, counts in parts.items():
        if not isinstance(counts, Mapping) or not counts.get("seen"):
            continue
        if not all(isinstance(n, int) for n in counts.values()):
            raise FormatError(f"Token counts of the {name} must be numbers; got {counts!r:.200}")
        seen = counts["seen"]
        kinds = ("special", "high_norm", "high_norm_predicted", "kept")
        shares = [float(f"{100 * share(counts.get(kind, 0), seen):.3g}") for kind in kinds]
        rows.append([name, seen, *shares])
    if not rows:
        return []
    heads = ("special", "high norm at the site read", "high norm at the site predicted alone")
    columns = [{"name": "pass"}, {"name": "tokens seen", "unit": "tokens"}]
    columns += [{"name": f"left out: {head}", "unit": "%"} for head in heads]
    columns.append({"name": "kept", "unit": "%"})
    about = "Special tokens, and tokens whose activation is far longer than the median, are left "
    about += "out of training, scores and index alike."
    block = {"kind": "table", "title": "Tokens left out", "about": about}
    return [block | {"columns": columns, "rows": rows}]


def _definitions() -> dict[str, str]:
    about = {m["name"]: m["about"] for m in metrics.describe()}
    return {_label(n): about[n] for n in in_order()} | ABOUT_INDEX


def _provenance(
    manifest: Mapping[str, Any], core: Result | None, index: Mapping[str, Any]
) -> dict[str, Any]:
    parts: dict[str, Any] = {"Training": {k: v for k, v in manifest.items() if k != "config"}}
    if core:
        parts |= {"Evaluation": core.config, "Evaluation, made from": core.provenance}
    parts["Index"] = {k: v for k, v in index.items() if k not in _LISTS}
    return {name: part for name, part in parts.items() if part}
