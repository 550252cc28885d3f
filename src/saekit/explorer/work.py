"""What the worker process does: jobs that need a model, one at a time, as they come.

It is a process of its own, so that the server stays small, goes on answering while a model
computes, and outlives whatever a model does to its process. A request is a line of JSON on
standard input, and so are the answers on standard output: progress, then a result or an error.
Only the kinds of `KINDS` are done.
"""

import json
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from saekit.core.errors import ConfigError, SaekitError
from saekit.core.files import to_json_line
from saekit.core.progress import heard
from saekit.explorer.problems import Problem

Args = dict[str, Any]
Tell = Callable[[str, float | None], None]

MOST_SAES, MOST_READINGS = 4, 8
MOST_ENTRIES = 4500  # of a prompt: at 15 bytes each about two thirds of a reply of 100 kB
BINS = 64


class Bench:
    """The SAEs, the language model and the prompts that were used last, kept in memory.

    Args:
        tell: told what is being done, and how far it is (0 to 1; None: not known).
    """

    def __init__(self, tell: Tell):
        self.tell = tell
        self._saes: OrderedDict[str, Any] = OrderedDict()
        self._model: tuple[str, Any] | None = None
        self._readings: OrderedDict[str, Any] = OrderedDict()

    @property
    def model_name(self) -> str | None:
        """The language model in memory; None: there is none."""
        return None if self._model is None else self._model[1].name

    def sae(self, sae: Args, *, scaled: bool = False) -> Any:
        """Return an SAE, with what running it needs filled in.

        Args:
            sae: ``folder``, ``site`` (None: the one it reads), ``model`` (what the index says its
                language model is, where its files do not; None: they do).
            scaled: the weights as trained, for all sites that share it.
        """
        from saekit.hub.formats.base import FormatHints
        from saekit.hub.native import load

        key = json.dumps([sae["folder"], None if scaled else sae["site"], scaled, _stamp(sae)])
        if key not in self._saes:
            self.tell("reading the SAE", None)
            hints = FormatHints(model=sae["model"] or "")
            site = None if scaled else sae["site"]
            found = load(sae["folder"], site=site, scaled=scaled, hints=hints)
            _keep(self._saes, key, found, MOST_SAES)
        self._saes.move_to_end(key)
        return self._saes[key]

    def model(self, loaded: Any) -> Any:
        """Return the language model of an SAE."""
        from saekit.hub.opening import model_of

        card = loaded.card
        key = to_json_line([card.model, card.run.get("model"), card.run.get("revision")])
        if self._model is None or self._model[0] != key:
            self._model = None  # two models may be more than the memory holds
            self._readings.clear()
            self.tell(f"loading {Path(card.run.get('model', card.model['name'])).name}", None)
            self._model = (key, model_of(loaded, "auto"))
        return self._model[1]

    def ready(self, args: Args) -> tuple[Any, Any]:
        """Return the SAE at its site, ready to be run on text, and its language model."""
        from saekit.hub.opening import OpenOptions, ready

        loaded = self.sae(args["sae"])
        loaded.card.check_model()
        lm = self.model(loaded)
        return ready(loaded, OpenOptions(), lm)

    def reading(self, args: Args) -> Any:
        """Return the `PromptReading` of a text at every site of an SAE."""
        from saekit.hub.shared import SharedSAE
        from saekit.studies.layers.prompt import PromptReading

        loaded = self.sae(args["sae"], scaled=True)
        loaded.card.check_model()
        lm = self.model(loaded)
        key = json.dumps([args["sae"]["folder"], _stamp(args["sae"]), args["text"]])
        if key not in self._readings:
            self.tell("reading the prompt", None)
            ruled = loaded.ruled(lm)
            shared = SharedSAE(ruled.sae.to(lm.device), ruled.card)
            _keep(self._readings, key, PromptReading(shared, lm, args["text"]), MOST_READINGS)
        self._readings.move_to_end(key)
        return self._readings[key]


def _keep(kept: OrderedDict[str, Any], key: str, value: Any, most: int) -> None:
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)


def _stamp(sae: Args) -> list[int]:
    """Return what changes when the files of an SAE do."""
    folder = Path(sae["folder"])
    places = [folder, *sorted(folder.glob("*")), *sorted((folder / "sae").glob("*"))]
    return [p.stat().st_mtime_ns for p in places if p.exists()]


