"""Neuronpedia: what it holds of a latent, kept on disk; the network is asked only on request."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.errors import ConfigError, FormatError, ResourceError, UnknownNameError
from saekit.core.files import read_json, replace_with
from saekit.core.stats.plain import mean

URL = "https://www.neuronpedia.org"
TIMEOUT_SECONDS = 30.0
TRIES = 3
WAIT_SECONDS = 1.5  # to the power of the try, where the server names no time
MOST_WAIT_SECONDS = 120.0  # a longer wish ends the attempt; the user may come back later
MOST_BYTES = 2**26
SCORE = "recall_alt"


class Activation(NamedTuple):
    """One text that Neuronpedia keeps of a latent."""

    tokens: tuple[str, ...]
    value: float  # largest activation, act units
    peak: int  # index of its token
    data_index: str
    values: tuple[float, ...] = ()  # activation on every token, where given


class Record(NamedTuple):
    """What is used of Neuronpedia's answer about a latent."""

    index: int
    description: str  # of the first explanation; empty without one
    recall_alt: float | None  # its score
    density: float | None  # frac_nonzero
    max_activation: float | None
    promoted: tuple[str, ...]
    activations: tuple[Activation, ...]
    similar: tuple[tuple[int, float], ...]  # latents with the largest cosine, and the cosine


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Answers of Neuronpedia as files, ``<root>/<model>/<sae>/<index>.json``, raw.

    Offline, which is the default, only files are read. Online, a latent without a file is
    asked for and its answer kept: whole or not at all. 429 and 5xx, and a connection that
    fails, are tried again, after the time the server names (`Retry-After`) or a growing
    pause; no other answer is. For more than a few hundred latents use their exports.

    Args:
        root: folder.
        model: as Neuronpedia names it, ``gemma-2-2b``.
        sae: likewise, ``12-gemmascope-res-16k``.
        online: may the network be asked.
        url: of the server.
        sleep: how to wait; seconds in.

    Raises:
        ConfigError: a name that is no name.
    """

    root: Path
    model: str
    sae: str
    online: bool = False
    url: str = URL
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        for field in ("model", "sae"):
            value = getattr(self, field)
            parts = value.split("/")
            if not value or any(p in ("", ".", "..") for p in parts) or "\\" in value:
                raise ConfigError(
                    f"`{field}` is a name of Neuronpedia, as gemma-2-2b or "
                    f"12-gemmascope-res-16k; got {value!r}."
                )

    def path(self, index: int) -> Path:
        """Return the file of a latent."""
        folders = (name.replace("/", "__") for name in (self.model, self.sae))
        return self.root.joinpath(*folders, f"{index}.json")

    def get(self, index: int) -> Record:
        """Return what is known of a latent, from its file or, online, from the server.

        Raises:
            UnknownNameError: there is no file and the network may not be asked, or the
                server knows no such latent.
            ResourceError: the server does not answer, or refuses.
            FormatError: the answer or the file is not what Neuronpedia gives.
        """
        if index < 0:
            raise UnknownNameError(f"Latents count from 0; got {index}.")
        path = self.path(index)
        if path.exists():
            return parse(read_json(path), str(path), index)
        if not self.online:
            raise UnknownNameError(
                f"{path} is not there and the network is not asked unless told to. Fetch it with "
                f"--online, or put Neuronpedia's answer there."
            )
        name = "/".join(urllib.parse.quote(part, safe="/") for part in (self.model, self.sae))
        address = f"{self.url}/api/feature/{name}/{index}"
        body = self._fetch(address)
        try:
            found = parse(json.loads(body), address, index)  # refused before it is kept
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"{address} did not answer with JSON: {error}.") from error
        replace_with(path, body)
        return found

    def known(self) -> list[int]:
        """Return the latents that have a file, in order."""
        names = (p.stem for p in self.path(0).parent.glob("*.json"))
        return sorted(int(name) for name in names if name.isdigit())

    def _fetch(self, address: str) -> bytes:
        request = urllib.request.Request(address, headers={"Accept": "application/json"})
        for attempt in range(1, TRIES + 1):
            wait = WAIT_SECONDS**attempt
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:
                    body = reply.read(MOST_BYTES + 1)
                if len(body) > MOST_BYTES:
                    raise FormatError(f"{address} answers with over {MOST_BYTES:,} bytes.")
                return body
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 404:
                        raise UnknownNameError(
                            f"{address}: Neuronpedia has no such latent. Compare model and SAE "
                            f"with the address of its page."
                        ) from error
                    if error.code != 429 and error.code < 500:
                        raise ResourceError(
                            f"{address} answers {error.code} {error.reason}; it was not asked "
                            f"again."
                        ) from error
                    wait = _retry_after(error.headers.get("Retry-After"), wait)
                    said = f"{error.code} {error.reason}"
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                said = str(getattr(error, "reason", error))
            if wait > MOST_WAIT_SECONDS:
                raise ResourceError(
                    f"{address} answers {said} and asks for {wait:,.0f} s of patience. Come "
                    f"back later; what was fetched is kept."
                )
            if attempt < TRIES:
                self.sleep(wait)
        raise ResourceError(
            f"{address} did not answer in {TRIES} tries: {said}. Try later, or work offline."
        )


def _retry_after(header: str | None, otherwise: float) -> float:
    """Return the seconds a server asks to wait: a number, or a date."""
    if header is None:
        return otherwise
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except ValueError:
        return otherwise


def parse(raw: Any, where: str, index: int | None = None) -> Record:
    """Return what is used of an answer about a latent.

    Args:
        raw: the answer, as JSON gives it.
        where: file or address, for messages.
        index: of the latent that was asked for; None: whichever it is about.

    Raises:
        FormatError: it is about another latent, or a field is of another kind.
    """
    found = _parsed(raw, where)
    if index is not None and found.index != index:
        raise FormatError(
            f"{where} answers about latent {found.index}; asked for was {index}. The answer is "
            f"not used. If it is a file, delete it or give it its own number."
        )
    return found


def _parsed(raw: Any, where: str) -> Record:
    try:
        explanations = raw.get("explanations") or []
        first = explanations[0] if explanations else {}
        scores = [
            s["value"]
            for s in first.get("scores") or []
            if s.get("explanationScoreTypeName") == SCORE
        ]
        activations = tuple(_activation(a) for a in raw.get("activations") or [])
        similar = zip(
            raw.get("topkCosSimIndices") or [], raw.get("topkCosSimValues") or [], strict=True
        )
        return Record(
            int(raw["index"]),
            str(first.get("description") or ""),
            float(scores[0]) if scores else None,
            _maybe(raw.get("frac_nonzero")),
            _maybe(raw.get("maxActApprox")),
            tuple(map(str, raw.get("pos_str") or [])),
            activations,
            tuple((int(i), float(v)) for i, v in similar),
        )
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise FormatError(
            f"{where} is not what Neuronpedia says of a latent: {type(error).__name__} {error}."
        ) from error


def _activation(raw: dict[str, Any]) -> Activation:
    tokens = tuple(map(str, raw["tokens"]))
    peak = int(raw["maxValueTokenIndex"])
    if not 0 <= peak < len(tokens):
        raise ValueError(f"the peak is token {peak} of {len(tokens)}")
    values = tuple(float(v) for v in raw.get("values") or ())
    return Activation(tokens, float(raw["maxValue"]), peak, str(raw.get("dataIndex", "")), values)


def _maybe(value: Any) -> float | None:
    return None if value is None else float(value)


def cosines_beside(record: Record, ours: Mapping[int, float]) -> list[dict[str, Any]]:
    """Return Neuronpedia's cosines of a latent beside ours, one record a neighbour.

    Args:
        record: of the latent.
        ours: cosine of the latent with others, by number; those it lacks are left out.
    """
    return [
        {
            "fid": record.index,
            "neighbour_fid": i,
            "cosine_local": ours[i],
            "cosine_neuronpedia": theirs,
            "abs_diff": abs(ours[i] - theirs),
        }
        for i, theirs in record.similar
        if i != record.index and i in ours
    ]


def cosine_differences(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how far cosines of `cosines_beside` lie apart: their number, mean and largest."""
    apart = [row["abs_diff"] for row in rows]
    return {
        "n": len(apart),
        "n_overlap": len(apart),
        "mean_abs_diff": mean(apart) if apart else None,
        "max_abs_diff": max(apart, default=None),
    }
