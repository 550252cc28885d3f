"""Neuronpedia: the latents of an index as the JSON lines that a Neuronpedia server imports.

The layout is that of the exports which Neuronpedia publishes, one folder a source::

    MODEL/LAYER-SET/  release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl    one line each
                      features/batch-N.jsonl.gz       a line a latent
                      activations/batch-N.jsonl.gz    a line a text, with a value for every token
                      explanations/batch-N.jsonl.gz   a line for each latent with a label

Names of fields are those of its tables; what it has and an index has not is left out or empty.
"""

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from saekit.analysis.index_folder import Index
from saekit.core.config import Config
from saekit.core.errors import ConfigError, FormatError, UnknownNameError
from saekit.core.files import digest, replace_with, write_text
from saekit.core.lock import made_whole
from saekit.core.progress import Progress
from saekit.explorer.labels import Labels, place_for
from saekit.explorer.library import Entry, Library
from saekit.explorer.views import Views
from saekit.models.sites import parse_site, transformer_lens_name

LATENTS_OF_A_FILE = 256
LEVEL = 6  # of gzip
QUANTILES = ("q4", "q3", "q2", "q1")
LEFT_OUT = ("negative",)  # texts without the latent, of which Neuronpedia has none
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Bundle(Config):
    """What a bundle is called, where the index does not say it.

    Args:
        set: name of the set of sources, as res-16k; the source is LAYER-SET.
        model_id: what Neuronpedia calls the model; "": the last part of its name, in lower case.
        release: name of the release; "": that of the set.
        title: of the release, for a reader; "": its name.
        creator: who made the SAE.
        creator_id: of the account on the server that imports it.
        url: of a paper or a page about it.
        weights: repository of the weights on the hub, owner/name.
        weights_path: their folder in it.

    Raises:
        ConfigError: a name has characters that an address cannot have.
    """

    name: ClassVar[str] = "neuronpedia_bundle"
    set: str = "saekit"
    model_id: str = ""
    release: str = ""
    title: str = ""
    creator: str = ""
    creator_id: str = ""
    url: str = ""
    weights: str = ""
    weights_path: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("set", "model_id", "release"):
            value = getattr(self, name)
            if (value or name == "set") and not _NAME.fullmatch(value):
                raise ConfigError(
                    f"`{name}` becomes part of an address: letters, digits, `-`, `_` and `.`; got "
                    f"{value!r}."
                )


def export_neuronpedia(
    place: Path | str,
    out: Path | str,
    *,
    source_set: str = "saekit",
    vectors: bool = False,
    shown: bool = True,
    **about: str,
) -> dict[str, Any]:
    """Write an index as a bundle for Neuronpedia, a folder for each site.

    Args:
        place: the folder of an SAE with an index.
        out: the folder to make; one that holds a bundle is replaced.
        source_set: name of the set of sources, as res-16k.
        vectors: write the direction of each latent too, for steering; the SAE is loaded for it.
        shown: show progress on stderr.
        about: what else a bundle says: `model_id`, `release`, `title`, `creator`, `creator_id`,
            `url`, `weights`, `weights_path`; see `Bundle`.

    Returns:
        ``folder``, and by source its ``latents``, ``activations`` and ``explanations``.

    Raises:
        ConfigError: there is no index, or its site or model has no name there.
        FormatError: a file is damaged.
    """
    bundle = Bundle(set=source_set, **about)
    library = Library(Path(place))
    labels = Labels(place_for(library.folder, read_only=True), read_only=True)
    try:
        views = Views(library, labels)
        entries = _entries(library, place)
        sources: dict[str, dict[str, int]] = {}
        with made_whole(Path(out), "saekit export neuronpedia", replaces=_is_bundle) as part:
            for entry in entries:
                source = _Source(views.index(entry), entry, bundle, vectors=vectors)
                name = f"{source.model_id}/{source.id}"
                if name in sources:
                    raise ConfigError(
                        f"Two SAEs in {place} would both be {name}. Name the folder of one."
                    )
                said = labels.all_of(views.label_key(entry) or "")
                sources[name] = source.write(part / name, said, shown=shown)
        return {"folder": str(out), "sources": sources}
    finally:
        labels.close()


def _is_bundle(folder: Path) -> bool:
    return any(folder.glob("*/*/source.jsonl"))


