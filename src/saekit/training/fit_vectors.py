"""`saekit.fit`: an SAE on vectors from anywhere, in one call."""

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from saekit.activations.pairs import Pair
from saekit.core import provenance
from saekit.core.border import reading
from saekit.core.config import setting
from saekit.core.errors import ConfigError, DataError
from saekit.core.registry import missing_explained, own_parts
from saekit.core.result import Score
from saekit.data.vectors import Source, Vectors, open_vectors
from saekit.hub.card import NO_MODEL, Card
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.models.placement import pick_device
from saekit.models.sites import UNKNOWN
from saekit.saes.base import SAEConfig, Unsized
from saekit.training import record
from saekit.training.building import settings_of_sae, sized
from saekit.training.fit import Fit
from saekit.training.fitting import FIT, FitFolder, fit_stream
from saekit.training.scaling import Scalings, ScalingSums, check_foldable
from saekit.training.starting import (
    about_start,
    keep_start,
    kept_start,
    scaled_weights,
    started,
    starting_config,
)
from saekit.training.vector_scores import open_sides, scores_of
from saekit.training.vector_stream import Split, VectorStream

SIDES = ("vectors", "vectors_y")  # read, and predicted, in records
SCORES = "held_out.json"
# Measured: docs/measurements/training.md.
LEAST_SHOWN, MOST_EPOCHS = 1_000_000, 50  # rows that training sees where nothing is said
BUFFER_VALUES = 2**28  # float32, 1 GiB
LEAST_ROWS = 100
MOST_UNITS = 1024
SCALING_ROWS = 2**14  # a mean square within 1 %


@dataclass(frozen=True, kw_only=True)
class VectorFit(Fit):
    """What training on vectors does. A vector counts as a token, in every setting.

    Args:
        test_share: share of the vectors that are held out, at most 65,536; scores are of them.
        buffer_tokens: vectors that are read and mixed at once; null: as many as 1 GiB holds.

    Everything else is described in `Fit`.
    """

    name: ClassVar[str] = "vector_fit"
    test_share: float = setting(0.1, above=0, below=1)
    buffer_tokens: int | None = setting(None, least=1)


def fit(  # noqa: PLR0913 - the words of `saekit train --activations`
    vectors: Source,
    sae: SAEConfig | Unsized | str | None = None,
    *,
    y: Source | None = None,
    key: str | None = None,
    y_key: str | None = None,
    tokens: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    start_from: TrainedSAE | Path | str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    device: str = "auto",
    shown: bool = True,
    **settings: Any,
) -> TrainedSAE:
    """Train an SAE on vectors from anywhere: of an image, protein or audio model, or of no model.

    A tenth of the vectors, at most 65,536, is held out in runs of neighbouring rows; FVU, L0 and
    dead latents on it are in the card, under ``provenance["held_out"]``, and in held_out.json.
    Vectors in memory and the same in files give the same SAE.

    Args:
        vectors: ``[n, width]``, a tensor or array of any float type; or files of them, a folder or
            a pattern: .npy, .safetensors, .npz, .parquet or tars of .npy members.
        sae: the architecture with its settings, as ``TopK(k=32, expansion=8)``, or its name.
            Widths are filled in; without `d_sae` or `expansion` there are 8 latents a dimension.
            None: topk.
        y: what is predicted, row by row, for a transcoder; None: what is read.
        key: the tensor, array, column or kind of member, where files have several.
        y_key: that of `y`; None: `key`.
        tokens: vectors of an epoch, 1 or more; None: all that are not held out.
        epochs: passes over them; None: as many as show training 1,000,000 vectors, at most 50.
        seed: decides initialisation and order; not what is held out.
        start_from: an SAE, or the folder of one, whose training goes on from its weights; it has
            its own architecture and sizes.
        out: the folder to make; None: nothing is written, and a fit that is stopped is lost.
        resume: go on with the fit in `out`; the rest must be what it was begun with.
        device: where weights live: auto, cpu or cuda.
        shown: show progress on stderr.
        settings: any other setting of `VectorFit`, as ``lr=3e-4`` or ``test_share=0.05``.

    Returns:
        the finished SAE, which takes raw vectors. It has no site and no language model, so that
        what runs one (`evaluate`, `splice`, `index`, `steer`) refuses it.

    Raises:
        ConfigError: a setting is unknown or out of range, or `out` is in use.
        ShapeError: an array has another shape than ``[n, width]``, or holds no floats.
        DataError: files cannot be used, vectors are too few or not finite.
    """
    sides = open_sides(vectors, y, key, y_key)
    start = None if start_from is None else started(start_from)
    if start is not None and sae is not None:
        raise ConfigError(
            f"Architecture and sizes are those of the SAE to begin from; got {sae!r} too. Leave it "
            f"out."
        )
    raw = {**settings, "seed": seed, "sae": {} if sae is None else settings_of_sae(sae)}
    run = as_vector_fit(raw, sides, tokens=tokens, epochs=epochs, start=start)
    folder = None if out is None else Path(out)
    return fit_sides(run, sides, folder, start=start, resume=resume, device=device, shown=shown)


