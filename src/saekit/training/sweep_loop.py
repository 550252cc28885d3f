"""The loop of a sweep: many SAEs from one pass of the language model over the text."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saekit.activations.cache.recorded import RecordedModel
from saekit.activations.harvest import Harvest
from saekit.activations.shared import SharedPasses
from saekit.activations.shuffle import Resident
from saekit.core import machine
from saekit.core.border import bordered, inside, reading
from saekit.core.errors import ConfigError, FormatError, Interrupted, SaekitError, TrainingError
from saekit.core.files import read_json, read_json_lines
from saekit.core.lock import claimed
from saekit.core.parts import check_empty
from saekit.models.base import LanguageModel
from saekit.training import record
from saekit.training.checkpoint import run_digest
from saekit.training.lockstep import in_step
from saekit.training.loop import (
    RUN,
    begin,
    begun_with,
    check,
    claim,
    end,
    open_folder,
    open_harvest,
)
from saekit.training.memory import Plan, explained, plan
from saekit.training.record import Record
from saekit.training.run import Run
from saekit.training.scaling import fit_scaling
from saekit.training.signals import StopRequest

SWEEP = "sweep.json"
SHARED = (
    "model",
    "revision",
    "corpus",
    "n_ctx",
    "bos",
    "separate_documents",
    "rule",
    "tokens",
    "epochs",
    "buffer_tokens",
)


def sweep_runs(
    runs: Mapping[str, Run],
    model: LanguageModel,
    out: Path,
    *,
    resume: bool = False,
    shown: bool = True,
) -> dict[str, str]:
    """Train several SAEs on the same tokens of one text; the language model runs once.

    Sites, architectures, widths, rates and seeds may differ. Each run gets ``out / name``, as
    `train` would make it, with the same weights, bit for bit, as `train` gives for its run.json
    on the same machine. Where all activations fit in `buffer_tokens`, SAEs are trained one
    after another; else side by side from one buffer, whose order they share (`order_seed`).
    An SAE whose training breaks is left behind, and the others go on.

    Args:
        runs: by name, which is a folder's.
        model: the language model they name, loaded.
        out: a folder that is new or empty, or that of the sweep to go on with.
        resume: go on with the sweep in `out`.
        shown: show progress on stderr.

    Returns:
        what broke, by name; empty where every SAE was trained.

    Raises:
        ConfigError: runs differ in what they must share, or one does not fit the model.
        Interrupted: Ctrl-C or SIGTERM came; checkpoints were written.
        ResourceError: it does not fit in memory or on the disk.
    """
    runs = _checked(runs)
    if next(iter(runs.values())).separate_documents:
        model = model.separated()
    with contextlib.ExitStack() as held:
        held.enter_context(claimed(out, "saekit sweep", f"Go on with: saekit sweep --resume {out}"))
        digest = _open_folder(runs, model, out, resume)
        for name in runs:
            held.enter_context(claim(out / name))
        held.enter_context(_told(runs, out, resume))
        return _sweep(runs, model, out, digest, shown=shown)


def _sweep(
    runs: dict[str, Run], model: LanguageModel, out: Path, digest: str, *, shown: bool
) -> dict[str, str]:
    """Train in a folder that this process has claimed and begun."""
    left = {name: run for name, run in runs.items() if not record.is_done(out / name)}
    if not left:
        return {}
    if not _in_memory(runs):  # SAEs side by side go on together: they share what is in the buffers
        left = runs
    for name, run in left.items():
        check(run, model, out / name, _is_begun(out / name))
    planned = _plan(left, model)
    planned.check()
    if shown:
        sys.stderr.write(f"sweep     {len(left)} of {len(runs)} to train\nmemory    {planned}\n")
    if not isinstance(model, RecordedModel):  # reading a cache twice costs little
        model = SharedPasses(model, [s for run in left.values() for s in run.pair.sites])
    with explained(planned), StopRequest() as stop:
        if _in_memory(runs):
            return _one_by_one(left, model, out, stop, shown)
        harvests = _harvests(left, model)
        return in_step(left, harvests, out, stop, digest=digest, shown=shown)


@contextlib.contextmanager
def _told(runs: Mapping[str, Run], out: Path, resume: bool) -> Iterator[None]:
    """A context whose failure is told by the manifests of the runs under way.

    Where no run was begun yet, as where the text is too short, nothing is left behind.
    """
    try:
        yield
    except BaseException as error:
        begun = [name for name in runs if _is_begun(out / name)]
        for name in begun:
            record.note_end(out / name, error)
        if not resume and not begun and isinstance(error, SaekitError):
            (out / SWEEP).unlink(missing_ok=True)
        if not isinstance(error, Interrupted):
            raise
        text = str(error).split(" Go on with:")[0]
        raise Interrupted(f"{text} Go on with: saekit sweep --resume {out}") from error


def summary(runs: Mapping[str, Run], out: Path) -> list[dict[str, Any]]:
    """Return a row a run: name, status and what its log last said."""
    rows = []
    for name in runs:
        path = out / name / "log.jsonl"
        log = read_json_lines(path) if path.exists() else []
        with reading(path, "the log of a run"):
            steps = [r for r in log if r["kind"] == "step"]
            last = {k: steps[-1][k] for k in ("fvu", "l0", "dead", "tokens")} if steps else {}
        begun = (out / name / record.MANIFEST).exists()
        status = record.status(out / name) if begun else "not begun"
        rows.append({"name": name, "status": status, **last})
    return rows


def read(out: Path) -> dict[str, Run]:
    """Return the runs of the sweep in a folder, with model and text where they are now.

    Raises:
        FormatError: there is none, or model or text are nowhere to be found.
    """
    made = begun_with_of(out)
    with reading(out / SWEEP, "a sweep"):
        runs = _recorded(out).settings["runs"]
        found = {inside(out, name).name: dict(settings) for name, settings in runs.items()}
    if not found:
        raise FormatError(f"The sweep in {out} has no run: `runs` in {SWEEP} is empty.")
    return {k: Run.from_dict(record.found_again(v, out, made)) for k, v in found.items()}


def _recorded(out: Path) -> Record:
    if not (out / SWEEP).exists():
        raise FormatError(f"{out} holds no sweep to go on with: it has no {SWEEP}.")
    return record.read(out / SWEEP)


@bordered("a sweep")
def begun_with_of(out: Path) -> dict[str, Any]:
    """Return what a sweep was begun with; of an early version's, what the first manifest says.

    Raises:
        FormatError: nothing says it, or there is no sweep.
    """
    found = _recorded(out)
    if found.version:
        return found.begun_with
    manifests = sorted(out.glob(f"*/{record.MANIFEST}"))
    if not manifests:
        raise FormatError(
            f"The sweep in {out} was begun by saekit 0.1.0 and killed before it noted the dtype "
            f"of its model; nothing of it is trained. Delete {out} and begin it anew."
        )
    raw = read_json(manifests[0])
    cache = raw.get("cache")
    return {"model": raw["model"], "cache": None if cache is None else cache["identity"]}


def check_runs(runs: Mapping[str, Run]) -> None:
    """Refuse what are no runs by names of folders.

    Raises:
        ConfigError: there is none, or one is no run, or a name is that of no folder.
    """
    if not isinstance(runs, Mapping) or not all(isinstance(r, Run) for r in runs.values()):
        raise ConfigError(
            f'A sweep takes runs by name, {{"a": saekit.Run(...), ...}}; got {runs!r:.80}.'
        )
    if not runs:
        raise ConfigError("A sweep needs at least one run.")
    for name in runs:
        if not isinstance(name, str) or name != Path(name).name or name in ("", "..", SWEEP):
            raise ConfigError(
                f"A run of a sweep is named as the folder that is made for it; got {name!r:.80}."
            )


def _checked(runs: Mapping[str, Run]) -> dict[str, Run]:
    """Return the runs with one order where they share a buffer."""
    check_runs(runs)
    first = next(iter(runs.values()))
    for name, run in runs.items():
        for field in SHARED:
            if getattr(run, field) != getattr(first, field):
                raise ConfigError(
                    f"Runs of a sweep share {', '.join(SHARED)}; `{field}` of {name} is "
                    f"{getattr(run, field)!r}, of another {getattr(first, field)!r}. Make "
                    f"them equal, or sweep twice."
                )
    for name, run in runs.items():
        if run.mixing is not None or (run.shuffle != "rolling" and not _in_memory(runs)):
            raise ConfigError(
                f"Runs of a sweep are shuffled in memory or in a rolling buffer; {name} has "
                f"shuffle={run.shuffle!r}, mixing={run.mixing}. Leave both out."
            )
    if _in_memory(runs):
        return dict(runs)
    asked = {run.order_seed for run in runs.values()} - {None}
    if len(asked) > 1:
        raise ConfigError(
            f"Runs of a sweep that share a buffer share its order; got order_seed of "
            f"{', '.join(map(str, sorted(s for s in asked if s is not None)))}. Raise "
            f"`buffer_tokens` to {first.tokens:,}, so that all activations stay in memory, or "
            f"train the runs apart."
        )
    return {n: dataclasses.replace(run, order_seed=first.order) for n, run in runs.items()}


def _in_memory(runs: Mapping[str, Run]) -> bool:
    first = next(iter(runs.values()))
    return first.tokens <= first.buffer_tokens


def _open_folder(runs: Mapping[str, Run], model: LanguageModel, out: Path, resume: bool) -> str:
    """Write what decides the weights, or compare it; return the identity of the sweep."""
    first = next(iter(runs.values()))
    raw = {"kind": "sweep", "runs": {n: r.to_dict() for n, r in runs.items()}}
    now = Record(raw, begun_with(first, model, out))
    if not resume:
        check_empty(
            out,
            f"Choose another folder, delete it, or go on with the sweep in it: "
            f"saekit sweep --resume {out}",
        )
        return run_digest(record.begin(out / SWEEP, raw, now.begun_with).settings["runs"])
    found = _recorded(out)
    there = {n: record.completed(r, Run) for n, r in found.settings["runs"].items()}
    settings = {"kind": "sweep", "runs": there}
    record.compare(Record(settings, begun_with_of(out)), now, out)
    return run_digest(found.settings["runs"])


def _is_begun(folder: Path) -> bool:
    return (folder / RUN).exists()


def _plan(runs: Mapping[str, Run], model: LanguageModel) -> Plan:
    """Return what is held: activations of each pair, and SAEs, one or all at a time."""
    plans = {name: plan(run, model) for name, run in runs.items()}
    acts = {_key(runs[name]): p.parts["activations"] for name, p in plans.items()}
    rest = [{k: v for k, v in p.parts.items() if k != "activations"} for p in plans.values()]
    together = max if _in_memory(runs) else sum
    parts = {k: together([r[k] for r in rest]) for k in rest[0]}
    free = next(iter(plans.values())).free
    return Plan({"activations": sum(acts.values()), **parts}, free)


def _key(run: Run) -> str:
    """Return what decides a run's activations, given what the runs of a sweep share."""
    scaled = (run.normalise, run.centre, run.sae.event) if run.pair.shares else ()
    return repr((run.pair, scaled))


