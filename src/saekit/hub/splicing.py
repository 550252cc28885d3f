"""Splicing: SAEs inside a language model, whose latents can be read and changed in every pass."""

import contextlib
import dataclasses
import functools
import math
import numbers
import operator
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, SupportsIndex, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, ShapeError, UnknownNameError
from saekit.hub.trained import TrainedSAE
from saekit.models.base import Edits, LanguageModel, Replace, composed
from saekit.models.sites import UNKNOWN, Site

# Positions of a row (0 is its first token), or a function of tokens and their positions.
Where = (
    int
    | Tensor
    | Iterable[Any]
    | Callable[[Int[Tensor, "batch n"], Int[Tensor, "n"]], Bool[Tensor, "batch n"]]
)
# Ids of whole rows -> what is written in a pass over them.
Before = Callable[[Int[Tensor, "batch n"]], Mapping[Site, Replace]]
Kind = Literal["add", "set", "scale", "at_least", "at_most"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
    """One change of one latent, at some tokens.

    Args:
        latent: its number.
        kind: add `value`, set to it, multiply by it, or bound by it from below or above.
        value: act units of the latent's code; of "scale" a factor.
        where: at which tokens: positions, or a function of tokens and positions; None: at all
            that count.
    """

    latent: int
    kind: Kind
    value: float
    where: Int[Tensor, "m"] | Callable[[Tensor, Tensor], Tensor] | None = None

    def changed(self, acts: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Return the latent's activations as they shall be."""
        if self.kind == "add":
            return acts + self.value
        if self.kind == "set":
            return torch.full_like(acts, self.value)
        if self.kind == "scale":
            return acts * self.value
        return acts.clamp(min=self.value) if self.kind == "at_least" else acts.clamp(max=self.value)

    def mask(self, tokens: Int[Tensor, "batch n"], start: int) -> Bool[Tensor, "batch n"] | None:
        """Return where it applies in a pass over tokens that begin at a position of their row.

        Raises:
            ShapeError: a function gave a mask of another shape.
        """
        if self.where is None:
            return None
        place = torch.arange(start, start + tokens.shape[1])
        if callable(self.where):
            found = self.where(tokens, place)
            if found.shape != tokens.shape:
                raise ShapeError(
                    f"`where` must return a mask of the tokens' shape {list(tokens.shape)}; it "
                    f"returned {list(found.shape)}."
                )
            return found
        return torch.isin(place, self.where).expand(tokens.shape)


def _places(where: Where) -> Int[Tensor, "m"] | Callable[[Tensor, Tensor], Tensor]:
    """Return positions from a list or a mask of them; a function as it is.

    Raises:
        ConfigError: it is neither, has several axes, or a position is no whole number from 0.
    """
    if callable(where):
        return where
    if isinstance(where, bool):
        raise ConfigError("`where` is a list of positions, a mask or a function; got a bool.")
    if isinstance(where, int):
        where = [where]
    if isinstance(where, slice):
        raise ConfigError("`where` is a list of positions; got a slice. Give list(range(...)).")
    if isinstance(where, dict | set | str | bytes) or not hasattr(where, "__iter__"):
        kind = type(where).__name__
        raise ConfigError(f"`where` is a list of positions, a mask or a function; got a {kind}.")
    values = (
        where
        if isinstance(where, Tensor)
        else torch.as_tensor(
            [bool(v) if type(v).__name__ in ("bool", "bool_") else v for v in where]
        )
    )
    if values.ndim != 1 or values.is_floating_point():
        raise ConfigError(
            f"`where` is one row of positions, or a mask of one; got {values.dtype} of shape "
            f"{list(values.shape)}. Give a function for several rows."
        )
    if values.dtype == torch.bool:
        return values.nonzero()[:, 0].cpu()
    if len(values) and int(values.min()) < 0:
        raise ConfigError(f"`where` counts positions from 0; got {int(values.min())}.")
    return values.long().cpu()


@final
class Splice:
    """SAEs attached to a language model, in the order they were given.

    Inside the ``with`` block every pass of the model, its generation too, goes through them; after
    it, also after an exception, the model is as it was. With the error term (the default) what an
    SAE fails to reconstruct is kept, so that nothing changes, to the bit, until a latent is edited.
    Without it activations are replaced by reconstructions. Tokens that an SAE's rules leave out
    (special tokens, massive norms) are neither replaced nor edited.

    Args:
        lm: the language model.
        saes: one or several, at any sites; transcoders too.
        error: keep what the SAEs fail to reconstruct.
        grad: let gradients pass through the SAEs; see `splice`.

    Raises:
        ConfigError: an SAE codes several sites or positions jointly, or does not say its site.
        UnknownNameError: the model has no such site.
        ShapeError: widths differ.
    """

    def __init__(
        self,
        lm: LanguageModel,
        saes: tuple[TrainedSAE, ...],
        *,
        error: bool = True,
        grad: bool = False,
    ):
        if not saes:
            raise ConfigError("Give at least one SAE to splice in.")
        check_order(lm, *saes)
        self.lm = lm
        self.parts = [Part(lm, sae, error=error, grad=grad) for sae in saes]
        self._own: _SpliceHook | None = None
        self._passes = contextlib.ExitStack()

    def __enter__(self) -> "Splice":
        if self._own is not None:
            raise ConfigError("This splice is in use already. Make another one.")
        self._own = _SpliceHook(self)
        # The first splice of a model has passes of the library's own go through what is attached.
        if not self.lm.edits:
            self._passes.enter_context(self.lm.own_passes())
        self.lm.edits = (*self.lm.edits, self._own)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lm.edits = tuple(e for e in self.lm.edits if e is not self._own)
        self._own = None
        self._passes.close()

    def __repr__(self) -> str:
        several = len(self.parts) > 1
        edits = [
            f"{e.kind} {e.value:g} at latent {e.latent}" + (f" of SAE {i}" if several else "")
            for i, p in enumerate(self.parts)
            for e in p.edits
        ]
        sites = ", ".join(p.sae.card.pair.label for p in self.parts)
        return f"Splice({sites} of {self.lm.name}; {', '.join(edits) or 'no edits'})"

    def edit(  # noqa: PLR0913 - a word for each kind of change
        self,
        latent: SupportsIndex,
        *,
        add: float | None = None,
        set: float | None = None,
        scale: float | None = None,
        at_least: float | None = None,
        at_most: float | None = None,
        ablate: bool = False,
        where: Where | None = None,
        sae: int | None = None,
    ) -> "Splice":
        """Change a latent from the next pass on; edits of one latent are made one after another.

        Args:
            latent: its number.
            add: added to its activation, act units.
            set: its activation.
            scale: multiplies its activation.
            at_least: raises smaller activations to this.
            at_most: lowers larger activations to this.
            ablate: set it to 0.
            where: positions of the row as a list or a mask, or a function of the token ids of a
                pass ``[batch, n]`` and their positions ``[n]`` that returns a mask ``[batch, n]``
                (in generation a pass is the prompt first, then each new token alone); None: all
                that count. Tokens that the SAE's rules leave out, as BOS, are never edited.
            sae: which of several SAEs, by its place; needed where there are several.

        Returns:
            this splice.

        Raises:
            ConfigError: not exactly one change was named, or it is not finite.
            UnknownNameError: there is no such latent or SAE.
        """
        asked: dict[str, float | None] = {
            "add": add,
            "set": 0.0 if ablate else set,
            "scale": scale,
            "at_least": at_least,
            "at_most": at_most,
        }
        named = [(kind, value) for kind, value in asked.items() if value is not None]
        if len(named) != 1 or (ablate and set is not None):
            raise ConfigError(
                "Name one change of add, set, scale, at_least, at_most, ablate; got "
                f"{', '.join(k for k, _ in named) or 'none'}. Call edit once for each."
            )
        kind, value = named[0]
        if not isinstance(value, numbers.Real) or not math.isfinite(float(value)):
            raise ConfigError(f"`{kind}` must be a finite number; got {value!r}.")
        part = self._part(sae)
        number = part.number_of(latent)
        places = None if where is None else _places(where)
        made = Edit(latent=number, kind=typing.cast("Kind", kind), value=float(value), where=places)
        part.edits.append(made)
        return self

    def clear(self) -> "Splice":
        """Take back all edits."""
        for part in self.parts:
            part.edits.clear()
        return self

    def save_model(self, folder: Path | str) -> Path:
        """Write the language model with the edits built in; see `steered_model.save_steered`."""
        from saekit.hub.steered_model import save_steered

        return save_steered(self, folder)

    @property
    def codes(self) -> Codes:
        """Codes of the last pass, before edits.

        Raises:
            ConfigError: there was no pass yet, or there are several SAEs: see `codes_of`.
        """
        return self.codes_of(None)

    def codes_of(self, sae: int | None) -> Codes:
        """Return the codes of the last pass of one of several SAEs, ``[batch, n_ctx]`` rows.

        Raises:
            ConfigError: there was no pass yet.
            UnknownNameError: there is no such SAE.
        """
        if (found := self._part(sae).codes) is None:
            raise ConfigError(
                "The model made no pass yet inside this splice. Run it on a text first, as "
                "lm.logits(tokens)."
            )
        return found

    def _part(self, sae: int | None) -> "Part":
        """Return one of the SAEs.

        Raises:
            ConfigError: there are several, and none was named.
            UnknownNameError: there is no such SAE.
        """
        if sae is None:
            if len(self.parts) > 1:
                here = ", ".join(f"{i}: {p.sae.card.pair.label}" for i, p in enumerate(self.parts))
                raise ConfigError(f"Several SAEs are spliced in. Say which with sae=: {here}.")
            return self.parts[0]
        if isinstance(sae, bool) or not isinstance(sae, int) or not 0 <= sae < len(self.parts):
            raise UnknownNameError(
                f"There is no SAE {sae} here; SAEs are 0..{len(self.parts) - 1}."
            )
        return self.parts[sae]

    def changes(
        self, tokens: Int[Tensor, "batch n"], start: int = 0
    ) -> list[Mapping[Site, Replace]]:
        """Return what each SAE does at its sites in one pass, in order."""
        return self._changes_of(len(self.parts), tokens, start)

    def _changes_of(self, n: int, tokens: Tensor, start: int) -> list[Mapping[Site, Replace]]:
        """Return what the first `n` SAEs do in a pass."""
        found: list[Mapping[Site, Replace]] = []
        for i, part in enumerate(self.parts[:n]):
            before = functools.partial(self._before, i)
            found.append(part.changes(tokens, start, before, self._own))
        return found

    def _before(self, n: int, tokens: Tensor) -> Mapping[Site, Replace]:
        return composed(self._changes_of(n, tokens, 0))


class _SpliceHook:
    """What a model holds of a splice while it is in use."""

    def __init__(self, splice: Splice):
        self._splice = splice

    def changes(self, tokens: Tensor, start: int = 0) -> list[Mapping[Site, Replace]]:
        return self._splice.changes(tokens, start)


class Part:
    """One SAE at its place in the model."""

    def __init__(
        self, lm: LanguageModel, sae: TrainedSAE, *, error: bool = True, grad: bool = False
    ):
        sae = sae.ruled(lm)
        cfg, card = sae.cfg, sae.card
        if "seq" in cfg.event:
            raise ConfigError(
                f"`{cfg.name}` codes windows of tokens jointly; SAEs of single tokens can be "
                f"spliced in."
            )
        self.joint = "site" in cfg.event
        if self.joint and grad:
            raise ConfigError(
                f"`{cfg.name}` codes its sites from a pass of its own, through which no gradient "
                f"goes. Leave out grad=True."
            )
        card.check_model()
        if UNKNOWN in card.pair.sites:
            raise ConfigError(
                f"The SAE's files do not say which site it is of ({card.pair.label}). Load it "
                f"with site=, or with hints for a transcoder."
            )
        if card.scalings and card.at is None:
            raise ConfigError("This SAE was loaded for all its sites. Load it with site= for one.")
        self.reads = card.pair.reads if self.joint else [card.site]
        self.writes = [card.written(site) for site in self.reads]
        widths = [(s, cfg.d_in) for s in self.reads] + [(s, cfg.d_out) for s in self.writes]
        for site, width in widths:
            found = lm.width(lm.check_site(site))
            if found != width:
                raise ShapeError(
                    f"The SAE has width {width} at {site}, where {lm.name} has {found}. Use the "
                    f"model it was trained on: {card.model.get('name')}."
                )
        self.read, self.write = self.reads[0], self.writes[0]
        order = lm.sites()
        places = [order.index(site._replace(head=None)) for site in (self.read, self.write)]
        if not self.joint and places[1] < places[0]:
            raise ConfigError(
                f"The SAE predicts {self.write} from {self.read}, which comes later in a pass, so "
                f"it cannot be spliced in."
            )
        self.lm, self.sae, self.error, self.grad = lm, sae, error, grad
        self.edits: list[Edit] = []
        self.codes: Codes | None = None
        self._directions: Tensor | None = None

    def number_of(self, latent: Any) -> int:
        """Return the number of a latent, after refusing what is none."""
        try:
            number = -1 if isinstance(latent, bool) else operator.index(latent)
        except TypeError:
            raise UnknownNameError(
                f"A latent is named by its number, as 12; got {latent!r} ({type(latent).__name__})."
            ) from None
        if not 0 <= number < self.sae.d_sae:
            raise UnknownNameError(
                f"There is no latent {latent}; this SAE has latents 0..{self.sae.d_sae - 1}."
            )
        return number

    def changes(
        self, tokens: Tensor, start: int, before: Before, own: Edits | None
    ) -> dict[Site, Replace]:
        """Return what it does at the site it reads, and at the one it predicts.

        Args:
            tokens: ids of the pass.
            start: position of the first of them in its row.
            before: returns what SAEs given before it do in a pass over whole rows.
            own: what the model holds of the splice it is part of.
        """
        if self.joint:
            return self._joint_changes(tokens, start, before, own)
        seen: dict[Site, Tensor] = {}

        def look(x: Tensor) -> Tensor:
            seen[self.read] = x
            self.codes = self._encoded(x)
            return x

        def change(y: Tensor) -> Tensor:
            seen.setdefault(self.write, y)
            return self._written(y, tokens, start, seen)

        if self.read == self.write:
            return {self.read: lambda x: change(look(x))}
        return {self.read: look, self.write: change}

    def _encoded(self, x: Tensor) -> Codes:
        if not (self.grad and torch.is_grad_enabled()):
            return self.sae.encode(x)
        codes = self.sae.sae.encode(x.float())
        if codes.values.requires_grad:
            codes.values.retain_grad()
        return codes

    def _joint_changes(
        self, tokens: Tensor, start: int, before: Before, own: Edits | None
    ) -> dict[Site, Replace]:
        """Return what an SAE of several sites does at each of them.

        Its code needs what comes at the last of them before anything is written at the first, so it
        is taken from a pass of its own, with what other SAEs do and without its own edits.
        """
        sites = list(dict.fromkeys([*self.reads, *self.writes]))
        seen = self.lm.look_ahead(tokens, sites, before, start, own)
        codes = self.codes = self.sae.encode(torch.stack([seen[s] for s in self.reads], dim=-2))
        if not self.edits and self.error:
            return {}
        masks = [self.sae.card.keep(s, tokens.to(seen[s].device), seen) for s in self.reads]
        counted = torch.stack(masks).all(0)
        y_hat = None if self.error else self.sae.decode(codes)
        moved = self._moved(codes, tokens, start) if self.edits else None

        def at(place: int) -> Replace:
            def change(y: Tensor) -> Tensor:
                new = y.float() if y_hat is None else y_hat[..., place, :]
                if moved is not None:
                    latents, by = moved
                    added = by @ self._rows(latents, place)
                    new = new + added.view(y.shape).to(new.device)
                return torch.where(counted[..., None], new.to(y.dtype), y)

            return change

        return {site: at(place) for place, site in enumerate(self.writes)}

    def _written(
        self, y: Tensor, tokens: Tensor, start: int, seen: Mapping[Site, Tensor]
    ) -> Tensor:
        """Return what is put in place of `y` ``[batch, n, d_out]``."""
        through = self.grad and torch.is_grad_enabled()
        if not self.edits and self.error and not through:
            return y
        assert self.codes is not None  # the site read comes first in every model
        counted = self.sae.card.keep(self.read, tokens.to(y.device), seen)
        new = y.float()
        if through or not self.error:
            decode = self.sae.sae.decode if through else self.sae.decode
            y_hat = decode(self.codes).view_as(y)
            # The error counts as a constant, so that all gradients go by way of the latents.
            new = y_hat + (new - y_hat).detach() if self.error else y_hat
        if self.edits:
            latents, moved = self._moved(self.codes, tokens, start)
            new = new + (moved @ self._rows(latents)).view(y.shape).to(new.device)
        return torch.where(counted[..., None], new.to(y.dtype), y)

    def _moved(
        self, codes: Codes, tokens: Tensor, start: int
    ) -> tuple[list[int], Float[Tensor, "rows m"]]:
        """Return the latents that are edited, and by how much each moves at every token."""
        latents = list(dict.fromkeys(edit.latent for edit in self.edits))
        wanted = torch.tensor(latents, device=codes.latents.device)
        before = codes.columns(wanted).view(codes.n_rows, -1)
        after = before.clone()
        for edit in self.edits:
            column = after[:, latents.index(edit.latent)]
            edited = edit.changed(column)
            mask = edit.mask(tokens, start)
            if mask is not None:
                edited = torch.where(mask.reshape(-1).to(column.device), edited, column)
            after[:, latents.index(edit.latent)] = edited
        return latents, after - before

    def _rows(self, latents: list[int], place: int | None = None) -> Float[Tensor, "m d_out"]:
        """Return directions of some latents; of a joint SAE those at one of its sites."""
        if self._directions is None:
            self._directions = self.sae.directions
        rows = self._directions if place is None else self._directions[place]
        return rows[latents]


def check_order(lm: object, *saes: object) -> None:
    """Refuse arguments in another order, or paths in the place of SAEs, with a sentence.

    Raises:
        ConfigError: the first is no language model, or another is no SAE.
    """
    if not isinstance(lm, LanguageModel):
        raise ConfigError(
            f"The language model comes first, as saekit.load_model gives it; got "
            f"{type(lm).__name__}."
        )
    for one in saes:
        if not isinstance(one, TrainedSAE):
            raise ConfigError(
                f"An SAE is wanted, as saekit.load gives it; got {one!r:.60} "
                f"({type(one).__name__})."
            )


def splice(lm: LanguageModel, *saes: TrainedSAE, error: bool = True, grad: bool = False) -> Splice:
    """Put SAEs into a language model for the length of a ``with`` block.

    Example::

        with saekit.splice(lm, sae) as spliced:
            spliced.edit(latent=1234, add=8.0)
            print(lm.generate("I think", 20))

    Args:
        lm: the language model.
        saes: one or several, as `saekit.load` gives them.
        error: keep what the SAEs fail to reconstruct, so that nothing changes until a latent is
            edited; False puts their reconstructions in place of activations.
        grad: in passes with a graph (``lm.logits(text, grad=True)``) let gradients pass through the
            SAEs, with the error as a constant: after ``backward`` those of the latents are
            ``spliced.codes.values.grad``. Without an edit logits are then as before but for
            rounding.

    Raises: as `Splice`.
    """
    return Splice(lm, saes, error=error, grad=grad)
