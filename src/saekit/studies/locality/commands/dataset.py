"""`saekit locality dataset`: all of the data set from one command, unit by unit."""

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from saekit.core.errors import ConfigError, SaekitError
from saekit.studies.locality.commands import app
from saekit.studies.locality.commands.options import (
    PARTLY,
    Memory,
    NCtx,
    Resume,
    Seed,
    Settings,
    layers_of,
)
from saekit.terminal.common_options import AsJson, Device, Quiet
from saekit.terminal.output import emit
from saekit.terminal.sae_options import HintOptions
from saekit.terminal.settings_help import lists

PARTS = ("depth", "context", "events", "geometry", "autocorr", "levels")
RECORD = "dataset.json"
FILTERS = {"code": "code-python"}  # names of data sets that are not those of their filters


class Subject(NamedTuple):
    """A preset, or SAEs of the user's own, under the name that the data set gives them."""

    name: str
    folder: Path  # of the release's files, or of the SAEs
    own: bool  # whether the folder is of SAEs, and not of a release
    model: str | None

    @property
    def sae(self) -> dict[str, Any]:
        """Options that name it to depth and context."""
        if self.own:
            return {"folders": [self.folder], "model": self.model}
        return {"preset": self.name, "sae_root": self.folder, "model": self.model}


class Text(NamedTuple):
    """A corpus under the name that the data set gives it."""

    name: str
    corpus: str | None
    filter: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is made, of what, and how."""

    subjects: list[Subject]
    texts: list[Text]
    parts: list[str]
    layers: list[int]  # of events and what follows from them
    sizes: dict[str, int]
    settings: list[str]
    seed: int
    common: dict[str, Any]  # options of every command

    def record(self) -> dict[str, Any]:
        """Return what decides the data set, JSON-ready."""
        return {
            "presets": [
                {"name": s.name, "folder": str(s.folder), "model": s.model} for s in self.subjects
            ],
            "data": [t._asdict() for t in self.texts],
            "parts": self.parts,
            "layers": self.layers,
            "sizes": self.sizes,
            "settings": self.settings,
            "seed": self.seed,
        }


class Unit(NamedTuple):
    """One run, and how it is released: done, done in part, or failed, by itself."""

    name: str  # also its folder below work/
    make: Callable[[Path, bool], None]  # folder, and whether to go on with it
    release: dict[str, Any] | None  # options of `release`; None where it is of use here alone


@app.command(
    "dataset",
    cls=lists(
        "saekit.studies.locality.runs.depth:Depth", but=("corpus", "filter", "n_ctx", "windows")
    ),
)
def dataset(
    presets: Annotated[
        str,
        typer.Option(
            help="Models to make it for, as gpt2-small,mine=FOLDER: presets whose files "
            "are below --sae-root, or folders of SAEs with a name."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder to write to: the data set to data/, the runs to work/.")
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Texts, separated by commas: wikitext, gsm8k=FILE.jsonl, code, or NAME=CORPUS."
        ),
    ] = "wikitext,code",
    sae_root: Annotated[
        Path | None,
        typer.Option(
            help="Folder that has a folder with the files of each preset, named after it."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Language model of a preset, as PRESET=MODEL, by name or folder. Repeatable."
        ),
    ] = None,
    parts: Annotated[str, typer.Option(help="Results to make, separated by commas.")] = ",".join(
        PARTS
    ),
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help="Layers for events, geometry, autocorr and levels, as 12,18. Repeatable. "
            "[the middle one]"
        ),
    ] = None,
    windows: Annotated[int, typer.Option(help="Windows of text for depth.")] = 50,
    n_ctx: NCtx = 64,
    context: Annotated[
        int, typer.Option(help="Longest context, in tokens; 0 is the preset's, or 2048.")
    ] = 0,
    step: Annotated[
        int,
        typer.Option(help="Tokens from one context length to the next; 0 is the preset's, or 128."),
    ] = 0,
    tokens: Annotated[int, typer.Option(help="Tokens of text to take events from.")] = 200_000,
    n_latents: Annotated[int, typer.Option(help="Number of latents to draw for events.")] = 50,
    top: Annotated[int, typer.Option(help="Most events for each latent.")] = 16,
    seed: Seed = 0,
    settings: Settings = None,
    memory: Memory = None,
    device: Device = "auto",
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make the data set "SAE Locality Data" of some models and corpora: every run, and its release.

    A run that fails is named and does not stop the others; --resume makes the missing ones.

    Example: saekit locality dataset --presets mine=demo --data news=packaged,code --out seed
    --windows 8 --context 136 --tokens 60000
    """
    from saekit.report import style

    style.check()
    sizes = {
        "windows": windows,
        "n_ctx": n_ctx,
        "context": context,
        "step": step,
        "tokens": tokens,
        "n_latents": n_latents,
        "top": top,
    }
    if bad := [k for k, v in sizes.items() if v < (0 if k in ("context", "step") else 1)]:
        option = bad[0].replace("_", "-")
        raise ConfigError(f"`--{option}` is out of range; got {sizes[bad[0]]}.")
    plan = Plan(
        subjects=_subjects(presets, sae_root, model),
        texts=_texts(data),
        parts=_parts(parts),
        layers=layers_of(layers),
        sizes=sizes,
        settings=settings or [],
        seed=seed,
        common={"memory": memory, "device": device, "quiet": quiet},
    )
    stamp = _begun(out, plan, resume)
    states = {unit.name: _done(unit, out, stamp, quiet) for unit in _units(plan, out, stamp)}
    drawn = _grids(out / "data") if "depth" in plan.parts else []
    failed = {name: s["why"] for name, s in states.items() if s["status"] != "done"}
    record = {"data": str(out / "data"), "units": len(states), "failed": failed, "figures": drawn}
    lines = [f"{out / 'data'}: {len(states) - len(failed)} of {len(states)} units"]
    lines += [f"failed   {name}: {why}" for name, why in failed.items()]
    lines += [f"figure   {path}" for path in drawn]
    if failed:
        lines.append("next     the same command with --resume makes what is missing")
    emit(record, as_json=as_json, lines=lines)
    if failed:
        raise typer.Exit(PARTLY)


