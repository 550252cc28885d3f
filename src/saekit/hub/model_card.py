"""The README.md of a published SAE: what it is, what it was made from, how good it is, its limits.

The head is YAML as model hubs read it (library, base model, data sets, tags, results); the rest is
for people. Every number is of the card or of a result; what is not known is said to be so.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saekit.core.result import Result, Score, without_interval
from saekit.hub.card import Card
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.models.short_names import full_name
from saekit.models.sites import UNKNOWN

MARK = "<!-- written by saekit push -->"
TAGS = ["sparse-autoencoder", "saekit"]
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(
    loaded: TrainedSAE,
    results: Sequence[Result] = (),
    *,
    repo: str = "OWNER/REPO",
    path: str = "PATH",
    lens: str = "",
    files: Mapping[str, str] | None = None,
) -> str:
    """Return the text of README.md.

    Args:
        loaded: the SAE.
        results: measured of it.
        repo: where it goes, ``owner/name``; "": a folder of this machine.
        path: its folder there; "": the repository itself.
        lens: why sae-lens cannot read it; "": it can.
        files: SHA-256 of each file, by name.
    """
    name = f"hf:{repo}/{path}".rstrip("/") if repo else path
    blocks = [
        f"---\n{_head(loaded, results, repo.rpartition('/')[2] or path, lens)}---\n{MARK}",
        f"# {_title(loaded)}",
        _summary(loaded),
        "## Load it\n\n" + _code(loaded.card, name, repo, path, lens),
        "## What it was made from\n\n" + _made_from(loaded.card),
        "## How good it is\n\n" + _scores(results),
        "## Limits\n\n" + _limits(loaded, results, lens),
        "## Files\n\n" + _files(loaded, files or {}),
    ]
    return "\n\n".join(blocks) + "\n"


def _head(loaded: TrainedSAE, results: Sequence[Result], name: str, lens: str) -> str:
    import yaml

    card = loaded.card
    head: dict[str, Any] = {
        "library_name": "saekit" if lens else "saelens",
        "tags": [TAGS[0], *([] if lens else ["saelens"]), *TAGS[1:], loaded.cfg.name],
    }
    if base := _base_model(card.model):
        head["base_model"] = base
    if datasets := _datasets(card):
        head["datasets"] = datasets
    found = [_indexed(result, card) for result in results]
    if found := [one for one in found if one["metrics"]]:
        head["model-index"] = [{"name": name, "results": found}]
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True)


def _indexed(result: Result, card: Card) -> dict[str, Any]:
    """Return a result as a model-index has it."""
    metrics = [
        {"type": name, "name": score.label or name, "value": score.value}
        for name, score in result.scores.items()
        if score.value is not None
    ]
    text = _corpus(card)
    return {
        "task": {"type": "feature-extraction", "name": f"saekit {result.name} v{result.version}"},
        "dataset": {"name": f"{text}, held-out part", "type": (_datasets(card) or ["text"])[0]},
        "metrics": metrics,
    }


def _title(loaded: TrainedSAE) -> str:
    card = loaded.card
    return _plain(f"{loaded.cfg.name} SAE of {card.pair.label} of {_model_name(card.model)}")


def _summary(loaded: TrainedSAE) -> str:
    cfg, card = loaded.cfg, loaded.card
    what = "Predicts" if card.transcodes else "Reconstructs"
    fitted = card.provenance.get("fitted")
    name = fitted.get("name") if isinstance(fitted, dict) else None
    how = f"Fitted by `{_plain(str(name))}`" if name else "Trained"
    trained = f" {how} on {card.tokens:,} tokens." if card.tokens else ""
    width = str(cfg.d_in) if cfg.d_in == cfg.d_out else f"{cfg.d_in} -> {cfg.d_out}"
    return (
        f"{what} activations at {_plain(card.pair.label)} (width {width}) from {cfg.d_sae:,} "
        f"latents, architecture `{cfg.name}`.{trained}"
    )


def _code(card: Card, name: str, repo: str, path: str, lens: str) -> str:
    model = _model_name(card.model)
    here = "" if _base_model(card.model) == model else "  # as you have it"
    ours = (
        f"```python\nimport saekit\n\nsae = saekit.load({name!r})\n"
        f"lm = saekit.load_model({model!r}){here}\n"
        f"codes = sae.encode(lm.read('The capital of France is Paris', sae.site))\n```"
    )
    if lens:
        return f"{ours}\n\nsae-lens cannot read it: {_plain(lens)}"
    call = f"from_pretrained({repo!r}, {path or '.'!r})" if repo else f"load_from_disk({path!r})"
    theirs = f"```python\nfrom sae_lens import SAE\n\nsae = SAE.{call}\n```"
    return f"{ours}\n\nWith [sae-lens](https://github.com/decoderesearch/SAELens):\n\n{theirs}"


def _made_from(card: Card) -> str:
    said, run = card.provenance, card.run
    model = card.model
    rows = {
        "language model": _joined(_model_name(model), model.get("revision"), model.get("dtype")),
        "site": card.pair.label,
        "text": _corpus(card),
        "text, identity": _text_identity(card),
        "rows": f"{card.n_ctx} tokens, {_bos(card)}" if card.n_ctx else _bos(card),
        "training tokens": f"{card.tokens:,}" if card.tokens else "",
        "seed": run.get("seed", said.get("seed")),
        "command": _command(said.get("command")),
        "saekit": _joined(said.get("saekit"), said.get("commit")),
        "made": said.get("time"),
        "read from": _source(said),
    }
    lines = [f"| {key} | {_cell(v)} |" for key, v in rows.items() if v not in (None, "")]
    gaps = said.get("unknown") or []
    unknown = f"\n\nNot known: {', '.join(map(_plain, gaps))}." if gaps else ""
    return "\n".join(["| what | value |", "|---|---|", *lines]) + unknown


def _scores(results: Sequence[Result]) -> str:
    if not results:
        return "Nobody has measured it, or the results are not here. `saekit eval` measures it."
    parts = []
    for result in results:
        lines = [f"`{result.name}` version {result.version}.{_measured_on(result)}", ""]
        lines += ["| score | value | 95 % interval | unit | n |", "|---|---|---|---|---|"]
        lines += [_score(name, score) for name, score in result.scores.items()]
        for why, names in without_interval(result.scores).items():
            labels = ", ".join(_plain(result.scores[name].label or name) for name in names)
            lines += ["", f"{labels}: {_plain(why)}."]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _score(name: str, score: Score) -> str:
    value = f"undefined: {score.reason}" if score.value is None else f"{score.value:.4g}"
    between = "none"
    if score.low is not None and score.high is not None:
        between = f"{score.low:.4g} to {score.high:.4g}"
    cells = (score.label or name, value, between, score.unit, f"{score.n:,}")
    return f"| {' | '.join(map(_cell, cells))} |"


def _measured_on(result: Result) -> str:
    said = result.provenance
    record = said.get("model")
    model = _model_name(record) if isinstance(record, dict) else ""
    rows = f" Rows of {said['n_ctx']} tokens." if said.get("n_ctx") else ""
    notes = "".join(f" Note: {_plain(note)}." for note in said.get("notes") or [])
    return (f" Run on {_plain(model)}." if model else "") + rows + notes


def _limits(loaded: TrainedSAE, results: Sequence[Result], lens: str) -> str:
    card = loaded.card
    lines = [
        "What a latent means was not checked: one that fires on a concept in some contexts may "
        "fire on others too, and may miss some."
    ]
    if results:
        lines.append("The scores hold for text like the one they were measured on.")
    for site, fitted in card.rules.items():
        left_out = ["special tokens"] if fitted.rule.special else []
        if fitted.rule.max_norm is not None:
            left_out.append(
                f"tokens whose norm is above {fitted.rule.max_norm:g} times the median "
                f"({fitted.median_norm:.4g})"
            )
        if left_out:
            lines.append(f"Left out at {site}: {' and '.join(left_out)}.")
    if card.bos is None:
        lines.append("Whether rows of training began with BOS is not known.")
    if UNKNOWN in card.pair.sites:
        lines.append("Its site is not certain: name it on loading.")
    lines += [str(note) for note in card.provenance.get("notes") or []]
    if lens:
        lines.append(f"It cannot be read by sae-lens: {lens}")
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _files(loaded: TrainedSAE, files: Mapping[str, str]) -> str:
    lines = ["| file | SHA-256 |", "|---|---|"]
    lines += [f"| {_cell(name)} | `{sha256}` |" for name, sha256 in files.items()]
    lines += [f"| all weights by name (`saekit`) | `{weights_digest(loaded.sae)}` |"]
    return "\n".join(lines)


def _base_model(model: Mapping[str, Any]) -> str:
    """Return the model's name on the hub; "" for a folder, or a model that is embedded."""
    from saekit.models.embedded.unpacking import MODELS

    name = model.get("name") or ""
    name = name if name in MODELS else full_name(name)
    return name if _ON_HUB.fullmatch(name) and not Path(name).exists() else ""