def prompt(bench: Bench, args: Args) -> Args:
    """Return tokens, active latents by site, histograms and metrics of a text."""
    loaded = bench.sae(args["sae"], scaled=True)
    if loaded.cfg.event:
        return _joint_prompt(bench, args)
    reading = bench.reading(args)
    pieces = reading.token_list()
    tokens = [
        {"id": t["id"], "text": t["token"], "pos": t["pos"], "counts": t["layers"] > 0}
        for t in pieces
    ]
    entries = reading.columns(MOST_ENTRIES)
    every = {str(site): len(codes.latent) for site, codes in reading.codes.items()}
    found = {
        "tokens": tokens,
        "sites": list(entries),
        "numbers": reading.shared.numbers,
        "d_sae": reading.shared.d_sae,
        "entries": entries,
        "n_entries": every,
        "histograms": reading.histograms(BINS),
        "metrics": [
            {k: _short(row[k]) for k in ("site", "tokens", "fvu", "l0")}
            for row in reading.metrics()
        ],
    }
    if args["pos"] is not None:
        found["position"] = {"pos": args["pos"], "entries": reading.at_position(args["pos"])}
    if args["latent"] is not None:
        found["strip"] = {"latent": args["latent"], "entries": reading.of_latent(args["latent"])}
    return found


def _joint_prompt(bench: Bench, args: Args) -> Args:
    """Return the same of an SAE that codes several sites at once: one code a token."""
    from saekit.hub.prompting import prompt as read

    sae, lm = bench.ready(args)
    shown = read(lm, sae, args["text"])
    label, codes = sae.card.pair.label, shown.codes
    kept = shown.kept.flatten()
    on = kept.to(codes.latents.device)[codes.rows()]
    columns = [codes.rows()[on], codes.latents[on], codes.values[on].abs()]
    values = [_short(v) for v in columns[2].tolist()]
    entries = [columns[0].tolist(), columns[1].tolist(), values]
    ids = shown.tokens.flatten().tolist()
    found: Args = {
        "tokens": [
            {"id": i, "text": piece, "pos": pos, "counts": bool(kept[pos])}
            for pos, (i, piece) in enumerate(zip(ids, shown.pieces, strict=True))
        ],
        "sites": [label],
        "numbers": [0],
        "d_sae": sae.d_sae,
        "entries": {label: entries},
        "n_entries": {label: len(entries[0])},
        "histograms": None,
        "metrics": [],
    }
    for name, column, wanted in (("position", 0, args["pos"]), ("strip", 1, args["latent"])):
        if wanted is not None:
            _check_range(name, wanted, len(ids) if column == 0 else sae.d_sae)
            rows = [i for i, v in enumerate(entries[column]) if v == wanted]
            picked = {label: [[part[i] for i in rows] for part in entries]}
            found[name] = {("pos" if column == 0 else "latent"): wanted, "entries": picked}
    return found


def _check_range(name: str, value: int, n: int) -> None:
    if not 0 <= value < n:
        word = "position" if name == "position" else "latent"
        raise ConfigError(f"There is no {word} {value}; there are 0..{n - 1}.")


def logits(bench: Bench, args: Args) -> Args:
    """Return next tokens by the model, by the reconstruction of a site, and steered there."""
    from saekit.studies.layers.prompt import Steering

    reading = bench.reading(args)
    pos, n = args["pos"], args["n"]
    if pos is not None:
        reading.check_position(pos)
    site = args["site"] or next(iter(map(str, reading.codes)))
    reading.site(site)
    found: Args = {"site": site, "pos": pos, "input": _cells(reading.logits_input(n), pos)}
    bench.tell("with the reconstruction", None)
    found["recon"] = _three(reading.logits_reconstructed(site, n), pos)
    found["steered"] = None
    if args["latent"] is not None:
        bench.tell("with the latent added", None)
        unit = "act" if args["unit"] == "max" else args["unit"]
        # What "max" is a multiple of stands in the index, which the server reads.
        factor = args["factor"] * (args["max"] if args["unit"] == "max" else 1.0)
        steering = Steering(site, args["latent"], factor, unit)
        found["steered"] = _three(reading.logits_steered(steering, n), pos)
    return found


def _cells(found: list[list[Args]], pos: int | None) -> list[list[list[Any]]]:
    rows = found if pos is None else [found[pos]]
    return [
        [[c["token"], c["logit"], *([c["prob"]] if "prob" in c else [])] for c in row]
        for row in rows
    ]


def _three(found: Args, pos: int | None) -> Args:
    return {name: _cells(found[name], pos) for name in ("top", "up", "down")}


def activate(bench: Bench, args: Args) -> Args:
    """Return how strongly one latent is on at each token of some texts."""
    from saekit.hub.prompting import prompt as read

    sae, lm = bench.ready(args)
    texts = []
    for i, text in enumerate(args["texts"]):
        bench.tell("reading", i / len(args["texts"]))
        shown = read(lm, sae, text)
        acts = shown.latent(args["latent"])
        strings, tokens = _numbered(shown.pieces)
        texts.append({"strings": strings, "tokens": tokens} | _sparse(acts))
    return {"latent": args["latent"], "texts": texts}