def _harvests(runs: Mapping[str, Run], model: LanguageModel) -> dict[str, Harvest]:
    """Return the harvest of each run: one object where activations are the same."""
    found: dict[str, Harvest] = {}
    for run in runs.values():
        if _key(run) not in found:
            found[_key(run)] = open_harvest(run, model)
    return {name: found[_key(run)] for name, run in runs.items()}


def _one_by_one(
    runs: Mapping[str, Run], model: LanguageModel, out: Path, stop: StopRequest, shown: bool
) -> dict[str, str]:
    """Harvest for all runs at once, then train them one after another."""
    harvests = _harvests(runs, model)
    scalings = {n: fit_scaling(harvests[n], r.sae, r.normalise, r.centre) for n, r in runs.items()}
    alone = list({id(h): h for h in harvests.values()}.values())
    first = next(iter(runs.values()))
    filled = Resident.together(
        alone,
        shown=shown,
        tokens=first.tokens,
        epochs=first.epochs,
        batch_tokens=first.step_tokens,
        seed=first.order,
    )
    streams = {id(h): stream for h, stream in zip(alone, filled, strict=True)}
    broken: dict[str, str] = {}
    for name, run in runs.items():
        began, harvest = time.monotonic(), harvests[name]
        stream = streams[id(harvest)].again(batch_tokens=run.step_tokens, seed=run.order)
        if shown:
            sys.stderr.write(f"run       {name}\n")
        resume = _is_begun(out / name)
        kept = open_folder(run, harvest.model, out / name, resume)
        session = begin(
            run, harvest, stream, scalings[name], out / name, resume=resume, shown=shown, kept=kept
        )
        try:
            with session:
                while not session.done:
                    session.step()
                    session.keep(stop.asked)
        except TrainingError as error:
            broken[name] = str(error)
            record.note_end(out / name, error)
        else:
            seconds = session.meter.seconds_before + time.monotonic() - began
            end(run, harvest, session, out / name, seconds)
        del session
        machine.give_back()
    return broken