def _subjects(words: str, root: Path | None, models: list[str] | None) -> list[Subject]:
    """Return the presets and SAEs that a word names.

    Raises:
        ConfigError: a name is given twice, or a folder is not there or not named.
        UnknownNameError: there is no such preset.
    """
    from saekit.studies.locality.presets import PRESETS
    from saekit.studies.locality.presets import preset as find

    named = _pairs(words, "--presets")
    known = dict(_split(one, "--model") for one in models or ())
    if odd := set(known) - set(named):
        raise ConfigError(f"--model names {sorted(odd)[0]}, which is none of {', '.join(named)}.")
    found = []
    for name, given in named.items():
        if given is None and root is None:
            find(name)
            raise ConfigError(
                f"Say where the SAEs of {name} are: {name}=FOLDER, or --sae-root with a folder "
                f"{name} in it."
            )
        folder = Path(given) if given is not None else (root or Path()) / name
        if not folder.is_dir():
            raise ConfigError(f"There is no folder {folder}, for the SAEs of {name}.")
        own = (folder / "config.json").is_file() or (folder / "sae").is_dir()
        if not own and name not in PRESETS:
            find(name)  # says which there are
        found.append(Subject(name, folder, own, known.get(name)))
    return found


def _texts(words: str) -> list[Text]:
    from saekit.data.open import open_corpus
    from saekit.studies.locality.filters.base import registry

    found = []
    for name, corpus in _pairs(words, "--data").items():
        rule = FILTERS.get(name, name)
        if rule not in registry.names() or rule == "plain":
            if corpus is None:
                raise ConfigError(
                    f"Say which text {name} is, as {name}=FILE. Without a text are known: "
                    f"wikitext, code, code-python."
                )
            rule = "plain"
        if corpus is None and rule == "gsm8k":
            raise ConfigError("Give the rows of GSM8K (question, answer): gsm8k=FILE.jsonl.")
        if corpus is not None and rule != "gsm8k":
            open_corpus(corpus)  # refused before any work
        found.append(Text("code-python" if name == "code" else name, corpus, rule))
    return found


