"""One HTML file of a run: the explorer's own pages, with what the run gave inside."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saekit.analysis.index_folder import Index
from saekit.core.border import bordered
from saekit.core.errors import FormatError
from saekit.core.files import read_object, replace_with
from saekit.core.result import Result
from saekit.hub.index_manifest import read_manifest, sites_in
from saekit.report.bare_page import assembled, check
from saekit.report.bundle import bundled, web_file
from saekit.report.overview import facts_of, notes_in, overview, part, verdict
from saekit.report.payload import curves, index_place, latents, to_script


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
    name, named = run.resolve().name or "run", shlex.quote(str(run))
    facts = _facts(run, config)
    shown = overview(
        facts,
        settings=config,
        made=manifest,
        result=core,
        index=index,
        evaluate=f"saekit eval {named}",
    )
    title = " · ".join(
        str(facts[k]) for k in ("model", "site", "architecture", "run") if k in facts
    )
    card: dict[str, Any] = {"id": name, "title": title}
    card |= {"d_sae": index.d_sae if index else None}
    card |= {"site": index.manifest.get("site", "") if index else ""}
    if made := _json(run / "eval" / "verify.json"):
        card["verify"] = verdict(made)
    if drawn:
        card["run"] = name
    else:
        said = {"text": "There is no training log.", "command": f"saekit train --resume {named}"}
        shown["missing"]["training"] = said
    if index is None:
        said = {"text": "There is no index of latents yet.", "command": f"saekit index {named}"}
        shown["missing"]["latents"] = said
    if len(sites := sites_in(run / "index")) > 1:
        shown["notes"].append(
            f"Its latents are indexed at {len(sites)} sites; this page has {sites[0]}. All of "
            f"them: saekit serve {run}"
        )
    sae: dict[str, Any] = {"overview": {"card": card, **shown}}
    if index is not None:
        sae |= latents(index, contexts_per_latent)
    data = {
        "library": {"saes": [card], "runs": [], "studies": []},
        "saes": {name: sae},
        "runs": {name: {"id": name, "title": name, "curves": drawn}} if drawn else {},
    }
    page = document(title, "", to_script(data), entry="report.js")
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


def _facts(run: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the SAE of a run is, as far as the settings of the run say it."""
    sae, pair = config.get("sae") or {}, config.get("pair") or {}
    if not isinstance(sae, Mapping) or not isinstance(pair, Mapping):
        raise FormatError(f"{run / 'run.json'} has no settings of an SAE and of its sites.")
    card = {"model": {"name": config.get("model")}, "pair": pair, "run": config}
    return facts_of(card, sae) or {"run": run.resolve().name}


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


def notes_of_run(run: Path) -> list[str]:
    """Return what a reader of a run's page must know of the SAE, as evaluation and index say."""
    core = run / "eval" / "core.json"
    place = index_place(run / "index")
    made = {} if place is None else read_manifest(place)
    return notes_in(_result(core).provenance if core.exists() else {}, part(made, "said"))
