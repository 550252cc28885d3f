"""HFModel: transformers models by forward hooks, stopping after the last site read."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from saekit.core.errors import MissingExtraError, ShapeError
from saekit.models.base import LanguageModel, Replace, Tokenizer
from saekit.models.family import Tap, family_of
from saekit.models.sites import EMBED, Site

Visit = Callable[[Tensor], Tensor | None]  # what was there -> what shall be, or None

VOCAB_CHUNK_ROWS = 16384  # rows of the unembedding raised to float32 at a time


class _Stop(Exception):
    """Every wanted site has been read; the rest of the pass is not needed."""


@final
class HFModel(LanguageModel):
    """A causal language model of transformers, frozen, in evaluation mode.

    Args:
        module: a ``...ForCausalLM`` of transformers, on its device, in its dtype.
        tokenizer: what made its token ids.
        name: hub name or folder.
        revision: hub commit, or SHA-256 of the weight files.

    Raises:
        UnknownNameError: its type has no map of sites.
    """

    def __init__(self, module: Any, tokenizer: Tokenizer, *, name: str, revision: str):
        config = module.config.get_text_config()
        family = family_of(config.model_type)
        self.name, self.revision, self.family = name, revision, family.name
        self.n_layers = config.num_hidden_layers
        self.d_model = config.hidden_size
        self.vocab_size = config.vocab_size
        self.n_ctx_max = config.max_position_embeddings
        self.tokenizer = tokenizer
        self.dtype, self.device = module.dtype, module.device
        self.module = module.eval().requires_grad_(False)
        self._family = family
        self._decoder: nn.Module = module.get_decoder()
        self._points = family.points(config)
        self._sites = [EMBED] + [
            Site(i, point) for i in range(self.n_layers) for point in self._points
        ]
        self._lock = threading.Lock()
        self._holder: int | None = None

    @override
    def sites(self) -> list[Site]:
        return list(self._sites)

    @override
    def width(self, site: Site) -> int:
        self.check_site(site)
        return self.d_model

    @override
    def read(
        self, tokens: Int[Tensor, "batch n_ctx"], sites: Sequence[Site], *, grad: bool = False
    ) -> dict[Site, Float[Tensor, "batch n_ctx width"]]:
        wanted = [self.check_site(site) for site in dict.fromkeys(sites)]
        found: dict[Site, Tensor] = {}

        def keep(site: Site) -> Visit:
            def visit(x: Tensor) -> None:
                found[site] = x
                if len(found) == len(wanted):
                    raise _Stop

            return visit

        if wanted:
            with self._hooked({s: keep(s) for s in wanted}, grad), contextlib.suppress(_Stop):
                self._decoder(input_ids=self._checked(tokens), use_cache=False)
        return {site: found[site] for site in wanted}

    @override
    def logits(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        replace: Mapping[Site, Replace] | None = None,
        *,
        grad: bool = False,
    ) -> Float[Tensor, "batch n_ctx vocab"]:
        changes = replace or {}
        ordered = sorted((self.check_site(s) for s in changes), key=self._sites.index)
        with self._hooked({s: self._change(s, changes[s]) for s in ordered}, grad):
            return self.module(input_ids=self._checked(tokens), use_cache=False).logits

    @override
    @torch.no_grad()
    def logit_effects(
        self, directions: Float[Tensor, "m d_model"]
    ) -> Float[Tensor, "m vocab"]:
        norm = self._decoder.get_submodule(self._family.final_norm)
        rows = directions.to(self.device, torch.float32)
        if isinstance(norm, nn.LayerNorm):
            rows = rows - rows.mean(-1, keepdim=True)
        rows = rows * (norm.weight.float() + self._family.gain_offset)
        unembed = self.module.get_output_embeddings().weight  # [vocab, d_model]
        parts = [rows @ w.float().T for w in unembed.split(VOCAB_CHUNK_ROWS)]
        return torch.cat(parts, dim=-1)

    def _checked(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] > self.n_ctx_max:
            raise ShapeError(
                f"{self.name} reads rows of at most {self.n_ctx_max} tokens; got "
                f"{tokens.shape[1]}. Use a shorter context."
            )
        return tokens.to(self.device, non_blocking=True)

    @contextlib.contextmanager
    def _hooked(self, visits: Mapping[Site, Visit], grad: bool) -> Iterator[None]:
        """Run one pass with hooks at some sites; hooks of two passes would mix."""
        if self._holder == threading.get_ident():
            raise RuntimeError("A replacement may not run the model it is part of.")
        with self._lock, torch.set_grad_enabled(grad), contextlib.ExitStack() as undo:
            self._holder = threading.get_ident()
            undo.callback(setattr, self, "_holder", None)
            if grad:
                undo.callback(self._attach(EMBED, _require_grad).remove)
            for site, visit in visits.items():
                undo.callback(self._attach(site, visit).remove)
            yield

    def _tap(self, site: Site) -> Tap:
        return Tap(self._family.embed, "output") if site == EMBED else self._points[site.point]

    def _change(self, site: Site, change: Replace) -> Visit:
        shared = self._tap(site).shared

        def visit(x: Tensor) -> Tensor:
            # A shared tensor is written over afterwards, so `change` gets one of its own.
            new = change(x.clone() if shared else x)
            if new.shape != x.shape:
                raise ShapeError(
                    f"The replacement at `{site}` must keep the shape {tuple(x.shape)}; it "
                    f"returned {tuple(new.shape)}."
                )
            return new.to(x)

        return visit

    def _attach(self, site: Site, visit: Visit) -> RemovableHandle:
        tap = self._tap(site)
        module = self._decoder.get_submodule(tap.module.format(i=site.layer))
        if tap.side == "output":
            return module.register_forward_hook(_after(visit))
        return module.register_forward_pre_hook(_before(visit, tap.shared), with_kwargs=True)


def _require_grad(x: Tensor) -> None:
    # The weights are frozen, so the graph begins at the token embedding.
    x.requires_grad_()


def _after(visit: Visit) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if not isinstance(output, tuple):
            return visit(output)
        new = visit(output[0])
        return None if new is None else (new, *output[1:])

    return hook


def _before(visit: Visit, shared: bool) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        new = visit(x)
        if new is None:
            return None
        if shared:
            new = x.copy_(new)
        return ((new, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": new})

    return hook


def new_module(model_type: str, settings: dict[str, Any]) -> Any:
    """Return a fresh causal language model of transformers, made from a configuration.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    library = _transformers()
    config = library.AutoConfig.for_model(model_type, **settings)
    return library.AutoModelForCausalLM.from_config(config)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "lm") from error
    return transformers
