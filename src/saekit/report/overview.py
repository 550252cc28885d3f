"""Overview: what a page tells of an SAE above its latents and below them, wherever it is shown.

The one-file report, the explorer and its static site make it here.
"""

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from saekit.analysis.index_folder import Index
from saekit.analysis.searching import densities
from saekit.core.result import Result, without_interval
from saekit.core.stats.plain import share
from saekit.report.definitions import definitions
from saekit.report.payload import columns_of

ABOUT_INDEX = {
    "density of a latent": "Share of the indexed tokens on which it is on (not 0).",
    "max, mean": "Its activation of largest size, and its mean when on, in the model's own units.",
    "promotes, suppresses": "Tokens whose logits one unit of the latent's direction raises or "
    "lowers most, by the logit lens: the model's unembedding with the final norm's gain, "
    "without its division by the norm.",
}
# What the evaluations of these pages read, and what they draw anew for an interval.
READ = {
    "core": ("held-out text", "documents or blocks of them (dead and density: over latents)"),
    "ground_truth": ("samples of its synthetic model", "blocks of samples"),
}
OF_TRUTH = ("mcc", "found", "precision", "recall", "f1", "r2", "l0", "dead")  # lead there
LEFT_OUT = {  # tokens, by the name of their count
    "special": "special",
    "high_norm": "high norm",
    "high_norm_predicted": "high norm at the site predicted alone",
}
_LISTS = ("columns", "bands", "files", "sets", "card")  # of an index; no provenance


def overview(
    facts: Mapping[str, Any],
    *,
    settings: Mapping[str, Any],
    made: Mapping[str, Any],
    result: Result | None,
    index: Index | None,
    evaluate: str,
) -> dict[str, Any]:
    """Return what there is to say of an SAE as a whole.

    Args:
        facts: what it is, by label; see `facts_of`.
        settings: of its run.
        made: how it was made: the manifest of its run, or its card.
        result: of its evaluation; None: there is none.
        index: of its latents; None: there is none.
        evaluate: the command that makes the result.

    Returns:
        ``facts``, ``notes``, ``scores`` (those of the head first), ``about`` them, ``without`` (why
        some have no interval), ``histogram`` of densities, ``columns`` and ``bands`` of the index,
        ``blocks``, ``definitions``, ``settings``, ``provenance``, and ``missing``: what there is
        not, by its place in the page, with the command that makes it.
    """
    shown = dict(facts)
    notes = notes_in({} if result is None else result.provenance)
    found: dict[str, Any] = {
        "scores": [],
        "about": "",
        "without": [],
        "histogram": None,
        "columns": [],
        "bands": {},
        "definitions": {},
        "settings": dict(settings),
        "provenance": {"Made from": {k: v for k, v in made.items() if k not in ("config", "run")}},
        "missing": {},
    }
    counts = {"training": made.get("harvest")}
    if result is None:
        found["missing"]["scores"] = {"text": "There is no evaluation yet.", "command": evaluate}
    else:
        records = score_records(result, evaluate)
        counts["evaluation"] = result.details.get("tokens")
        found["scores"] = list(records.values())
        found["about"] = _about(result)
        found["without"] = [
            f"{', '.join(records[n]['label'].replace(',', '') for n in names)}: {why}."
            for why, names in without_interval(result.scores).items()
        ]
        found["definitions"] = {r["label"]: r["about"] for r in records.values() if r["about"]}
        found["provenance"] |= {"Evaluation": result.config}
        found["provenance"] |= {"Evaluation, made from": result.provenance}
        histogram = part(result.details, "density_histogram")
        if all(isinstance(histogram.get(one), list) for one in ("log10_edges", "latents")):
            found["histogram"] = histogram | {"on": "the text of the evaluation"}
        if when := moment(result.provenance.get("time")):
            shown["measured"] = when
    if index is not None:
        counts["index"] = index.manifest.get("harvest")
        notes += [*notes_in(part(index.manifest, "said")), *index.notes]
        drawn, read = densities(index), "text" if index.bands else "samples"
        alive = index.d_sae - drawn["never_fired"]
        shown[f"alive on the indexed {read}"] = f"{alive:,} of {index.d_sae:,} latents"
        found["histogram"] = drawn | {"on": f"the indexed {read}"}
        found["columns"] = columns_of(index)
        found["bands"] = {name: band._asdict() for name, band in index.bands.items()}
        found["definitions"] |= ABOUT_INDEX if index.bands else {}
        found["provenance"]["Index"] = {k: v for k, v in index.manifest.items() if k not in _LISTS}
    found["provenance"] = {title: one for title, one in found["provenance"].items() if one}
    found["blocks"] = _left_out(counts, notes)
    found["facts"] = [[label, value] for label, value in shown.items()]
    return found | {"notes": list(dict.fromkeys(notes))}


