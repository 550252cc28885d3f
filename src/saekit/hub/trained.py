"""TrainedSAE: an SAE with the card of what it was made from, ready to use."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.activations.rules import FittedRule, TokenRule
from saekit.core import notebook
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, ShapeError
from saekit.core.files import digest
from saekit.hub.card import NO_MODEL, Card
from saekit.models.sites import Site
from saekit.saes.base import SAE, SAEConfig

if TYPE_CHECKING:
    from saekit.models.base import LanguageModel


def weights_digest(sae: SAE) -> str:
    """Return what tells the weights of SAEs apart: SHA-256 of all of them, by name."""
    parts = (
        (name.encode(), w.detach().cpu().contiguous().numpy().tobytes())
        for name, w in sorted(sae.state_dict().items())
    )
    return digest(part for pair in parts for part in pair)


@final
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class TrainedSAE:
    """An SAE and what it needs to be used rightly. A value: nothing here changes it.

    It unpacks as ``sae, card = saekit.load(...)`` into the weights and the card.

    Args:
        sae: the weights, with the architecture's own methods.
        card: what they were made from: model, sites, text, token rules.
        folder: the run, or the folder with the SAE, that it was read from; None: from none.
    """

    sae: SAE
    card: Card
    folder: Path | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.sae, self.card))

    def __repr__(self) -> str:
        cfg, card = self.cfg, self.card
        # What only training used is a default of saekit's in an SAE from elsewhere.
        shown = ["k", "n_sites", "inner"] + (["target_l0", "l1_coefficient"] if card.run else [])
        settings = {k: v for k, v in cfg.to_dict().items() if k in shown and v is not None}
        inner = settings.pop("inner", None)
        around = f" around {inner['name']}" if isinstance(inner, dict) else ""
        words = ", ".join(f"{k}={v}" for k, v in settings.items())
        width = f"{cfg.d_in}" if cfg.d_in == cfg.d_out else f"{cfg.d_in} -> {cfg.d_out}"
        at = f" at {card.at}" if card.at and card.pair.shares else ""
        trained = f", {card.tokens:,} training tokens" if card.tokens else ""
        return (
            f"TrainedSAE({cfg.name}{around} of {cfg.d_sae:,} latents{words and ', '}{words}; "
            f"{self._of(at)}, width {width}{trained})"
        )

    def _repr_html_(self) -> str:
        cfg, card = self.cfg, self.card
        settings = {k: v for k, v in cfg.to_dict().items() if isinstance(v, int | float | str)}
        facts = {
            "architecture": cfg.name,
            "model": card.model.get("name", "unknown"),
            "reads and predicts": f"{card.pair.label}{f' at {card.at}' if card.at else ''}",
            "latents": cfg.d_sae,
            "width": f"{cfg.d_in}" if cfg.d_in == cfg.d_out else f"{cfg.d_in} to {cfg.d_out}",
            "training tokens": card.tokens or None,
            "folder": self.folder,
        }
        rows = [
            (f"<code>{notebook.escaped(k)}</code>", notebook.escaped(notebook.number(v)))
            for k, v in settings.items()
            if k not in ("name", "d_in", "d_out", "d_sae")
        ]
        notes = [f'<div class="r">{notebook.escaped(n)}</div>' for n in self._notes()]
        return notebook.page(
            f"SAE of {cfg.d_sae:,} latents",
            notebook.facts(facts),
            notebook.section("Settings", notebook.table(("", ""), rows) if rows else ""),
            notebook.section("Notes", "".join(notes)),
        )

    def _notes(self) -> list[str]:
        return [str(note) for note in self.card.provenance.get("notes") or []]

    def _of(self, at: str = "") -> str:
        """Return what it was trained on, for the reader."""
        name, label = self.card.model.get("name", "unknown"), self.card.pair.label
        if len(self.card.pair.reads) > FEW_SITES and not self.card.pair.write:
            reads = self.card.pair.reads
            label = f"{reads[0]} to {reads[-1]} ({len(reads)} sites)"
        return "vectors of no model" if name == NO_MODEL else f"{label}{at} of {name}"

    @property
    def cfg(self) -> SAEConfig:
        """The architecture and its settings."""
        return self.sae.cfg

    @property
    def d_in(self) -> int:
        """Width of what it reads."""
        return self.cfg.d_in

    @property
    def d_out(self) -> int:
        """Width of what it predicts."""
        return self.cfg.d_out

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.cfg.d_sae

    @property
    def site(self) -> Site:
        """The site it reads: the first of them where it reads several."""
        return self.card.site

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.sae.parameters()).device

    def to(self, device: str | torch.device) -> "TrainedSAE":
        """Return it with its weights on a device; a copy, unless they are there already."""
        if torch.device(device) == self.device:
            return self
        import copy

        return dataclasses.replace(self, sae=copy.deepcopy(self.sae).to(device))

    def with_k(self, k: int) -> "TrainedSAE":
        """Return a copy that keeps `k` latents on per token in use, as trained or not.

        Raises:
            ConfigError: `k` is out of range, or the architecture keeps no fixed number.
        """
        import copy

        sae = copy.deepcopy(self.sae)
        cfg = _with_k(sae, sae.cfg, k)
        note = f"used with k={k}; it was trained with another"
        said = self.card.provenance
        said = said | {"notes": [*said.get("notes", []), note]}
        card = dataclasses.replace(self.card, provenance=said)
        if cfg == self.cfg:
            return self
        return dataclasses.replace(self, sae=sae, card=card, folder=None)  # it is on no disk

    @torch.no_grad()
    def encode(self, x: Any) -> Codes:
        """Return which latents are on, and how strongly.

        Args:
            x: raw activations of its site, ``[..., d_in]``, act units, any float dtype and device;
                or what `LanguageModel.read` gave for several sites, of which its own is taken.

        Raises:
            ShapeError: the width is not `d_in`.
        """
        if isinstance(x, Mapping):
            sites = self.card.pair.reads if "site" in self.cfg.event else [self.site]
            by_name = {str(site): acts for site, acts in x.items()}
            if lacking := [str(s) for s in sites if str(s) not in by_name]:
                raise ShapeError(
                    f"This SAE reads {', '.join(map(str, sites))}; the activations are of "
                    f"{', '.join(by_name) or 'no site'}, without {lacking[0]}."
                )
            parts = [by_name[str(site)] for site in sites]
            x = parts[0] if len(parts) == 1 else torch.stack(parts, dim=-2)
        if not isinstance(x, Tensor):
            raise ShapeError(
                f"Activations must be a tensor, as lm.read(text, {str(self.site)!r}) gives it; got "
                f"{type(x).__name__}."
            )
        axes = [*("n_sites" if a == "site" else "window" for a in self.cfg.event), self.d_in]
        joint = getattr(self.cfg, "n_sites", None) if "site" in self.cfg.event else None
        right = x.ndim >= len(axes) and x.shape[-1] == self.d_in
        if not right or (joint is not None and x.shape[-2] != joint):
            wanted = ", ".join(str(joint if a == "n_sites" else a) for a in axes)
            raise ShapeError(
                f"Activations for this SAE must be of shape [..., {wanted}] "
                f"({self._of()}); got {list(x.shape)}."
            )
        return self.sae.encode(x.to(self.device, torch.float32))

    @torch.no_grad()
    def decode(self, codes: Codes) -> Float[Tensor, "..."]:
        """Return what codes predict, ``[..., d_out]``, act units, float32.

        Raises:
            ShapeError: they are of an SAE with another number of latents.
        """
        if not isinstance(codes, Codes):
            raise ShapeError(
                f"What is decoded are codes, as encode gives them; got {type(codes).__name__}. Of "
                f"a dense array: Codes.from_dense(array)."
            )
        if codes.d_sae != self.d_sae:
            raise ShapeError(
                f"These codes are of {codes.d_sae:,} latents; this SAE has {self.d_sae:,}. Decode "
                f"with the SAE that encoded them."
            )
        return self.sae.decode(codes)

    def __call__(self, x: Tensor) -> Float[Tensor, "..."]:
        """Return ``decode(encode(x))``."""
        return self.decode(self.encode(x))

    @property
    def directions(self) -> Float[Tensor, "*event d_sae d_out"]:
        """What one unit of each latent adds to the prediction."""
        return self.sae.directions().detach()

    def tokens(self, text: str, lm: "LanguageModel") -> Int[Tensor, "1 n_ctx"]:
        """Return a text as one row of tokens, with BOS in front if training rows had it."""
        return self.card.row(text, lm.tokenizer)

    def ruled(self, lm: "LanguageModel") -> "TrainedSAE":
        """Return it with a rule of which tokens count; itself where its card has one.

        Files from elsewhere have none. Then special tokens of the model are left out, and no other:
        the usual rule's bound on norms needs text to be fitted on, which `saekit.evaluate` reads.
        """
        if self.card.rules:
            return self
        special = tuple(sorted(lm.tokenizer.special_ids))
        rule = FittedRule(TokenRule(max_norm=None), special, 0.0)
        rules = {str(site): rule for site in self.card.pair.sites}
        return dataclasses.replace(self, card=dataclasses.replace(self.card, rules=rules))

    def save(self, folder: Path | str) -> "TrainedSAE":
        """Write it in saekit's own format; return it with that folder.

        Raises:
            DataError: a weight is not finite.
        """
        from saekit.hub.native import save

        return dataclasses.replace(self, folder=save(self.sae, self.card, Path(folder)))


FEW_SITES = 3  # more are not all named in a line
FIXED_K = ("topk", "abs_topk", "multi_topk", "matching_pursuit")  # latents on per token in use


def _with_k(sae: Any, cfg: SAEConfig, k: int) -> SAEConfig:
    """Set the latents per token of an SAE, or of the one that it is around; return its settings."""
    inner = getattr(cfg, "inner", None)
    changed: dict[str, Any]
    if isinstance(inner, SAEConfig):
        changed = {"inner": _with_k(sae.inner, inner, k)}
    elif cfg.name in FIXED_K:
        changed = {"k": k} | {n: None for n in ("start_k",) if hasattr(cfg, n)}
    else:
        raise ConfigError(
            f"`{cfg.name}` keeps no fixed number of latents per token in use; {', '.join(FIXED_K)} "
            f"do."
        )
    if "anneal" in {f.name for f in dataclasses.fields(cfg)}:
        changed["anneal"] = 0.0
    sae.cfg = type(cfg).from_dict(
        cfg.to_dict()
        | {
            name: value.to_dict() if isinstance(value, SAEConfig) else value
            for name, value in changed.items()
        }
    )
    return sae.cfg
