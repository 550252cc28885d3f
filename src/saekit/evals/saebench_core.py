"""SAEBench's core numbers, by its own formulas: what stands next to published ones."""

import math
import time
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.errors import DataError
from saekit.core.finite import all_finite, check_finite
from saekit.core.progress import Progress
from saekit.core.result import Result, Score
from saekit.evals import _predictions
from saekit.evals._plan import plan
from saekit.evals._reconstruction import float32_on
from saekit.evals._replacing import logits_in_parts, put
from saekit.evals.base import Eval, Subject, Tools, made_from, registry
from saekit.evals.core import Core
from saekit.metrics.nearest import nearest
from saekit.models.base import LanguageModel
from saekit.saes.base import SAE

SMALLEST_NORM = 1e-4  # an activation that is shorter counts as of length 1 in the ratio of norms
NO_INTERVAL = "no interval: SAEBench gives none"


class Says(NamedTuple):
    """What a number is, for its score."""

    unit: str
    better: Literal["lower", "higher", "neither"]
    label: str


# By the name of a score, which is SAEBench's but for the two that it gives several meanings.
SAYS = {
    "ce_loss_without_sae": Says("nats/token", "neither", "cross-entropy, clean"),
    "ce_loss_with_sae": Says("nats/token", "lower", "cross-entropy, spliced"),
    "ce_loss_with_ablation": Says("nats/token", "neither", "cross-entropy, all positions zero"),
    "ce_loss_score": Says("ratio", "higher", "recovered of the loss, zero at all positions"),
    "kl_div_with_sae": Says("nats/token", "lower", "KL, clean to spliced"),
    "kl_div_with_ablation": Says("nats/token", "neither", "KL, all positions zero"),
    "kl_div_score": Says("ratio", "higher", "recovered of the KL, zero at all positions"),
    "explained_variance_legacy": Says(
        "mean of ratios", "neither", "explained variance, mean of ratios a token"
    ),
    "explained_variance_about_zero": Says(
        "depends on scale", "neither", "explained variance, about zero"
    ),
    "mse_over_batch": Says("act units²", "neither", "squared error over tokens of a batch"),
    "cossim": Says("ratio", "higher", "cosine of prediction and target"),
    "l2_norm_in": Says("act units", "neither", "norm of targets"),
    "l2_norm_out": Says("act units", "neither", "norm of predictions"),
    "l2_ratio": Says("ratio", "neither", "norm of prediction over target, mean of ratios"),
    "relative_reconstruction_bias": Says("ratio", "neither", "shrinkage, mean over batches"),
    "l0": Says("latents/token", "neither", "latents per token (L0)"),
    "l1": Says("act units/token", "neither", "sum of activations, with their sign"),
    "freq_over_1_percent": Says("share of latents", "neither", "on for more than 1 % of tokens"),
    "freq_over_10_percent": Says("share of latents", "neither", "on for more than 10 % of tokens"),
    "normalized_freq_over_1_percent": Says(
        "share of firings", "neither", "firings of those on for more than 1 %"
    ),
    "normalized_freq_over_10_percent": Says(
        "share of firings", "neither", "firings of those on for more than 10 %"
    ),
    "average_max_encoder_cosine_sim": Says("ratio", "neither", "nearest encoder column, cosine"),
    "average_max_decoder_cosine_sim": Says("ratio", "neither", "nearest decoder row, cosine"),
    "frac_alive": Says("share of latents", "neither", "latents that were on at all"),
}


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class SAEBenchCore(Eval):
    r"""The core numbers of SAEBench 0.6 by its own formulas, to stand next to published ones.

    Use `core` to judge an SAE. This is for papers: on the same text each number is what SAEBench
    would have written, faults included, under a name that says which formula it is.

    - ``explained_variance_legacy``: the mean over tokens of
      :math:`1 - |y_i - \hat y_i|^2 / |y_i - \bar y|^2`, with the mean of the batch. A mean of
      ratios: tokens near the mean weigh most. Most papers have this one.
    - ``explained_variance_about_zero``: :math:`1 - \overline{|y - \hat y|^2} /
      (\overline{|y|^2} - (\overline{y^2})^2)`, which 0.6 calls ``explained_variance``. It
      subtracts the square of a mean square, so the value changes with the scale of activations,
      may exceed 1, and counts their offset as variance.
    - ``mse_over_batch``: the squared error of a token over the number of tokens of its batch, so
      that the value halves where batches are twice as large; 0.6 calls it ``mse``.
    - ``ce_loss_score``, ``kl_div_score``: ablation sets every position to 0, special ones too,
      while special ones are never replaced by the SAE.

    A batch is 16 rows, as published; BOS, EOS and padding are left out, and no other token.
    Published numbers are of rows of 128 tokens of OpenWebText; other text gives other numbers.
    None has an interval, and no SAE is called better by them.

    Args:
        n_tokens: tokens read, rounded up to whole rows.
        ce_tokens: how many of them pass through the whole model; 0 leaves the losses out.
        batch_rows: rows of a batch; it changes three of the scores.

    Raises:
        ConfigError: a number is out of range.

    Cost:
        n_tokens to the write site, and ce_tokens through the whole model three times more.

    Reads:
        Held-out rows.

    Source:
        Karvonen et al. 2025, arXiv:2503.09532; sae-bench 0.6.0, evals/core.
        Differs: an undefined number has no value, where SAEBench writes -1.
    """

    name: ClassVar[str] = "saebench_core"
    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    headline: ClassVar[tuple[str, ...]] = ("ce_loss_score", "explained_variance_legacy", "l0")
    ranks: ClassVar[bool] = False

    n_tokens: int = setting(2**16, least=1)
    ce_tokens: int = setting(2**14, least=0)
    batch_rows: int = setting(16, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._core()  # which says what is out of range

    @classmethod
    @override
    def example(cls) -> "SAEBenchCore":
        return cls(n_tokens=1024, ce_tokens=512)

    def _core(self) -> Core:
        return Core(n_tokens=self.n_tokens, ce_tokens=self.ce_tokens, batch_rows=self.batch_rows)

    @override
    @torch.no_grad()
    def run(self, subject: Subject, tools: Tools) -> Result:
        self.check(subject)
        began, lm, core = time.monotonic(), subject.lm, self._core()
        assert lm is not None  # `check` refuses it
        text = core.rows_of(tools)
        tokens = text.tokens
        n_rows, n_ctx = tokens.shape
        n_full = min(math.ceil(self.ce_tokens / n_ctx), n_rows)
        planned = plan([subject], n_ctx, n_rows, core)
        planned.say(shown=tools.shown)
        bar = Progress(self.name, (n_rows + 3 * n_full) * n_ctx, shown=tools.shown)
        sae = float32_on(subject.sae, lm.device)
        found = Numbers(sae)
        losses = _Losses(lm, bar)
        for first in range(0, n_rows, self.batch_rows):
            rows = tokens[first : first + self.batch_rows].to(lm.device)
            ordinary = ~torch.isin(rows, _left_out(lm).to(rows))
            if not ordinary.any():
                continue
            y, y_hat, codes = _read(subject, sae, rows, planned.rows, first)
            found.add_batch(
                y[ordinary], y_hat[ordinary], codes.take(ordinary.flatten().nonzero()[:, 0])
            )
            bar.add(rows.numel())
            for part in range(0, max(min(n_full - first, len(rows)), 0), planned.rows):
                here = slice(part, min(part + planned.rows, n_full - first))
                found.add_losses(losses.of(subject, rows[here], ordinary[here], y_hat[here]))
        bar.close()
        sites = {"read": str(subject.read), "write": str(subject.write)}
        details = {"tokens": found.n_tokens, "loss_tokens": found.n_losses, "n_ctx": n_ctx}
        made = made_from(subject, tools.seed, began) | sites
        made |= {"notes": core.notes_on(text, tools.split)}
        return self.result(found.scores(), details, made)


def _left_out(lm: LanguageModel) -> Int[Tensor, "n"]:
    """Return the tokens that SAEBench leaves out."""
    own = lm.tokenizer
    return torch.tensor([i for i in (own.pad_id, own.eos_id, own.bos_id) if i is not None])


def _read(
    subject: Subject, sae: SAE, rows: Tensor, size: int, first: int
) -> tuple[Tensor, Tensor, Codes]:
    """Return targets, predictions and codes of a batch, in float32."""
    assert subject.lm is not None
    y, y_hat, codes = [], [], []
    for part in rows.split(size):
        acts = subject.lm.read(part, [subject.read, subject.write])
        check_finite(acts, first)
        codes.append(sae.encode(acts[subject.read].float().flatten(0, 1)))
        y_hat.append(sae.decode(codes[-1]).view(*part.shape, -1))
        y.append(acts[subject.write].float())
    if not all(map(all_finite, y_hat)):
        raise DataError(
            f"{subject.name} predicts values that are not finite in rows from {first}. Its "
            f"training diverged, or it was trained on activations of another scale."
        )
    return torch.cat(y), torch.cat(y_hat), Codes.cat(codes)


class _Losses:
    """Losses and divergences of rows with the SAE spliced in, and with zeros."""

    def __init__(self, lm: LanguageModel, bar: Progress):
        self.lm, self.bar = lm, bar

    def of(
        self,
        subject: Subject,
        rows: Int[Tensor, "batch n_ctx"],
        ordinary: Bool[Tensor, "batch n_ctx"],
        y_hat: Float[Tensor, "batch n_ctx d_out"],
    ) -> dict[str, Float[Tensor, "n"]]:
        """Return what SAEBench takes means of, at tokens that are not left out."""
        site, every = subject.write, torch.ones_like(ordinary)
        finals = [
            self.lm.final(rows, change)
            for change in (
                {},
                {site: put(ordinary, y_hat[ordinary])},
                {site: put(every, y_hat.new_zeros(()))},
            )
        ]
        self.bar.add(len(finals) * rows.numel())
        found = [
            (
                *_predictions.against(clean, spliced, targets),
                *_predictions.against(clean, zero, targets)[1:],
            )
            for targets, (clean, spliced, zero) in logits_in_parts(self.lm, rows, ordinary, *finals)
        ]
        clean, spliced, kl, zero, kl_zero = _predictions.joined(found, 5, finals[0])
        if not all(map(all_finite, (clean, spliced, kl, zero, kl_zero))):
            raise DataError(
                f"Predictions of {self.lm.name} ({self.lm.dtype}) are not finite. The model "
                f"overflows; use dtype float32 or bfloat16."
            )
        last = torch.zeros_like(ordinary)
        last[:, -1] = True  # has a divergence and, without a next token, no loss
        next_one = ~last[ordinary]
        return {
            "ce_loss_without_sae": clean[next_one],
            "ce_loss_with_sae": spliced[next_one],
            "ce_loss_with_ablation": zero[next_one],
            "kl_div_with_sae": kl,
            "kl_div_with_ablation": kl_zero,
        }


class Numbers:
    """SAEBench's numbers of an SAE, from batches of tokens.

    Args:
        sae: the SAE; its weights are part of them.
    """

    def __init__(self, sae: SAE):
        self._sae = sae
        self.n_tokens = self.n_losses = 0
        self._tokens: dict[str, float] = {}  # sums over tokens
        self._batches: dict[str, list[float]] = {}  # a value a batch
        self._losses: dict[str, tuple[float, int]] = {}
        self._fired = torch.zeros(sae.cfg.d_sae, dtype=torch.float64)

    def add_batch(
        self, y: Float[Tensor, "n d_out"], y_hat: Float[Tensor, "n d_out"], codes: Codes
    ) -> None:
        """Add the tokens of a batch that are not left out, of which there is at least one."""
        y, y_hat, n = y.double(), y_hat.double(), len(y)
        norm, norm_hat = y.norm(dim=-1), y_hat.norm(dim=-1)
        error = (y - y_hat).square().sum(-1)
        spread = (y - y.mean(0)).square().sum(-1)
        dot = (y * y_hat).sum(-1)
        live = codes.live()
        sums = {
            "explained_variance_legacy": 1 - error / spread,
            "mse_over_batch": error / n,
            "cossim": dot / (norm * norm_hat),
            "l2_norm_in": norm,
            "l2_norm_out": norm_hat,
            "l2_ratio": norm_hat / torch.where(norm < SMALLEST_NORM, 1.0, norm),
            "l0": torch.tensor(float(len(live.values))),
            "l1": live.values.double(),
        }
        for name, values in sums.items():
            self._tokens[name] = self._tokens.get(name, 0.0) + float(values.sum())
        means = {
            "relative_reconstruction_bias": norm_hat.square().mean() / dot.mean(),
            "error": error.mean(),
            "squares": y.square().sum(-1).mean(),
            "square": y.square().mean(),
        }
        for name, value in means.items():
            self._batches.setdefault(name, []).append(float(value))
        on = live.latents[live.values > 0]
        self._fired += torch.bincount(on, minlength=live.d_sae).cpu().double()
        self.n_tokens += n

    def add_losses(self, found: dict[str, Float[Tensor, "n"]]) -> None:
        """Add losses and divergences of some tokens."""
        for name, values in found.items():
            total, n = self._losses.get(name, (0.0, 0))
            self._losses[name] = total + float(values.double().sum()), n + len(values)
        self.n_losses += len(found["ce_loss_without_sae"])

    def values(self) -> dict[str, float]:
        """Return each number by its name, as it comes: NaN where it is undefined."""
        found = {n: total / self.n_tokens for n, total in self._tokens.items() if self.n_tokens}
        mean = {name: sum(each) / len(each) for name, each in self._batches.items()}
        if mean:
            about_zero = mean["squares"] - mean["square"] ** 2
            found["explained_variance_about_zero"] = 1 - _ratio(mean["error"], about_zero)
            found["relative_reconstruction_bias"] = mean["relative_reconstruction_bias"]
            found |= self._densities()
        loss = {name: _ratio(total, n) for name, (total, n) in self._losses.items()}
        if loss:
            clean, spliced, zero = (
                loss[f"ce_loss_{n}"] for n in ("without_sae", "with_sae", "with_ablation")
            )
            found["ce_loss_score"] = _ratio(zero - spliced, zero - clean)
            kl, kl_zero = loss["kl_div_with_sae"], loss["kl_div_with_ablation"]
            found["kl_div_score"] = _ratio(kl_zero - kl, kl_zero)
        return found | loss | self._cosines()

    def scores(self) -> dict[str, Score]:
        """Return each number as a score; one that is not finite has no value and a reason."""
        values = self.values()
        return {name: _score(name, values.get(name)) for name in SAYS}

    def _densities(self) -> dict[str, float]:
        density = self._fired / self.n_tokens
        total = float(density.sum())
        found = {"frac_alive": float((density > 0).double().mean())}
        for percent in (1, 10):
            some = density > percent / 100
            found[f"freq_over_{percent}_percent"] = float(some.double().mean())
            share = float(density[some].sum()) / total if total else 0.0
            found[f"normalized_freq_over_{percent}_percent"] = share
        return found

    def _cosines(self) -> dict[str, float]:
        """Return how near a latent's nearest other one is, on average, by each matrix."""
        sides = {"decoder": self._sae.directions()}
        encoder = getattr(self._sae, "W_enc", None)
        if isinstance(encoder, Tensor):
            sides["encoder"] = encoder.T
        found = {}
        for side, rows in sides.items():
            if len(rows) > 1:
                near = nearest(rows, rows, k=2).cosines[:, 1]  # the first is the row itself
                found[f"average_max_{side}_cosine_sim"] = float(near.double().mean())
        return found


def _ratio(one: float, other: float) -> float:
    return one / other if other else math.nan


def _score(name: str, value: float | None) -> Score:
    known = value is not None and math.isfinite(value)
    reason = NO_INTERVAL
    if not known:
        reason = "not measured" if value is None else "undefined: something is divided by 0"
    says = SAYS[name]
    return Score(
        value=value if known else None,
        n=0,
        unit=says.unit,
        better=says.better,
        reason=reason,
        label=says.label,
    )