def facts_of(card: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an SAE is, by label, as far as its files say it.

    Args:
        card: of the SAE: ``model``, ``pair``, ``run``, ``tokens``, ``n_ctx``.
        settings: of the architecture.
    """
    run = part(card, "run")
    tokens, epochs = run.get("tokens") or card.get("tokens"), run.get("epochs")
    if isinstance(tokens, int) and isinstance(epochs, int) and epochs > 1:
        tokens = f"{tokens:,}, {epochs} passes"
    said = {
        "model": model_of(card),
        "site": site_of(card),
        "architecture": architecture_of(settings),
        "latents": latents_of(settings),
        "width": settings.get("d_in"),
        "k": settings.get("k"),
        "training tokens": tokens,
        "tokens of a row": card.get("n_ctx") or run.get("n_ctx"),
    }
    return {
        label: value if isinstance(value, int) else str(value)
        for label, value in said.items()
        if value not in (None, "")
    }


def model_of(card: Mapping[str, Any]) -> str:
    """Return the language model, of a folder its last part; "": the card does not say."""
    name = str(part(card, "model").get("name") or "")
    return name.rstrip("/").rpartition("/")[2] if name.startswith(("/", "~", ".")) else name


def site_of(card: Mapping[str, Any]) -> str:
    """Return the sites that are read and, where they are others, those that are predicted."""
    pair = part(card, "pair")
    read, write = (" + ".join(map(str, pair.get(one) or [])) for one in ("read", "write"))
    return f"{read} to {write}" if write else read


def architecture_of(settings: Mapping[str, Any]) -> str:
    """Return the architecture, with the one around which it stands; "": it is not said."""
    name = str(settings.get("name") or settings.get("architecture") or "")
    return ", ".join(filter(None, [name, str(part(settings, "inner").get("name") or "")]))


def latents_of(settings: Mapping[str, Any]) -> int | None:
    """Return the number of latents; None: it is not said."""
    found = settings.get("d_sae") or part(settings, "inner").get("d_sae")
    return found if isinstance(found, int) else None


def score_records(result: Result, evaluate: str) -> dict[str, dict[str, Any]]:
    """Return scores by name, those of the head first, with what each is and where it came from.

    Args:
        result: of an evaluation.
        evaluate: the command that makes it.
    """
    known = definitions()
    placed = [name for name, said in known.items() if said.get("place")]
    first = OF_TRUTH if result.name == "ground_truth" else placed
    first = [name for name in first if name in result.scores]
    found = {}
    for name in dict.fromkeys([*first, *result.scores]):
        score, said = result.scores[name], known.get(name, {})
        found[name] = dataclasses.asdict(score) | {
            "name": name,
            "label": score.label or said.get("label") or name,
            "about": said.get("about", ""),
            "source": f"eval/{result.name}.json ({evaluate})",
            "headline": name in first,
        }
    return found


def verdict(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `saekit verify` left: its verdict, when, and what speaks against the SAE."""
    lines = made.get("lines")
    found = [one for one in lines if isinstance(one, dict)] if isinstance(lines, list) else []
    against = [one for one in found if one.get("status") not in ("fits", "unknown")]
    return {
        "verdict": str(made.get("status")),
        "at": moment(part(made, "made_from").get("time")),
        "against": [f"{one.get('name')}: {one.get('says')}" for one in against],
    }


def notes_in(*said: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the numbers must know of the SAE, each note once.

    Args:
        said: what cards, results and indexes were made from.
    """
    lists = (one.get("notes") for one in said)
    return list(dict.fromkeys(str(n) for one in lists if isinstance(one, list) for n in one))


def moment(said: object) -> str:
    """Return a time as people write it; what a file has in its place, as it is.

    Args:
        said: in ISO 8601 or as 20261130_084124; one that names no zone is UTC, as files have it.
    """
    try:
        found = datetime.fromisoformat(str(said))
    except ValueError:
        return "" if said is None else str(said)
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    return f"{found:%Y-%m-%d %H:%M} UTC"


def part(made: Any, *names: str) -> dict[str, Any]:
    """Return an object within others of a file; what has another shape there counts as missing."""
    for name in names:
        made = made.get(name) if isinstance(made, Mapping) else None
    return dict(made) if isinstance(made, Mapping) else {}


def _about(result: Result) -> str:
    read, over = READ.get(result.name, ("", ""))
    said = f"evaluation {result.name} version {result.version}; intervals are 95 %"
    return f"On {read}, {said}, over {over}." if read else f"From {said}."


def _left_out(counts: Mapping[str, Any], notes: list[str]) -> list[dict[str, Any]]:
    """Return the table of tokens that were left out; `notes` gets what cannot be read."""
    known = {}
    for name, found in counts.items():
        if not isinstance(found, Mapping) or not found.get("seen"):
            continue
        if all(isinstance(n, int) for n in found.values()):
            known[name] = found
        else:
            notes.append(f"Counts of tokens of the {name} are left out, for some are no numbers.")
    if not known:
        return []
    # Only an SAE that predicts another site than it reads leaves tokens out there.
    other = any(found.get("high_norm_predicted") for found in known.values())
    kinds = list(LEFT_OUT)[: None if other else -1]
    rows = []
    for name, found in known.items():
        shares = [100 * share(found.get(kind, 0), found["seen"]) for kind in [*kinds, "kept"]]
        rows.append([name, found["seen"], *(float(f"{one:.3g}") for one in shares)])
    columns = [{"name": "pass"}, {"name": "seen", "unit": "tokens"}]
    columns += [{"name": f"left out: {LEFT_OUT[kind]}", "unit": "%"} for kind in kinds]
    columns.append({"name": "kept", "unit": "%"})
    about = "Special tokens, and tokens whose activation is far longer than the median, are left "
    about += "out of training, scores and index alike."
    block = {"kind": "table", "title": "Tokens left out", "about": about}
    return [block | {"columns": columns, "rows": rows}]