def _pairs(words: str, option: str) -> dict[str, str | None]:
    """Return the names of a list by commas, and what they are said to be.

    Raises:
        ConfigError: there is none, one is empty, or one is given twice.
    """
    found: dict[str, str | None] = {}
    for word in words.split(","):
        name, sign, value = (part.strip() for part in word.partition("="))
        if not name or (sign and not value) or name in found or "/" in name:
            raise ConfigError(f"`{option}` reads NAME,NAME=VALUE, each name once; got {words!r}.")
        found[name] = value if sign else None
    return found


def _split(word: str, option: str) -> tuple[str, str]:
    name, sign, value = word.partition("=")
    if not sign or not name or not value:
        raise ConfigError(f"`{option}` reads PRESET=MODEL; got {word!r}.")
    return name, value


def _parts(words: str) -> list[str]:
    named = list(_pairs(words, "--parts"))
    if odd := [part for part in named if part not in PARTS]:
        raise ConfigError(f"`--parts` are of {', '.join(PARTS)}; got {odd[0]}.")
    if "geometry" in named and "events" not in named:
        raise ConfigError("Geometry is of events. Add events to --parts.")
    return [part for part in PARTS if part in named]


def _begun(out: Path, plan: Plan, resume: bool) -> str:
    """Return the time that folders are named by; write what decides the data set.

    Raises:
        ConfigError: the folder is in use, or holds a data set of other settings.
    """
    from saekit.core.files import write_json
    from saekit.studies.locality.runs.journal import begun_with

    path, record = out / RECORD, plan.record()
    before = begun_with(path, record, resume=resume, aside={"timestamp"})
    if before is not None:
        return str(before["timestamp"])
    stamp = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    write_json(path, record | {"timestamp": stamp})
    return stamp


def _units(plan: Plan, out: Path, stamp: str) -> Iterator[Unit]:
    """Yield the units in an order in which each finds what it needs."""
    for subject in plan.subjects:
        if "depth" in plan.parts:
            yield from (_depth(plan, subject, text) for text in plan.texts)
        if "context" in plan.parts:
            yield _context(plan, subject, out / "work" / "prompt.txt")
        for layer in _layers(plan, subject):
            yield from _latents(plan, subject, layer, (out / "work", stamp))


def _depth(plan: Plan, subject: Subject, text: Text) -> Unit:
    from saekit.studies.locality.commands.depth import depth

    def make(folder: Path, resume: bool) -> None:
        depth(
            **subject.sae,
            **plan.common,
            corpus=text.corpus,
            dataset=text.filter,
            windows=plan.sizes["windows"],
            n_ctx=plan.sizes["n_ctx"],
            seed=plan.seed,
            settings=plan.settings,
            figures=False,
            resume=resume,
            out=folder,
        )

    return Unit(
        f"depth/{subject.name}/{text.name}",
        make,
        {"preset": subject.name, "dataset": text.name, "figures": True},
    )


def _context(plan: Plan, subject: Subject, prompt: Path) -> Unit:
    from saekit.studies.locality.commands.context import context
    from saekit.studies.locality.presets import PRESETS
    from saekit.studies.locality.presets import preset as find

    sizes = (
        (find(subject.name).n_ctx_max, find(subject.name).n_ctx_step)
        if (subject.name in PRESETS)
        else (2048, 128)
    )
    longest = plan.sizes["context"] or sizes[0]

    def make(folder: Path, resume: bool) -> None:
        if not prompt.is_file():
            _draw_prompt(plan, prompt, longest)
        context(
            **subject.sae,
            **plan.common,
            prompt=prompt,
            n_ctx=longest,
            least=min(8, longest),
            step=plan.sizes["step"] or sizes[1],
            figures=False,
            settings=[s for s in plan.settings if s.startswith("measure.")],
            seed=plan.seed,
            resume=resume,
            out=folder,
        )

    return Unit(f"context/{subject.name}", make, {"preset": subject.name, "figures": True})