def as_vector_fit(
    raw: dict[str, Any],
    sides: list[Vectors],
    *,
    tokens: int | None,
    epochs: int | None,
    start: TrainedSAE | None = None,
) -> VectorFit:
    """Return what a dict describes, with what is left out fitted to the vectors.

    Args:
        raw: settings of a `VectorFit`; of its ``sae`` widths and latents may be left out.
        sides: what is read and what is predicted; one for an autoencoder.
        tokens: vectors of an epoch; None: all that are not held out.
        epochs: passes over them; None: as many as `fit` says.
        start: the SAE to begin from, whose architecture it is.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    raw = raw | _length(sides[0], tokens, epochs, raw)
    if start is None:
        widths = {"d_in": sides[0].width, "d_out": sides[-1].width}
        raw["sae"] = sized(widths | {"name": "topk"} | raw.get("sae", {}))
    else:
        normalise = raw.get("normalise", VectorFit.normalise)
        cfg = starting_config(start.sae, normalise, is_autoencoder=len(sides) == 1)
        raw["sae"] = cfg.to_dict() | raw.get("sae", {})
        raw["start_from"] = weights_digest(start.sae)
    return VectorFit.from_dict(raw)


def resume_fit(out: Path, *, device: str = "auto", shown: bool = True) -> TrainedSAE:
    """Go on with the fit in a folder, whose vectors are files.

    Raises:
        FormatError: there is none.
        ConfigError: it is finished; its vectors were in memory, or their files are others now.
    """
    found = record.read(out / FIT)
    with missing_explained(found.begun_with.get("parts")):
        run = VectorFit.from_dict(found.settings)
    with reading(out, "a run"):
        sides = [
            _opened_again(out, found.begun_with, side) for side in SIDES if side in found.begun_with
        ]
    return fit_sides(run, sides, out, resume=True, device=device, shown=shown)


def _opened_again(out: Path, begun: dict[str, Any], side: str) -> Vectors:
    about, files = begun[side], begun.get(f"{side}_files")
    if not files:
        raise ConfigError(
            f"The run in {out} is on vectors that were in memory. Go on in Python: "
            f"saekit.fit(vectors, ..., out={str(out)!r}, resume=True)."
        )
    keys = about["keys"]
    paths = [Path(about["folder"]) / name for name in files]
    return open_vectors(paths, keys[0] if keys else None)


def fit_sides(
    run: VectorFit,
    sides: list[Vectors],
    out: Path | None,
    *,
    start: TrainedSAE | None = None,
    resume: bool = False,
    device: str = "auto",
    shown: bool = True,
) -> TrainedSAE:
    """Train an SAE on vectors that are open; see `fit`.

    Args:
        run: what training does.
        sides: what is read and what is predicted; one for an autoencoder.
        out: the folder; None: write nothing.
        start: the SAE that `run.start_from` names.
        resume: go on with the fit in `out`.
        device: where weights live.
        shown: show progress on stderr.

    Raises: as `fit`.
    """
    split = Split.of(sides[0].n, run.test_share)
    _check(run, sides, split)
    if resume and out is not None and record.is_done(out):
        raise ConfigError(f"The run in {out} is finished: its SAE is in {out / 'sae'}.")
    about = [side.provenance() for side in sides]
    files = [side.files() for side in sides]
    said: dict[str, Any] = dict(zip(SIDES, about, strict=False))
    marks = dict(zip([f"{side}_files" for side in SIDES], files, strict=False))
    own, in_files = own_parts(run.to_dict()), all(files)
    folder = FitFolder(
        run,
        out,
        resume=resume,
        command="saekit train",
        go_on=f"saekit train --resume {out}"
        if in_files
        else f"saekit.fit(vectors, ..., out={str(out)!r}, resume=True)",
        begun_with=said | {k: v for k, v in marks.items() if v} | ({"parts": own} if own else {}),
        same=lambda begun: _same_files(begun, marks, out),
        manifest={"kind": "fit", **said},
    )
    with folder:
        if out is not None and start is not None and not resume:
            keep_start(start, out)
        if out is not None and resume:
            start = kept_start(run, out)
        where = pick_device(device)
        scalings = _scalings(run, sides, split)
        stream = VectorStream(
            sides,
            split,
            rows=run.tokens,
            epochs=run.epochs,
            batch_rows=run.step_tokens,
            buffer_rows=run.buffer_tokens or _buffer_rows(sides),
            seed=run.seed,
            device=where,
        )
        trained, seconds = fit_stream(
            run,
            stream,
            scalings,
            folder,
            autoencoder=len(sides) == 1,
            device=where,
            shown=shown,
            first=lambda n: _scaled(scalings, _first(sides, split, n)),
            weights=None if start is None else scaled_weights(start.sae, run.sae, scalings),
        )
        card = _card(run, said, None if start is None else about_start(start, run))
        found = scores_of(TrainedSAE(trained, card), sides, _units(split))
        held_out = {name: _plain(score) for name, score in found.scores.items()} | found.config
        card = dataclasses.replace(card, provenance=card.provenance | {"held_out": held_out})
        if shown:
            fvu, l0 = found.scores["fvu"].text(), found.scores["l0"].text()
            sys.stderr.write(f"held out  FVU {fvu}  L0 {l0}\n")
        if out is not None:
            found.write(out / SCORES)
            folder.finish(trained, card, seconds)
    return TrainedSAE(trained, card, out)


def _length(
    vectors: Vectors, tokens: int | None, epochs: int | None, settings: dict[str, Any]
) -> dict[str, int]:
    """Return vectors of an epoch, and epochs, with what was left out filled in."""
    share = settings.get("test_share", VectorFit.test_share)
    if tokens is None:
        # A share out of range is refused with the other settings.
        right = isinstance(share, float) and 0 < share < 1 and vectors.n > 1
        split = Split.of(vectors.n, share) if right else None
        tokens = vectors.n if split is None else split.count(split.train)
    if epochs is None:
        epochs = min(math.ceil(LEAST_SHOWN / max(tokens, 1)), MOST_EPOCHS)
    return {"tokens": tokens, "epochs": epochs}


def _check(run: VectorFit, sides: list[Vectors], split: Split) -> None:
    """Refuse vectors that the settings do not fit.

    Raises:
        ConfigError: the architecture codes several vectors jointly, or more vectors are asked
            than there are.
        DataError: there are too few.
    """
    if run.sae.event:
        raise ConfigError(
            f"`{run.sae.name}` codes {' and '.join(run.sae.event)} jointly, and vectors have no "
            f"such axis. Use an architecture of single vectors, as topk."
        )
    if (run.sae.d_in, run.sae.d_out) != (sides[0].width, sides[-1].width):
        raise ConfigError(
            f"The vectors are {sides[0].width} wide to read and {sides[-1].width} to predict; the "
            f"SAE has d_in={run.sae.d_in}, d_out={run.sae.d_out}. Make them equal."
        )
    most = split.count(split.train)
    if sides[0].n < LEAST_ROWS:
        raise DataError(
            f"There are {sides[0].n:,} vectors; training and held-out scores need {LEAST_ROWS} at "
            f"least."
        )
    if run.tokens > most:
        raise ConfigError(
            f"An epoch of tokens={run.tokens:,} was asked; of {sides[0].n:,} vectors {most:,} are "
            f"not held out. Lower `tokens`, with `epochs` for more passes."
        )


def _same_files(
    begun: dict[str, Any], now: dict[str, dict[str, dict[str, Any]]], out: Path | None
) -> None:
    """Refuse files other than those that a fit was begun with, naming the first that differs."""
    for side, files in now.items():
        before = begun.get(side) or {}
        pairs = zip([*before.items(), None], [*files.items(), None], strict=False)
        for was, is_now in pairs:
            if was != is_now:
                name = (was or is_now or ("",))[0]
                raise ConfigError(
                    f"The vectors are not what they were when the run in {out} was begun: {name} "
                    f"is new, gone or changed. Put the files back, or train anew into another "
                    f"folder."
                )


def _buffer_rows(sides: list[Vectors]) -> int:
    return max(BUFFER_VALUES // sum(side.width for side in sides), 1)


def _units(split: Split) -> list[Tensor]:
    """Return the rows held out, in units that are left out in turn: runs, or several of them."""
    size = max(len(split.held_out) // MOST_UNITS, 1)
    return [split.rows(runs) for runs in split.held_out.split(size)]


def _first(sides: list[Vectors], split: Split, n: int) -> list[Tensor]:
    """Return the first training vectors in the split's order, at least `n` where there are."""
    runs = split.train[: -(-max(n, SCALING_ROWS) // split.run_rows)].sort().values
    rows = split.rows(runs)
    return [side.take(rows) for side in sides]


def _scaled(scalings: Scalings, sides: list[Tensor]) -> tuple[Tensor, Tensor]:
    x = scalings.x.apply(sides[0])
    return x, x if len(sides) == 1 else scalings.y.apply(sides[1])


def _scalings(run: VectorFit, sides: list[Vectors], split: Split) -> Scalings:
    """Return the scalings that training applies, from the first training vectors.

    As `saekit.training.scaling.measure_scaling`, whose sums it uses.
    """
    sums = ScalingSums(len(sides) == 1, run.sae, run.normalise, run.centre)
    found = _first(sides, split, sums.wanted_tokens)
    sums.add(found[0], found[-1])
    scalings = sums.scalings()
    check_foldable(run.sae, scalings.x, scalings.y)
    return scalings


def _card(run: VectorFit, vectors: dict[str, Any], start: dict[str, Any] | None) -> Card:
    """Return what an SAE of vectors was made from: no model, and no site."""
    transcodes = {"published": {"transcodes": True}} if len(vectors) > 1 else {}
    begun = {} if start is None else {"start_from": start}
    return Card(
        model={"name": NO_MODEL, "revision": None, "dtype": vectors["vectors"]["dtype"]},
        pair=Pair(read=(str(UNKNOWN),)),
        rules={},
        corpus={"name": "vectors", **vectors},
        n_ctx=0,
        bos=None,
        tokens=run.total_tokens,
        run=run.to_dict(),
        provenance=provenance.collect(run.seed) | transcodes | begun,
    )


def _plain(score: Score) -> dict[str, Any]:
    return {key: getattr(score, key) for key in ("value", "low", "high", "n")}