def _numbered(pieces: list[str]) -> tuple[list[str], list[int]]:
    """Return each string once, and the number of each piece in that list."""
    strings = list(dict.fromkeys(pieces))
    number = {piece: i for i, piece in enumerate(strings)}
    return strings, [number[piece] for piece in pieces]


def _sparse(acts: list[float]) -> Args:
    at = [i for i, act in enumerate(acts) if act]
    return {
        "at": at,
        "acts": [_short(acts[i]) for i in at],
        "max": _short(max(acts, key=abs, default=0.0)),
    }


def steer(bench: Bench, args: Args) -> Args:
    """Return what the model writes with a latent moved, at several strengths."""
    from saekit.hub.steering import steer as move

    sae, lm = bench.ready(args)
    bench.tell("writing", None)
    unit = args["max"] if args["scale"] is not None else 1.0
    strengths = args["scale"] if args["scale"] is not None else args["add"]
    how = {k: args[k] for k in ("n", "temperature", "seed", "seeds")}
    add = [strength * unit for strength in strengths]
    return move(lm, sae, args["latent"], prompt=args["prompt"], add=add, **how).to_dict()


def ablate(bench: Bench, args: Args) -> Args:
    """Return how the loss of each token changes without a latent."""
    from saekit.hub.ablation import ablate as without

    sae, lm = bench.ready(args)
    bench.tell("reading twice", None)
    found = without(lm, sae, args["latent"], args["text"]).to_dict()
    strings, tokens = _numbered(found["pieces"])
    short = {k: [_short(v) for v in found[k]] for k in ("loss", "change")}
    return {"latent": args["latent"], "strings": strings, "tokens": tokens} | (
        _sparse(found["acts"]) | short
    )


def match(bench: Bench, args: Args) -> Args:
    """Return the nearest latent of another SAE for each latent of one."""
    from saekit.analysis.matching import matches

    one, other = bench.sae(args["sae"]), bench.sae(args["other"])
    bench.tell("comparing directions", None)
    return matches(one, other).to_dict()


def index(bench: Bench, args: Args) -> Args:
    """Make the index of an SAE in its folder, as `saekit index` does."""
    from saekit.analysis.index_saes import index as make

    def hear(title: str, done: int, total: int | None) -> None:
        bench.tell(title, done / total if total else None)

    lm = bench.model(bench.sae(args["sae"], scaled=True))
    with heard(hear):
        make(args["sae"]["folder"], lm, tokens=args["tokens"], fresh=args["fresh"], shown=False)
    return {"tokens": args["tokens"]}


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


KINDS: dict[str, Callable[[Bench, Args], Args]] = {
    "prompt": prompt,
    "logits": logits,
    "activate": activate,
    "steer": steer,
    "ablate": ablate,
    "match": match,
    "index": index,
}


class Answers:
    """The stream back to the server, a line of JSON each."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, record: Args) -> None:
        """Write one answer."""
        with self._lock:
            self._stream.write(to_json_line(record) + "\n")
            self._stream.flush()


def done(bench: Bench, request: Args) -> Args:
    """Return the answer to one request: its result, or why there is none."""
    try:
        return {"result": KINDS[request["kind"]](bench, request["args"])}
    except SaekitError as error:
        return {"error": Problem.of(error).record()}
    except MemoryError:
        lacking = Problem(503, "The job needs more memory than there is.", "Give it less text.")
        return {"error": lacking.record()}
    except Exception as error:  # whatever a model or a damaged file makes of it ends this job only
        import traceback

        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"[:500]
        return {"error": Problem(500, f"The job failed: {said}").record()}


def main() -> None:
    """Do the jobs that come on standard input until it ends."""
    # What a library prints must not stand among the answers.
    answers = Answers(os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace"))
    os.dup2(2, 1)
    from saekit.core import machine

    machine.prepare()
    machine.leave_busy_cores()
    said = [0.0]

    def tell(text: str, fraction: float | None) -> None:
        import time

        now = time.monotonic()
        if fraction is None or now - said[0] >= 0.2:  # a line for each batch would be many
            said[0] = now
            answers.send({"progress": {"text": text, "fraction": fraction}})

    bench = Bench(tell)
    waiting: list[Args] = []
    came = threading.Semaphore(0)

    def listen() -> None:
        # Where the server is gone, so is this process, in the middle of a job too.
        for line in sys.stdin:
            waiting.append(json.loads(line))
            came.release()
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        came.acquire()
        answer = done(bench, waiting.pop(0))
        answers.send(answer | {"model": bench.model_name})
        machine.give_back()