def _draw_prompt(plan: Plan, prompt: Path, longest: int) -> None:
    """Draw the text that all models' sweeps read, from the first corpus."""
    from saekit.core.files import write_json, write_text
    from saekit.data.held_out import kept_from_all
    from saekit.hub.native import load
    from saekit.studies.locality.commands.options import text_of
    from saekit.studies.locality.windows.drawing import part
    from saekit.studies.locality.windows.prompts import draw

    corpus, _ = text_of(plan.texts[0].corpus, plan.texts[0].filter)
    if part(corpus, "test") == "test":  # one that is read whole stays whole
        own = [s for s in plan.subjects if s.own]
        runs = ((s.name, load(s.folder, scaled=True).card.run.get("corpus")) for s in own)
        corpus = kept_from_all(corpus, runs, "test")
    found = draw(corpus, part(corpus, "test"), chars=6 * longest, seed=plan.seed)
    write_text(prompt, found.text)
    write_json(prompt.with_name(f"{prompt.name}.meta.json"), found.told)


def _layers(plan: Plan, subject: Subject) -> list[int]:
    """Return the layers whose latents are looked at: those asked for, or the middle one."""
    from saekit.core.stats.plain import middle
    from saekit.hub.native import load
    from saekit.studies.locality.presets import preset as find

    if not set(plan.parts) & {"events", "geometry", "autocorr", "levels"}:
        return []
    if plan.layers:
        return plan.layers
    if not subject.own:
        layers = list(find(subject.name).layers)
    else:
        reads = load(subject.folder, scaled=True).card.pair.reads
        layers = sorted(site.layer for site in reads if site.layer is not None)
    return middle(layers)