def _model_name(model: Mapping[str, Any]) -> str:
    """Return the model's name on the hub, or that of its folder, without where it lies."""
    return _base_model(model) or Path(model.get("name") or "unknown").name


def _corpus(card: Card) -> str:
    """Return the text's name: a data set, or files by their own names."""
    said = card.corpus.get("corpus", card.corpus)
    if not isinstance(said, dict):
        return str(said)
    if paths := said.get("paths"):
        return ", ".join(Path(str(path)).name for path in paths)
    parts = (said.get("repo") or said.get("name"), said.get("config"), said.get("split"))
    return _joined(*parts) or "unknown"


def _datasets(card: Card) -> list[str]:
    said = card.corpus.get("corpus", card.corpus)
    names = [said.get("repo"), said.get("name")] if isinstance(said, dict) else []
    return [n for n in names if isinstance(n, str) and _ON_HUB.fullmatch(n)][:1]


def _text_identity(card: Card) -> str:
    said = card.corpus.get("text") or {}
    return _joined(*(f"{k} {said[k]}" for k in ("commit", "sha256") if said.get(k)))


def _bos(card: Card) -> str:
    return {True: "beginning with BOS", False: "without BOS", None: "BOS not known"}[card.bos]


def _command(words: Any) -> str:
    """Return the command of training, the user's own folder as `~`."""
    if not isinstance(words, list):
        return ""
    home = str(Path.home())
    return shlex.join(str(word).replace(home, "~") for word in words)


def _source(said: Mapping[str, Any]) -> str:
    published = said.get("published") or {}
    if published.get("repo"):
        commit = published.get("revision")
        return _joined(f"{published['repo']}/{published.get('path', '')}", commit)
    return str(said["format"]) if said.get("format") not in (None, "saekit") else ""


def _joined(*parts: Any) -> str:
    return ", ".join(str(part) for part in parts if part not in (None, "", "unknown"))


def _plain(text: Any) -> str:
    """Return text that came from files as one line that no page takes for markup of its own."""
    flat = " ".join(str(text).split())
    return flat.replace("<", "&lt;").replace("[", "\\[").replace("`", "'")


def _cell(value: Any) -> str:
    return _plain(value).replace("|", "\\|")