def _entries(library: Library, place: Path | str) -> list[Entry]:
    entries = [e for e in library.scan().saes.values() if e.state().state == "ok"]
    if not entries:
        raise ConfigError(
            f"No SAE in {place} has an index that can be written. Make one: saekit index {place}"
        )
    return entries


class _Source:
    """One index as a source of Neuronpedia."""

    def __init__(self, index: Index, entry: Entry, bundle: Bundle, *, vectors: bool):
        self.index, self.bundle = index, bundle
        self.model_id = bundle.model_id or _plain_name(index.model)
        try:
            site = parse_site(index.site)
        except UnknownNameError as error:
            raise ConfigError(
                f"Neuronpedia has a source for each layer, and {index.site} is not one site."
            ) from error
        if site.layer is None:
            raise ConfigError(f"Neuronpedia has a source for each layer, and {site} is of none.")
        try:
            self.hook = transformer_lens_name(site)
        except UnknownNameError:
            self.hook = None
        self.id = f"{site.layer}-{bundle.set}"
        self.when = datetime.now(UTC).isoformat()
        self.directions = _directions(entry, index) if vectors else None

    def write(self, folder: Path, labels: Mapping[int, str], *, shown: bool) -> dict[str, int]:
        """Write the folder; return how many lines of each kind."""
        for name, line in self._heads().items():
            write_text(folder / f"{name}.jsonl", _line(line))
        counts = {"latents": self.index.d_sae, "activations": 0, "explanations": 0}
        bar = Progress("export", self.index.d_sae, "latents", shown=shown)
        for number, first in enumerate(range(0, self.index.d_sae, LATENTS_OF_A_FILE)):
            features, activations, explanations = [], [], []
            for latent in range(first, min(first + LATENTS_OF_A_FILE, self.index.d_sae)):
                record = self.index.record(latent)
                features.append(self._feature(record))
                activations += self._activations(record)
                if latent in labels:
                    explanations.append(self._explanation(latent, labels[latent]))
                bar.add(1)
            batch = f"batch-{number}.jsonl.gz"
            _write(folder / "features" / batch, features)
            _write(folder / "activations" / batch, activations)
            if explanations:
                _write(folder / "explanations" / batch, explanations)
            counts["activations"] += len(activations)
            counts["explanations"] += len(explanations)
        bar.close()
        return counts

    def _heads(self) -> dict[str, dict[str, Any]]:
        bundle, index = self.bundle, self.index
        who = {"creatorId": bundle.creator_id, "creatorName": bundle.creator}
        made = {"createdAt": self.when}
        release = bundle.release or bundle.set
        title = bundle.title or release
        corpus = index.manifest.get("corpus") or {}
        release_line = {"name": release, "description": title, "descriptionShort": title}
        release_line |= {"urls": [bundle.url] if bundle.url else [], "visibility": "PUBLIC"}
        model_line = {"id": self.model_id, "displayName": self.model_id}
        model_line |= {"displayNameShort": self.model_id, "visibility": "PUBLIC"}
        model_line |= {"instruct": self.model_id.endswith(("-it", "-instruct", "-chat"))}
        set_line = {"modelId": self.model_id, "name": bundle.set, "releaseName": release}
        set_line |= {"description": title, "visibility": "PUBLIC", "hasDashboards": True}
        source_line = {
            "id": self.id,
            "modelId": self.model_id,
            "setName": bundle.set,
            "hasDashboards": True,
            "visibility": "PUBLIC",
            "inferenceEnabled": False,
            "dataset": str(corpus.get("name") or corpus.get("dataset") or ""),
            "num_prompts": index.made.get("rows"),
            "num_tokens_in_prompt": index.n_ctx,
            "hfRepoId": bundle.weights or None,
            "hfFolderId": bundle.weights_path or None,
            "notes": f"indexed by saekit, {index.n_tokens} tokens",
            "creatorId": bundle.creator_id,
        }
        return {
            "release": release_line | who | made,
            "model": model_line | {"creatorId": bundle.creator_id, "updatedAt": self.when} | made,
            "sourceset": set_line | who | made,
            "source": source_line | made,
        }

    def _key(self, latent: int) -> dict[str, Any]:
        return {"modelId": self.model_id, "layer": self.id, "index": str(latent)}

    def _feature(self, record: Mapping[str, Any]) -> dict[str, Any]:
        latent, strings = record["latent"], record["strings"]
        logits = record["logits"] or {}
        values = record["values"]
        found = self._key(latent) | {
            "creatorId": self.bundle.creator_id,
            "createdAt": self.when,
            "maxActApprox": values.get("max") or 0,
            "frac_nonzero": values.get("density") or 0,
            "hasVector": self.directions is not None,
            "vector": [] if self.directions is None else self.directions[latent].tolist(),
            "vectorLabel": None,
            "vectorDefaultSteerStrength": values.get("max") or 10,
            "hookName": self.hook,
            "topkCosSimIndices": [one[0] for one in record["neighbours"]["decoder"]],
            "topkCosSimValues": [one[1] for one in record["neighbours"]["decoder"]],
        }
        for kind, side in (("pos", "promoted"), ("neg", "suppressed")):
            listed = logits.get(side) or []
            found[f"{kind}_str"] = [strings[i] for i, _ in listed]
            found[f"{kind}_values"] = [value for _, value in listed]
        drawn = {"freq_hist": record["histogram"], "logits_hist": logits.get("histogram")}
        for name, histogram in drawn.items():
            found |= _bars(name, histogram)
        lists = ("neuron_alignment", "correlated_neurons", "correlated_features")
        for name in lists:  # of neurons, or correlations of activations: an index has none
            kinds = ("indices", "values" if name == "neuron_alignment" else "pearson", "l1")
            found |= {f"{name}_{kind}": [] for kind in kinds}
        return found | {"decoder_weights_dist": []}

    def _activations(self, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        strings, seen = record["strings"], set()
        for band, texts in record["examples"].items():
            if band in LEFT_OUT:
                continue
            ends = _ends(texts) if band in QUANTILES else (None, None)
            for one in texts:
                place = (one["row"], one["start"], one["peak"])
                if place in seen:  # a text of the strongest may be one of a quarter too
                    continue
                seen.add(place)
                acts = [0.0] * len(one["tokens"])
                for at, act in zip(one["at"], one["acts"], strict=True):
                    acts[at] = act
                latent, most = record["latent"], max(acts)
                name = digest([self.model_id, self.id, str(latent), *map(str, place)])
                yield self._key(latent) | {
                    "id": name[:25],
                    "tokens": [strings[i] for i in one["tokens"]],
                    "values": acts,
                    "maxValue": most,
                    "maxValueTokenIndex": acts.index(most),
                    "minValue": min(acts),
                    "dataSource": None,
                    "dataIndex": str(one["row"]),
                    "creatorId": self.bundle.creator_id,
                    "createdAt": self.when,
                    "dfaValues": [],
                    "lossValues": [],
                    "binMin": ends[0],
                    "binMax": ends[1],
                    "binContains": None,
                    "qualifyingTokenIndex": one["peak"],
                }

    def _explanation(self, latent: int, text: str) -> dict[str, Any]:
        name = digest([self.model_id, self.id, str(latent), text])
        return self._key(latent) | {
            "id": name[:25],
            "description": text,
            "authorId": self.bundle.creator_id,
            "typeName": None,
            "explanationModelName": None,
            "createdAt": self.when,
        }


def _ends(texts: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    values = [one["value"] for one in texts]
    return (min(values), max(values)) if values else (None, None)


def _bars(name: str, histogram: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a histogram as heights with the middles of its bins."""
    edges, counts = (histogram["edges"], histogram["counts"]) if histogram else ([], [])
    middles = [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
    return {f"{name}_data_bar_heights": counts, f"{name}_data_bar_values": middles}


def _directions(entry: Entry, index: Index) -> Any:
    from saekit.hub.native import load
    from saekit.hub.trained import weights_digest

    loaded = load(entry.folder, site=entry.reads)
    index.check_weights(weights_digest(loaded.sae))
    found = loaded.directions
    if found.ndim != 2:
        raise ConfigError(f"{loaded!r} writes to several sites at once; leave out --vectors.")
    return found.cpu()


def _plain_name(model: str) -> str:
    name = Path(model).name.lower()
    if not _NAME.fullmatch(name) or name == "unknown":
        raise FormatError(f"The index is of the model {model!r}; say its name there: --model-id")
    return name


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(map(_line, lines)).encode("utf-8", "backslashreplace")
    replace_with(path, gzip.compress(text, LEVEL, mtime=0))