def _latents(plan: Plan, subject: Subject, layer: int, where: tuple[Path, str]) -> Iterator[Unit]:
    """Yield the units of one layer's latents: index, events, geometry, autocorr, levels."""
    from saekit.studies.locality.commands.autocorr import autocorr
    from saekit.studies.locality.commands.events import PASS, events
    from saekit.studies.locality.commands.geometry import geometry
    from saekit.studies.locality.commands.levels import levels
    from saekit.studies.locality.commands.options import codes_of, float32_model, opened, text_of

    (work, stamp), text = where, plan.texts[0]
    tail = f"{subject.name}/L{layer}"
    one = {"layers": [str(layer)], "preset": None if subject.own else subject.name}
    index, found = work / "index" / tail, work / "events" / tail
    memory, device, quiet = (plan.common[k] for k in ("memory", "device", "quiet"))
    named = f"{subject.name}, L{layer}"
    out = {"preset": subject.name, "timestamp": f"{stamp}_{subject.name}_L{layer}"}

    def make_index(folder: Path, resume: bool) -> None:
        loaded = opened(subject.folder, None, **one, sae=HintOptions())
        lm = float32_model(loaded, device, subject.model)
        corpus, _ = text_of(text.corpus, text.filter)
        sizes = min(PASS[0], lm.n_ctx_max), min(PASS[1], lm.n_ctx_max // 4)
        codes_of(
            loaded,
            lm,
            (corpus, "train"),
            folder,
            plan.sizes["tokens"],
            sizes=sizes,
            shown=not quiet,
        )

    def make_events(folder: Path, resume: bool) -> None:
        events(
            home=subject.folder,
            **one,
            model=subject.model,
            index=index,
            sae_id=named,
            n_latents=plan.sizes["n_latents"],
            top=plan.sizes["top"],
            max_density=1.0,
            n_ctx=[n for n in (16, 32, 64, 96, 128) if n <= max(plan.sizes["n_ctx"], 16)],
            seed=plan.seed,
            out=folder,
            resume=resume,
            memory=memory,
            device=device,
            quiet=quiet,
        )

    def make_geometry(folder: Path, resume: bool) -> None:
        geometry(events=found, home=subject.folder, **one, seed=plan.seed, out=folder, quiet=quiet)

    def make_autocorr(folder: Path, resume: bool) -> None:
        autocorr(
            home=subject.folder,
            **one,
            model=subject.model,
            index=index,
            tokens=0,
            n_latents=plan.sizes["n_latents"],
            top=min(plan.sizes["top"], 20),
            max_density=1.0,
            n_ctx=plan.sizes["n_ctx"],
            sae_id=named,
            seed=plan.seed,
            out=folder,
            resume=resume,
            memory=memory,
            device=device,
            quiet=quiet,
        )

    def make_levels(folder: Path, resume: bool) -> None:
        levels(
            saes=[subject.folder],
            **one,
            model=subject.model,
            index=[index],
            threshold=0.0,
            device=device,
            out=folder,
            quiet=quiet,
        )

    yield Unit(f"index/{tail}", make_index, None)
    makes = {
        "events": make_events,
        "geometry": make_geometry,
        "autocorr": make_autocorr,
        "levels": make_levels,
    }
    for part, make in makes.items():
        if part in plan.parts:
            yield Unit(f"{part}/{tail}", make, out)


def _done(unit: Unit, out: Path, stamp: str, quiet: bool) -> dict[str, Any]:
    """Make and release a unit, unless it is done; return its state."""
    from saekit.core.files import read_json, write_json

    state = out / "units" / f"{unit.name}.json"
    if state.is_file():
        before = read_json(state)
        if before["status"] == "done":
            return before
    folder = out / "work" / unit.name
    if not quiet:
        typer.echo(f"unit     {unit.name}", err=True)
    status, why = "done", ""
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:  # one line of JSON is ours to print
            try:
                unit.make(folder, folder.exists())
            except typer.Exit as ended:
                status, why = _ended(ended, said.getvalue())
            if unit.release is not None:
                _release(unit.release, folder, out / "data", stamp)
    except (SaekitError, OSError, RuntimeError) as error:
        status, why = "failed", f"{type(error).__name__}: {error}"
    made = {"unit": unit.name, "status": status, "why": why}
    write_json(state, made)
    return made


def _ended(ended: typer.Exit, said: str) -> tuple[str, str]:
    """Return the state of a command that left with a code, and the first reason it printed."""
    if not ended.exit_code:
        return "done", ""
    reasons = [line for line in said.splitlines() if line.startswith("failed")]
    return "part", (reasons or ["not all of it was done"])[0].removeprefix("failed").strip()


def _release(options: dict[str, Any], folder: Path, data: Path, stamp: str) -> None:
    from saekit.studies.locality.commands.release import release

    with contextlib.suppress(typer.Exit):  # a figure that cannot be drawn is said beside it
        named: dict[str, Any] = {"timestamp": stamp} | options
        release(folder, data, **named)


def _grids(data: Path) -> list[str]:
    """Draw all models side by side, a figure a corpus."""
    from saekit.studies.locality.figures import entropy_depth
    from saekit.studies.locality.runs import depth_data

    try:
        found = {run: depth_data.read(run) for run in depth_data.below(data)}
    except SaekitError:
        return []  # nothing was released, which the units say
    drawn = []
    for corpus in dict.fromkeys(one.dataset for one in found.values()):
        panels = {one.preset: one for one in found.values() if one.dataset == corpus}
        for kind, mark in (("violin", "violin"), ("box", "boxplot")):
            name = f"entropy_vs_depth_crossmodel_grid_{mark}__{corpus}.png"
            drawn.append(str(entropy_depth.draw(panels, data / "figures" / name, kind)))
    return drawn
