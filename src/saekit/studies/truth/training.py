"""Toy: training on a truth's samples, with the trainer of language models' activations.

`Training` does the steps, `Scaling` the scaling, `SAE.rescale` folds it, checkpoints are those
of any run: only where batches come from differs.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.activations.pairs import Pair
from saekit.activations.shuffle import Batch, Stream
from saekit.core import provenance
from saekit.core.errors import ConfigError
from saekit.core.files import digest
from saekit.core.seeds import generator
from saekit.hub.card import Card
from saekit.saes.base import SAE, SAEConfig, Scaling
from saekit.studies.truth.model.base import Truth
from saekit.training.fit import Fit
from saekit.training.fitting import FitFolder, fit_stream
from saekit.training.scaling import Centre, Normalise, Scalings, Side, check_foldable
from saekit.training.trainer import Training

SCALING_TOKENS = 2**14  # a mean square within 1 %, whatever the truth
SCALING_BATCH = 2**11
WINDOW = 8  # tokens of an event, where positions are coded jointly


class Layout(NamedTuple):
    """How samples of a truth become an SAE's events.

    An SAE of windows gets the sequences of the truth, or 8 samples side by side where it has
    none: then nothing about one helps to predict the next. One of several sites gets the layers
    of the truth; where it has none, each sample once a site: as it is at the first, turned by a
    fixed rotation of its own at each other, so that every feature has a direction a site.
    """

    n_sites: int = 0  # 0: an event has no such axis
    window: int = 0
    layered: bool = False  # samples have the axis of sites already

    @staticmethod
    def of(cfg: SAEConfig, truth: Truth) -> "Layout":
        """Return the layout an architecture takes of a truth.

        Raises:
            ConfigError: the truth has layers, and the architecture takes one, or another number.
        """
        n_sites = getattr(cfg, "n_sites", 0) if "site" in cfg.event else 0
        layers = truth.layers
        if layers is not None and layers.shape[1] != n_sites:
            raise ConfigError(
                f"The truth has {layers.shape[1]} layers; `{cfg.name}` reads {n_sites or 'one'}. "
                f"Train a crosscoder with sae.n_sites={layers.shape[1]}."
            )
        window = sequence_tokens(truth) if truth.cfg.sequence else WINDOW
        return Layout(n_sites, window if "seq" in cfg.event else 0, layers is not None)

    def arrange(self, x: Float[Tensor, "n *layers d"]) -> Float[Tensor, "events *event d"]:
        """Return samples as events; n must be a multiple of the window."""
        if self.window:
            return x.view(-1, self.window, x.shape[-1])
        if self.n_sites and not self.layered:
            return torch.stack([x @ _turn(x.shape[1], s).to(x) for s in range(self.n_sites)], 1)
        return x


def sequence_tokens(truth: Truth) -> int:
    """Return the tokens of which samples come in multiples; 1 where they have no order."""
    return truth.cfg.sequence.n_ctx if truth.cfg.sequence is not None else 1


def _turn(d: int, site: int) -> Float[Tensor, "d d"]:
    if not site:
        return torch.eye(d)
    drawn = torch.randn(d, d, generator=generator(0, "site", site, d), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.float()


@dataclass(frozen=True)
class Snapshots:
    """Copies of the SAE while it is trained, folded for raw samples as the finished one is.

    Weights are those of the step, also where the finished SAE has averaged ones.

    Args:
        shares: of training, above 0 and at most 1, after which one is taken.
        take: is given the share and the copy.

    Raises:
        ConfigError: a share is out of range.
    """

    shares: Sequence[float]
    take: Callable[[float, SAE], None]

    def __post_init__(self) -> None:
        for share in self.shares:
            if not 0 < share <= 1:
                raise ConfigError(
                    f"A snapshot is taken after a share of training above 0 and at most 1; got "
                    f"{share}."
                )


def fit_truth(
    fit: Fit,
    truth: Truth,
    *,
    out: Path | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    snapshots: Snapshots | None = None,
    shown: bool = True,
) -> SAE:
    """Train an SAE on the samples of a truth and return it, folded to take them raw.

    Samples come from `truth.stream` in float32, scaled as activations of a language model
    are. `out` gets fit.json, manifest.json, log.jsonl, checkpoints/ and sae/; a run that was
    stopped goes on with `resume` and on the same machine ends with the same bits.

    Args:
        fit: what training does; `epochs` above 1 repeats the same samples.
        truth: where samples come from.
        out: an empty or new folder, or that of the run to go on with; None: write nothing.
        resume: go on with the run in `out`.
        device: where weights live.
        snapshots: copies to take on the way.
        shown: show progress on stderr.

    Raises:
        ConfigError: widths differ, the folder is in use, or a setting cannot be run.
        FormatError: there is no run to go on with.
        Interrupted: Ctrl-C or SIGTERM came; where there is a folder, a checkpoint was written.
        TrainingError: the loss became NaN or infinite.
    """
    layout = _checked(fit, truth)
    made_from = {"truth": identity(truth)}
    folder = FitFolder(
        fit,
        out,
        resume=resume,
        command="saekit truth train",
        go_on=f"saekit truth train --truth TRUTH --resume {out}",
        begun_with=made_from,
        same=lambda begun: _same(begun, made_from, out),
        manifest={"kind": "truth_train", **made_from, "truth_config": truth.cfg.to_dict()},
    )
    with folder:
        scalings = truth_scaling(truth, fit.sae, fit.normalise, fit.centre, fit.seed)
        stream = _Events(truth, fit, layout, device)
        album = _Album(snapshots, scalings.x, fit.total_tokens)
        sae, seconds = fit_stream(
            fit,
            stream,
            scalings,
            folder,
            autoencoder=True,
            device=device,
            shown=shown,
            at_start=album.begin,
            after_step=album.see,
        )
        folder.finish(sae, truth_card(fit, truth), seconds)
    return sae


def _same(begun: dict[str, Any], now: dict[str, Any], out: Path | None) -> None:
    if begun["truth"] != now["truth"]:
        raise ConfigError(f"The run in {out} was begun on another truth; resume it with that one.")


class _Album:
    """Takes snapshots as training passes their shares."""

    def __init__(self, wanted: Snapshots | None, scaling: Scaling, total: int):
        self._wanted, self._scaling, self._total = wanted, scaling, total
        self._ahead = sorted(set(wanted.shares)) if wanted else []

    def begin(self, training: Training) -> None:
        """Leave out what was taken before training was stopped."""
        served = training.stream.served_tokens
        self._ahead = [s for s in self._ahead if s * self._total > served]

    def see(self, training: Training) -> None:
        """Take what is due."""
        while self._ahead and training.stream.served_tokens >= self._ahead[0] * self._total:
            taken = copy.deepcopy(training.sae).eval()
            training.settle(taken)
            taken.rescale(self._scaling, self._scaling)
            assert self._wanted is not None  # there is no share ahead without
            self._wanted.take(self._ahead.pop(0), taken)


def truth_scaling(
    truth: Truth,
    cfg: SAEConfig,
    normalise: Normalise = "scale",
    centre: Centre = "mean",
    seed: int = 0,
) -> Scalings:
    """Return the scaling that training applies, from samples drawn for it alone.

    As `saekit.training.scaling.measure_scaling`, whose sums it uses.

    Raises:
        ConfigError: the architecture cannot take it.
        TrainingError: the samples do not vary.
    """
    joint = [axis for axis in cfg.event if axis not in cfg.coded]
    if normalise == "whiten" and joint:
        raise ConfigError(
            f"`normalise` cannot be whiten where {' and '.join(joint)} are coded jointly, as by "
            f"`{cfg.name}`. Use scale."
        )
    layout, chance = Layout.of(cfg, truth), generator(seed, "scaling")
    shared = (0, *(1 + i for i, axis in enumerate(cfg.event) if axis in cfg.coded))
    side = Side(shared, normalise, centre)
    whole = math.lcm(sequence_tokens(truth), layout.window or 1)
    n = -(-SCALING_BATCH // whole) * whole
    for _ in range(SCALING_TOKENS // SCALING_BATCH):
        side.add(layout.arrange(truth.sample(n, chance).x.float().cpu()))
    scaling = side.scaling()
    check_foldable(cfg, scaling, scaling)
    mean = (side.sum / side.n).to(scaling.mean)
    return Scalings(scaling, scaling, scaling.apply(mean[None])[0])


def truth_card(fit: Fit, truth: Truth) -> Card:
    """Return what an SAE of a truth was made from; its model is the truth."""
    layout = Layout.of(fit.sae, truth)
    reads = tuple(f"L{i}.resid_post" for i in range(max(layout.n_sites, 1)))
    return Card(
        model={"name": "truth", "revision": identity(truth), "dtype": "float32"},
        pair=Pair(read=reads, window=layout.window),
        rules={},
        corpus={"name": "truth", **truth.cfg.to_dict()},
        n_ctx=layout.window or 1,
        bos=False,
        tokens=fit.total_tokens,
        run=fit.to_dict(),
        provenance=provenance.collect(fit.seed),
    )


def identity(truth: Truth) -> str:
    """Return a digest of what makes a truth itself: its settings and all that was drawn."""
    weights = [
        truth.tensors[name].cpu().contiguous().numpy().tobytes() for name in sorted(truth.tensors)
    ]
    return digest([repr(truth.cfg.to_dict()), *weights])


class _Events(Stream):
    """A truth's stream as events on a device; its state is that of the truth's stream."""

    def __init__(self, truth: Truth, fit: Fit, layout: Layout, device: torch.device | str):
        self._inner = truth.stream(
            tokens=fit.tokens, batch_tokens=fit.step_tokens, seed=fit.seed, epochs=fit.epochs
        )
        self._layout, self._device = layout, device

    @property
    @override
    def served_tokens(self) -> int:
        return self._inner.served_tokens

    @override
    def batch(self) -> Batch:
        x = self._layout.arrange(self._inner.batch()[0].to(self._device))
        return x, x

    @override
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self._inner.state()

    @override
    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._inner.load(tensors, values)


def _checked(fit: Fit, truth: Truth) -> Layout:
    d_model = truth.features.shape[1]
    if (fit.sae.d_in, fit.sae.d_out) != (d_model, d_model):
        raise ConfigError(
            f"The truth is {d_model} wide; the SAE has d_in={fit.sae.d_in}, "
            f"d_out={fit.sae.d_out}. Set both to {d_model}."
        )
    layout = Layout.of(fit.sae, truth)
    if layout.window:
        for name, value in (("tokens", fit.tokens), ("batch_tokens", fit.step_tokens)):
            if value % layout.window:
                raise ConfigError(
                    f"`{fit.sae.name}` codes {layout.window} samples at a time, so `{name}` must "
                    f"be a multiple of that; got {value:,}."
                )
    return layout
