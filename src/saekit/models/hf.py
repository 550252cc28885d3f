"""HFModel: transformers models by forward hooks, stopping after the last site read."""

import contextlib
import copy
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from saekit.core.embedded_ids import beyond_embedding
from saekit.core.errors import (
    ConfigError,
    FormatError,
    MissingExtraError,
    SaekitError,
    ShapeError,
    UnknownNameError,
    nearest,
)
from saekit.core.files import digest, sha256_of
from saekit.core.seeds import generator
from saekit.models import norms, resuming, structure, together
from saekit.models.base import LanguageModel, Replace, Tokenizer
from saekit.models.embedded.unpacking import DEFAULT, MODELS, embedded
from saekit.models.family import SiteMap, Tap, family_of
from saekit.models.fast_gradients.linear import freeze_linears
from saekit.models.fast_gradients.mlp import freeze_mlps
from saekit.models.fast_gradients.shared import SharedAttention, freeze_activations
from saekit.models.generation import (
    Row,
    Sampling,
    Step,
    check_prompts,
    continued,
    drawn_surely,
    of_all_ages,
    of_one_age,
)
from saekit.models.mixed_ages import MixedAges
from saekit.models.model_files import fetch_model
from saekit.models.own_passes import OwnPasses
from saekit.models.placement import pick_device, pick_dtype, spread_settings
from saekit.models.short_names import SHORT_NAMES, UNREADABLE, full_name
from saekit.models.sites import EMBED, POINTS, Site
from saekit.models.tokenizer import HFTokenizer, SpecialIds
from saekit.models.whole import check_weight_files, load_weights, read_config

Visit = Callable[[Tensor], Tensor | None]  # what was there -> what shall be, or None

VOCAB_CHUNK_ROWS = 16384  # rows of the unembedding raised to float32 at a time
NO_LIMIT = 2**20  # tokens in a row, where a model sets no limit
_PAIRED_HEADS = ("diffllama",)  # heads that subtract from each other: a slice of z is none
_STATES = ("past_key_values", "cache_params", "state")  # names of what is kept between tokens
_HALF_ROUNDING = 1e-3  # how far a measured scale of logits may be off 1 by rounding alone


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
        UnknownNameError: its type has no map of sites, and its structure tells none.
    """

    def __init__(self, module: Any, tokenizer: Tokenizer, *, name: str, revision: str):
        config = module.config.get_text_config()
        self.name, self.revision = name, revision
        self.n_layers = config.num_hidden_layers
        self.d_model = config.hidden_size
        self.vocab_size = config.vocab_size
        self.n_ctx_max = _n_ctx_max(config)
        self.tokenizer = tokenizer
        self.dtype, self.device = module.dtype, _device_of(module)
        self.module = module.eval().requires_grad_(False)
        self._decoder: nn.Module = structure.decoder_of(module)
        self._map = _map_of(module, config)
        self.family, self.left_out = self._map.family, self._map.left_out
        self._norms: dict[str, norms.Affine] = {}
        self.processing: str | None = None
        self.quantisation: str | None = None
        self._use_norms()
        if not _is_spread(module):  # else other libraries have their own products on its layers
            freeze_linears(self.module)
            freeze_activations(self.module)
            freeze_mlps(self.module)
        listed = [
            Site(i, point)
            for i, points in enumerate(self._map.layers)
            for point, tap in points.items()
            if tap.listed
        ]
        self._sites = [EMBED, *listed]
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._shape = (0, 0)  # of the tokens of the pass that runs
        self._forms: dict[Site, resuming.Form | None] = {}
        self._rows: Tensor | None = torch.zeros(1, 0)  # ids of the pass that is about to run, from
        # the beginning of their rows; None: not known

    @override
    def sites(self) -> list[Site]:
        return list(self._sites)

    @override
    def width(self, site: Site) -> int:
        self.check_site(site)
        if site == EMBED:
            return self.module.get_input_embeddings().weight.shape[-1]
        if site.point not in ("z", "mlp_acts"):
            return self.d_model
        width = _in_features(self.module_at(site))
        return width if site.head is None else width // self.n_heads(site)

    @override
    def n_heads(self, site: Site) -> int:
        n_heads = getattr(self.module.config.get_text_config(), "num_attention_heads", None)
        if site.point != "z" or not isinstance(n_heads, int):
            return 0
        kind = self.module.config.get_text_config().model_type
        width = self.width(site._replace(head=None))
        return 0 if width % n_heads or kind in _PAIRED_HEADS else n_heads

    @property
    def layers(self) -> list[dict[str, Tap]]:
        """Return the points of each block, those too that are known for their sums alone."""
        return self._map.layers

    def after_processing(self, name: str) -> None:
        """Measure anew what was measured, after the weights were changed; see `processing`."""
        self.processing = name
        self._norms.clear()
        self._use_norms()
        vars(self).pop("_logit_scale", None)
        self._forms.clear()

    @override
    def provenance(self) -> dict[str, Any]:
        own = {"processing": self.processing, "quantisation": self.quantisation}
        return super().provenance() | {k: v for k, v in own.items() if v is not None}

    def _use_norms(self) -> None:
        """Measure the norms before MLPs, and leave out sites whose norm cannot be undone."""
        for i, points in enumerate(self._map.layers):
            tap = points.get("mlp_normalized")
            if tap is None:
                continue
            path = tap.norm.format(i=i)
            norm = norms.measure(self._submodule(path, Site(i, "mlp_normalized")), self.d_model)
            if norm is not None and bool((norm.gain != 0).all()):
                self._norms[path] = norm
                continue
            self._map.layers[i] = {p: t for p, t in points.items() if p != "mlp_normalized"}
            self._map.left_out[str(Site(i, "mlp_normalized"))] = (
                f"`{path}` is no norm of a known kind"
                if norm is None
                else f"`{path}` multiplies some entries by 0, which cannot be undone"
            )

    @override
    def _read(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        sites: Sequence[Site],
        *,
        replace: Mapping[Site, Replace] | None = None,
        grad: bool = False,
    ) -> dict[Site, Float[Tensor, "batch n_ctx width"]]:
        wanted = list(dict.fromkeys(sites))
        found: dict[Site, Tensor] = {}

        def keep(site: Site) -> Visit:
            def visit(x: Tensor) -> None:
                found[site] = x.to(self.device)
                if len(found) == len(wanted):
                    raise _Stop

            return visit

        visits = [*self._changes(tokens, replace), *((s, keep(s)) for s in wanted)]
        if wanted:
            with self._hooked(visits, grad, tokens.shape), contextlib.suppress(_Stop):
                self._decoder(**self._inputs(tokens))
        return {site: found[site] for site in wanted}

    @override
    def _logits(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        replace: Mapping[Site, Replace] | None = None,
        *,
        grad: bool = False,
    ) -> Float[Tensor, "batch n_ctx vocab"]:
        with self._hooked(self._changes(tokens, replace), grad, tokens.shape):
            return self.module(**self._inputs(tokens)).logits.to(self.device)

    @override
    def final(
        self, tokens: Int[Tensor, "batch n_ctx"], replace: Mapping[Site, Replace] | None = None
    ) -> Float[Tensor, "batch n_ctx d_model"]:
        begin = resuming.given(replace)
        form = None if begin is None else self._form(begin)
        return self._final(tokens, replace, begin, form)

    def _final(
        self,
        tokens: Tensor,
        replace: Mapping[Site, Replace] | None,
        begin: Site | None = None,
        form: resuming.Form | None = None,
    ) -> Tensor:
        """Do what `final` does, after the blocks before a site where a form of them is given."""
        shorter: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if begin is not None and form is not None:
            shorter = resuming.standing_in(self._blocks_before(begin), form)
        with self._hooked(self._changes(tokens, replace), False, tokens.shape), shorter:
            return self._decoder(**self._inputs(tokens)).last_hidden_state.to(self.device)

    @override
    def stream_decides(self, site: Site) -> bool:
        return self.separator_id is None and self._form(site) is not None

    def _form(self, site: Site) -> resuming.Form | None:
        """Return how the blocks before a site are stood in for, None where they must run."""
        if self.edits or not resuming.blocks_before(site) or _is_spread(self.module):
            return None
        taps = [self.tap(Site(i, "resid_post")) for i in range(resuming.blocks_before(site))]
        if any(tap != Tap(tap.module, "output") or tap.module != taps[0].module for tap in taps):
            return None
        if site not in self._forms:
            self._forms[site] = resuming.form_of(
                self, site, lambda tokens, replace, form: self._final(tokens, replace, site, form)
            )
        return self._forms[site]

    def _blocks_before(self, site: Site) -> list[nn.Module]:
        sites = [Site(i, "resid_post") for i in range(resuming.blocks_before(site))]
        return [self.module_at(one) for one in sites]

    @override
    @torch.no_grad()
    def unembed(self, final: Float[Tensor, "m d_model"]) -> Float[Tensor, "m vocab"]:
        # The model's own forward does what follows its decoder, whatever that is in its family;
        # the decoder is stood in for by what it gave before.
        output = _DecoderOutput(final[None])
        ids = torch.zeros(1, len(final), dtype=torch.int64, device=final.device)
        own = self._decoder.__dict__.get("forward")
        with self._lock:
            self._decoder.forward = lambda *_, **__: output
            try:
                return self.module(input_ids=ids, use_cache=False).logits[0].to(self.device)
            finally:
                del self._decoder.forward
                if own is not None:
                    self._decoder.forward = own

    @override
    def attention_bytes(self, n_ctx: int) -> int:
        config = self.module.config.get_text_config()
        item = torch.empty(0, dtype=self.dtype).element_size()
        masks = item * n_ctx**2 if self.separator_id is not None else 0
        if getattr(config, "_attn_implementation", "sdpa") != "eager":
            return masks
        # Scores, their float32 softmax and its rounded copy, of one layer.
        heads = getattr(config, "num_attention_heads", 0)
        return masks + heads * n_ctx**2 * (2 * item + 4)

    @override
    @torch.no_grad()
    def continue_tokens(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int | Sequence[int] = 0,
        replace: Mapping[Site, Replace] | None = None,
        stop: Sequence[int] | None = None,
        batch_rows: int = 32,
    ) -> list[list[int]]:
        seeds = seed if isinstance(seed, int) else tuple(seed)
        sampling = Sampling(
            temperature=temperature, top_p=top_p, repetition_penalty=repetition_penalty, seed=seeds
        )
        check_prompts(prompts, n, self.vocab_size, self.n_ctx_max)
        begin, ends, batch_rows = self._continuing(stop, batch_rows, replace)
        return continued(prompts, n, begin, sampling, ends, batch_rows)

    @override
    @torch.no_grad()
    def sequences(
        self,
        prompts: Iterable[tuple[int, Sequence[int]]],
        n: int,
        sampling: Sampling,
        *,
        stop: Sequence[int] | None = None,
        batch_rows: int = 32,
    ) -> Iterator[tuple[int, list[int]]]:
        if not isinstance(sampling.seed, int):
            raise ConfigError("`seed` is one number here: each sequence has its own from it.")
        seed, exact = sampling.seed, self.dtype in (torch.float32, torch.float64)
        begin, ends, batch_rows = self._continuing(stop, batch_rows, None)
        draw = drawn_surely(sampling, self._off if exact else 0.0, self._logits_alone)

        def rows() -> Iterator[Row]:
            for number, prompt in prompts:
                check_prompts([prompt], n, self.vocab_size, self.n_ctx_max)
                yield Row(number, prompt, generator(seed, "generate", number))

        if self._mixes and not self.edits:
            found = of_all_ages(rows(), n, MixedAges(self), draw, ends, batch_rows)
        else:
            found = of_one_age(rows(), n, begin, draw, ends, batch_rows)
        for row in found:
            yield row.number, row.new

    def alone_in_use(self, tokens: Tensor) -> contextlib.AbstractContextManager[None]:
        """Return a block in which this thread alone runs passes of the module, without hooks."""
        return self._hooked([], False, tokens.shape)

    def _logits_alone(self, ids: Sequence[int]) -> Float[Tensor, "vocab"]:
        """Return the logits after a row, computed from nothing but the row."""
        tokens = torch.tensor([list(ids)], device=self.device)
        visits = self._changes(tokens, None)
        with self._hooked(visits, False, tokens.shape):
            out = self.module(input_ids=tokens, use_cache=False, logits_to_keep=1)
        return out.logits[0, -1].to(self.device)

    @functools.cached_property
    def _off(self) -> float:
        """Return how far logits of a batch may be from those of a row alone, as measured.

        Half the largest of all errors on random tokens, in two tokens compared: of SmolLM2-135M
        that is five times the largest on text.
        """
        tokens = (torch.arange(3 * 16) * 7919 % self.vocab_size).view(3, 16).tolist()
        ages = MixedAges(self) if self._mixes else None
        if ages is None:
            return 1e-4 * float(self._logits_alone(tokens[0]).float().std())
        for place, row in enumerate(tokens):
            ages.enter(place, row[: 5 * place])
        worst = scale = 0.0
        for at in range(6):
            logits = ages.step([row[5 * place + at] for place, row in enumerate(tokens)])
            for place, row in enumerate(tokens):
                alone = self._logits_alone(row[: 5 * place + at + 1])
                worst = max(worst, float((logits[place] - alone).abs().max()))
                scale = float(alone.std())
        return max(worst / 2, 1e-5 * scale)

    @functools.cached_property
    def _mixes(self) -> bool:
        """Return whether rows of unlike ages can share a batch, as tried."""
        if not self._state[1] or self._state[0] != "past_key_values":
            return False
        kinds = getattr(self.module.config.get_text_config(), "layer_types", None) or ()
        if not set(kinds) <= {"full_attention", "sliding_attention"}:
            return False
        rows = (torch.arange(14) * 7919 % self.vocab_size).view(2, 7).tolist()
        try:
            ages = MixedAges(self)
            ages.enter(0, rows[0][:4])
            ages.step([rows[0][4]])
            ages.enter(1, [])
            ages.step([rows[0][5], rows[1][0]])
            logits = ages.step([rows[0][6], rows[1][1]]).float()
        except Exception:  # whatever another kind of cache or of position raises
            return False
        right = torch.stack([self._logits_alone(r).float() for r in (rows[0], rows[1][:2])])
        error = float((logits - right).abs().max() / right.std())
        return error < (1e-3 if self.dtype in (torch.float32, torch.float64) else 0.2)

    def _continuing(
        self, stop: Sequence[int] | None, batch_rows: int, replace: Mapping[Site, Replace] | None
    ) -> tuple[Callable[[], Step], frozenset[int], int]:
        """Return how a batch of one age begins, what ends a sequence, and the rows of a batch."""
        if self.separator_id is not None:
            raise ConfigError(
                f"{self.name} reads each document by itself here, which a cache of keys and values "
                f"does not hold. Generate with the model as it was loaded."
            )
        if batch_rows < 1:
            raise ConfigError(f"`batch_rows` must be at least 1; got {batch_rows}.")
        eos = self.tokenizer.eos_id
        ends = frozenset(stop if stop is not None else () if eos is None else (eos,))
        replace = self._checked_changes(replace)

        state, selects = self._state
        batch_rows = batch_rows if selects else 1

        def begin() -> Step:
            cache: Any = None
            start = 0
            rows = torch.zeros(0, 0, dtype=torch.int64)

            def step(new: Tensor, keep: Tensor | None) -> Tensor:
                nonlocal cache, start, rows
                if keep is not None:
                    cache.batch_select_indices(keep.to(self.device))
                    rows = rows[keep.to(rows.device)]
                again: Tensor | None = None
                if not start and selects and not replace and len(new) > 1:
                    # Prompts that are the same are read once.
                    once, again = new.unique(dim=0, return_inverse=True)
                    new, again = (once, again) if len(once) < len(new) else (new, None)
                rows = new if not start else torch.cat([rows, new.to(rows.device)], 1)
                self._rows = rows
                with self._hooked(self._changes(new, replace, start), False, new.shape):
                    out = self.module(
                        input_ids=new.to(self.device),
                        use_cache=True,
                        logits_to_keep=1,
                        **{state: cache},
                    )
                cache = out[state]
                start += new.shape[1]
                logits = out.logits[:, -1].to(self.device)
                if again is not None:
                    again = again.to(self.device)
                    cache.batch_select_indices(again)
                    rows, logits = rows[again.to(rows.device)], logits[again]
                return logits

            return step

        return begin, ends, batch_rows

    @functools.cached_property
    def _state(self) -> tuple[str, bool]:
        """Return what the model calls what it keeps between tokens, and whether rows can leave it.

        Raises:
            ConfigError: with it, the model does not give what it gives without.
        """
        tokens = (torch.arange(5) * 7919 % self.vocab_size)[None].to(self.device)
        why = "it keeps nothing between tokens"
        with self._hooked([], False, tokens.shape):
            whole = self.module(input_ids=tokens, use_cache=False).logits[0, -1].float()
            try:
                out = self.module(input_ids=tokens[:, :3], use_cache=True)
                name = next(n for n in (*_STATES, "") if not n or out.get(n) is not None)
                for i in (3, 4) if name else ():
                    kept = {name: out[name]}
                    out = self.module(input_ids=tokens[:, i : i + 1], use_cache=True, **kept)
                error = float((out.logits[0, -1].float() - whole).abs().max() / whole.std())
                exact = self.dtype in (torch.float32, torch.float64)
                if name and error < (1e-3 if exact else 0.2):
                    return name, _rows_can_leave(out[name])
                if name:
                    why = f"with what it keeps between tokens, logits are off by {error:.2g}"
            except Exception as wrong:  # whatever another way of keeping raises
                why = f"{type(wrong).__name__}: {str(wrong)[:80]}"
        raise ConfigError(f"{self.name} ({self.family}) cannot generate here: {why}.")

    @override
    @torch.no_grad()
    def logit_effects(self, directions: Float[Tensor, "m d_model"]) -> Float[Tensor, "m vocab"]:
        norm, rows = self._final_norm(), directions.to(self.device, torch.float32)
        if norm is not None:
            rows = rows - rows.mean(-1, keepdim=True) if norm.centred else rows
            rows = rows * norm.gain.to(rows.device)
        rows = rows * self._logit_scale
        unembed = self.module.get_output_embeddings().weight  # [vocab, d_model]
        parts = [
            (rows.to(w.device) @ w.float().T).to(self.device)
            for w in unembed.split(VOCAB_CHUNK_ROWS)
        ]
        return torch.cat(parts, dim=-1)

    def _final_norm(self) -> norms.Affine | None:
        path = self._map.final_norm
        if path == "":
            return None
        if path is not None:
            norm = norms.measure(self._decoder.get_submodule(path), self.d_model)
            if norm is not None:
                return norm
        raise ConfigError(
            f"{self.name} ({self.family}) has more than a norm between its last block and the "
            f"unembedding, so what a direction adds to logits is not known. Use `logits` with a "
            f"replacement instead."
        )

    @functools.cached_property
    def _logit_scale(self) -> float:
        """Return by what the model multiplies its logits, as Cohere and Granite do: measured.

        An input of small logits is taken, to which a soft cap does nothing.
        """
        unembed = self.module.get_output_embeddings().weight
        row = unembed[:1].float()
        x = (row / (4 * (row @ unembed.float().T).abs().max().clamp_min(1e-30))).to(unembed.dtype)
        plain = (x.float() @ unembed.float().T)[0]
        found = self.unembed(x).float() - self.unembed(torch.zeros_like(x)).float()
        scale = float((found[0].to(plain.device) * plain).sum() / plain.square().sum())
        return 1.0 if abs(scale - 1) < _HALF_ROUNDING else scale

    @override
    def separated(self) -> "HFModel":
        if self.tokenizer.eos_id is None:
            raise ConfigError(
                f"Documents are separated at EOS, which the tokenizer of {self.name} has not. "
                f"Leave `separate_documents` out."
            )
        twin = copy.copy(self)
        twin.separator_id = self.tokenizer.eos_id
        if family_of(self.module.config.get_text_config().model_type) is None:
            twin._prove_separated(self)
        return twin

    def _prove_separated(self, plain: "HFModel") -> None:
        """Refuse a model that does not read documents of a row as if each were alone."""
        eos, site = self.separator_id, self._sites[-1]
        words = [t for t in range(min(9, self.vocab_size)) if t != eos]
        first, second = (
            [eos, *d] if eos == self.tokenizer.bos_id else [*d, eos] for d in (words[:4], words[4:])
        )
        alone = plain.read(torch.tensor([second]), site)[0]
        try:
            packed = self.read(torch.tensor([[*first, *second]]), site)[0, len(first) :]
            error = float((packed - alone).norm() / alone.norm())
        except Exception as wrong:  # whatever a model of another kind makes of such a mask
            error, why = 1.0, f"{type(wrong).__name__}: {str(wrong)[:80]}"
        else:
            why = f"the second document of a row differs by {error:.2g} of its size"
        if not error < 0.02:
            raise ConfigError(
                f"{self.name} ({self.family}) cannot read each document of a row by itself: {why}. "
                f"Leave `separate_documents` out."
            )

    def _inputs(self, tokens: Tensor) -> dict[str, Any]:
        ids = self._checked(tokens)
        found: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if self.separator_id is None:
            return found
        window = getattr(self.module.config.get_text_config(), "sliding_window", None)
        if window and ids.shape[1] > window:
            raise ShapeError(
                f"{self.name} has layers that attend to {window:,} tokens only, and with separate "
                f"documents reads rows of at most as many; got {ids.shape[1]:,}. Use a shorter "
                f"`n_ctx`."
            )
        begins = ids == self.separator_id
        if self.tokenizer.bos_id != self.separator_id:  # where it is BOS too, it begins one
            begins = torch.cat([begins.new_ones(len(ids), 1), begins[:, :-1]], 1)
        place = torch.arange(ids.shape[1], device=ids.device)
        doc = begins.long().cumsum(1)
        first = torch.where(begins, place, 0).cummax(1).values
        seen = (doc[:, :, None] == doc[:, None, :]) & (place[:, None] >= place)
        mask = torch.full_like(seen, torch.finfo(self.dtype).min, dtype=self.dtype)
        mask.masked_fill_(seen, 0.0)
        return found | {"position_ids": place - first, "attention_mask": mask[:, None]}

    @override
    def shuffled(self, seed: int) -> "HFModel":
        if self.processing or self.quantisation:
            raise ConfigError(
                f"The weights of {self.name} were changed on loading; shuffled is a model as its "
                f"files hold it. Load it without `processing` and `quantisation`."
            )
        module = copied(self.module)
        with torch.no_grad():
            for name, weight in module.named_parameters():
                if weight.ndim > 1:
                    chance = generator(seed, "shuffled weights", name)
                    order = torch.randperm(weight.numel(), generator=chance).to(weight.device)
                    weight.copy_(weight.flatten()[order].view_as(weight))
        name = f"{self.name}, weights shuffled"
        revision = f"{self.revision}, seed {seed}"
        found = HFModel(module, self.tokenizer, name=name, revision=revision)
        found.separator_id = self.separator_id
        return found

    @override
    def unembedding(self) -> Float[Tensor, "vocab d_model"]:
        return self.module.get_output_embeddings().weight.detach()

    def _checked(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] > self.n_ctx_max:
            raise ShapeError(
                f"{self.name} reads rows of at most {self.n_ctx_max} tokens; got "
                f"{tokens.shape[1]}. Use a shorter context."
            )
        # An id without a row ends a CPU run in an IndexError, and on CUDA kills the process.
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            wrong = int(tokens.max()) if int(tokens.min()) >= 0 else int(tokens.min())
            raise beyond_embedding(self.tokenizer, wrong, self.vocab_size, f"for {self.name}")
        return tokens.to(self.device, non_blocking=True)

    @contextlib.contextmanager
    def _hooked(
        self, visits: list[tuple[Site, Visit]], grad: bool, shape: tuple[int, ...]
    ) -> Iterator[None]:
        """Run one pass with hooks at some sites; hooks of two passes would mix."""
        if self._holder == threading.get_ident():
            raise RuntimeError("A replacement may not run the model it is part of.")
        with self._lock, torch.set_grad_enabled(grad), contextlib.ExitStack() as undo:
            self._holder, self._shape = threading.get_ident(), (shape[0], shape[1])
            undo.callback(setattr, self, "_holder", None)
            if grad:
                undo.callback(self._attach(EMBED, _require_grad).remove)
                undo.enter_context(SharedAttention())
            for site, visit in visits:
                undo.callback(self._attach(site, visit).remove)
            yield

    @property
    def hf(self) -> Any:
        """The transformers model itself: ``lm.hf(ids)``, ``lm.hf.generate(...)``.

        Inside a splice its passes go through the SAEs too, with its cache and its padding.
        """
        return self.module

    @override
    def own_passes(self) -> contextlib.AbstractContextManager[None]:
        return OwnPasses(self)

    def begin_own_pass(
        self, tokens: Tensor, start: int, *, whole: bool
    ) -> contextlib.ExitStack | None:
        """Hang what is attached to the model on its modules, for a pass of the library's own.

        Args:
            tokens: ids of the pass.
            start: position of the first of them in its row.
            whole: these are rows from their beginning, without padding.

        Returns:
            what takes it off again; None in a pass of ours, which has its hooks.
        """
        if self._holder == threading.get_ident():
            return None
        undo = contextlib.ExitStack()
        self._rows = tokens if whole else None
        undo.callback(setattr, self, "_rows", torch.zeros(1, 0))
        self._shape = (tokens.shape[0], tokens.shape[1])
        try:
            for site, visit in self._changes(tokens, None, start):
                undo.callback(self._attach(site, visit).remove)
        except BaseException:
            undo.close()
            raise
        return undo

    @property
    def state_name(self) -> str:
        """What the model calls what it keeps between tokens."""
        try:
            return self._state[0]
        except SaekitError:  # a model that cannot generate
            return "past_key_values"

    @override
    def _whole_rows(self, tokens: Tensor, start: int) -> Tensor:
        if self._rows is None:
            raise ConfigError(
                "An SAE that codes several sites jointly is coded from a pass over whole rows, "
                "which are not known here. Generate with lm.generate, or with use_cache=False, and "
                "without padding."
            )
        return self._rows.to(tokens.device) if start else tokens

    def tap(self, site: Site) -> Tap:
        """Return where in the decoder a site is."""
        if site.layer is None:
            return Tap(self._map.embed, "output")
        return self._map.layers[site.layer][site.point]

    def _changes(
        self, tokens: Tensor, replace: Mapping[Site, Replace] | None, start: int = 0
    ) -> list[tuple[Site, Visit]]:
        """Return what writes at each site of a pass, in the order the pass meets them."""
        changes = self.replacing(tokens, replace, start)
        ordered = sorted(changes, key=self._place)
        return [(site, self._change(site, changes[site])) for site in ordered]

    def _place(self, site: Site) -> tuple[int, int]:
        """Return the place of a site in a pass; of a layer's points, heads come after the whole."""
        if site.layer is None:
            return -1, 0
        return site.layer * len(POINTS) + POINTS.index(site.point), site.head is not None

    def _change(self, site: Site, change: Replace) -> Visit:
        shared = self.tap(site).shared

        def visit(x: Tensor) -> Tensor:
            # A shared tensor is written over afterwards, so `change` gets one of its own.
            new = change(x.to(self.device, copy=shared))
            if new.shape != x.shape:
                raise ShapeError(
                    f"The replacement at `{site}` must keep the shape {tuple(x.shape)}; it "
                    f"returned {tuple(new.shape)}."
                )
            return new.to(x)

        return visit

    def _through(self, site: Site, visit: Visit) -> Visit:
        """Return a visit of a module's tensor that shows and writes what is at the site in it."""
        tap = self.tap(site)
        norm = self._norms[tap.norm.format(i=site.layer)] if tap.norm else None
        head = None
        if site.head is not None:
            width = self.width(site)
            head = slice(site.head * width, (site.head + 1) * width)

        def through(x: Tensor) -> Tensor | None:
            # Some modules take all tokens in one row, or carry several streams.
            whole = x.view(*self._shape, -1) if x.ndim == 2 else x
            whole = whole if tap.stream is None else whole[tap.stream]
            part = whole if head is None else whole[..., head]
            part = part if norm is None else norm.without(part)
            part = part.clone() if tap.overwritten else part
            new = visit(part)
            if new is None or new is part:
                return None
            if head is not None:
                new = torch.cat([whole[..., : head.start], new, whole[..., head.stop :]], -1)
            new = new if norm is None else norm.again(new)
            new = new.clone() if tap.overwritten else new
            if tap.stream is not None:
                streams = list(x.unbind(0))
                streams[tap.stream] = new
                return torch.stack(streams)
            return new.reshape(x.shape)

        return through

    def module_at(self, site: Site) -> nn.Module:
        """Return the module whose input or output a site is."""
        return self._submodule(self.tap(site).module.format(i=site.layer), site)

    def normalised(self, site: Site, x: Tensor) -> Tensor:
        """Return what the norm of `mlp_normalized` makes of the stream, by its formula."""
        return self._norms[self.tap(site).norm.format(i=site.layer)].normalised(x)

    def _submodule(self, path: str, site: Site) -> nn.Module:
        try:
            return self._decoder.get_submodule(path)
        except AttributeError as error:
            raise FormatError(
                f"The map of sites of {self.family} is wrong for {self.name}: `{site}` should "
                f"be at module `{path}`, which it has not."
            ) from error

    def _attach(self, site: Site, visit: Visit) -> RemovableHandle:
        tap, visit = self.tap(site), self._through(site, visit)
        module = self.module_at(site)
        if tap.side == "output":
            return module.register_forward_hook(_after(visit))
        return module.register_forward_pre_hook(_before(visit, tap.shared), with_kwargs=True)


def _require_grad(x: Tensor) -> None:
    # The weights are frozen, so the graph begins at the token embedding.
    x.requires_grad_()


def _after(visit: Visit) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if not isinstance(output, tuple | list):
            return visit(output)
        new = visit(output[0])
        return None if new is None else type(output)((new, *output[1:]))

    return hook


def _before(visit: Visit, shared: bool) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = structure.taken(args, kwargs)
        new = visit(x)
        if new is None:
            return None
        if shared:
            new = x.copy_(new)
        return ((new, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": new})

    return hook


def load(  # noqa: PLR0913 - what can be asked of a model's weights
    name: str = DEFAULT,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    check: bool = True,
    device_map: str | Mapping[str, Any] | None = None,
    quantisation: str | None = None,
    processing: str | None = None,
) -> LanguageModel:
    """Return a language model, ready to read.

    Args:
        name: several that read the same tokens, as ``base=NAME,chat=NAME`` (see `Together`); or
            an embedded model, a folder that transformers wrote, a name on the hub, or the
            short name that TransformerLens gives one. A folder of that name comes first.
        revision: branch, tag or commit on the hub; None is its main branch. Only for hub names.
            The commit it stands for is the model's `revision`.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 where the
            hardware multiplies it fast, else float32.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: CUDA where there is any.
        check: prove the map of sites on this model (`selfcheck`).
        device_map: where each part of a larger model goes, instead of `device`: ``auto``, or
            devices by module, as transformers and accelerate take it. Activations come on the
            device of the embedding.
        quantisation: ``8bit`` or ``4bit``, by bitsandbytes; the rest is in `dtype`.
        processing: ``transformer_lens`` folds and centres weights as TransformerLens does; the
            logits are the same but for one number a position. See `processing`.

    Raises:
        UnknownNameError: nothing has this name, or its type has no map of sites.
        ResourceError: the device is absent, or the model cannot be fetched.
        FormatError: the files are damaged, lack weights or have others, need code of their own
            to run, or the self-check failed.
        ConfigError: `dtype` or `device` is not one of those above, a `revision` is given
            for files on this machine, or `processing` does not hold for this model.
        MissingExtraError: transformers is not installed, or what `device_map` or `quantisation`
            need.
    """
    if processing not in (None, "transformer_lens"):
        raise ConfigError(f"`processing` must be transformer_lens; got {processing!r}.")
    if processing and quantisation:
        raise ConfigError("Quantised weights cannot be processed. Leave out one of the two.")
    if not Path(name).expanduser().is_dir() and (several := together.named(name)):
        one = functools.partial(
            load,
            dtype=dtype,
            device=device,
            check=check,
            device_map=device_map,
            quantisation=quantisation,
            processing=processing,
        )
        if revision is not None:
            raise ConfigError("`revision` is for one model on the hub; leave it out of several.")
        return together.Together({short: one(known) for short, known in several.items()})
    library = _transformers()
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    spread = spread_settings(library, device_map, quantisation, kind)
    folder = _local(name)
    if folder is not None and revision is not None:
        raise ConfigError(
            f"`revision` is for models on the hub; `{name}` is on this machine. Leave it out."
        )
    commit = None
    if folder is None:
        name = full_name(name)
        folder, commit = fetch_model(name, revision, f"Check the name and the network. {_known()}")
    with _readable_errors(name), quiet(library):
        config = read_config(library, folder, name)
        if config.model_type not in causal_types():
            raise UnknownNameError(
                f"`{name}` of type `{config.model_type}` is no causal language model that "
                f"transformers loads as one. Name a model that continues text."
            )
        check_weight_files(folder, name)
        tokenizer = _tokenizer_of(library, folder, config.get_text_config().vocab_size)
        module = load_weights(library, folder, config, kind, name, spread)
    made_of = commit or (MODELS[name].sha256 if name in MODELS else weights_revision(folder))
    module = module if spread else module.to(place)
    model = HFModel(module, tokenizer, name=name, revision=made_of)
    model.quantisation = quantisation
    if processing:
        from saekit.models.processing import process

        process(model)
    if check:
        from saekit.models.selfcheck import check as prove

        prove(model)
    return model


def load_tokenizer(name: str) -> HFTokenizer:
    """Return the tokenizer of a model alone.

    Args:
        name: as for `load`.

    Raises:
        UnknownNameError, ResourceError, FormatError, MissingExtraError: as `load`.
    """
    library = _transformers()
    folder = _local(name)
    if folder is None:
        name = full_name(name)
        folder, _ = fetch_model(name, None, f"Check the name and the network. {_known()}")
    with _readable_errors(name), quiet(library):
        return _tokenizer_of(library, folder, None)


def new_module(model_type: str, settings: dict[str, Any]) -> Any:
    """Return a fresh causal language model of transformers, made from a configuration.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    library = _transformers()
    config = library.AutoConfig.for_model(model_type, **settings)
    return library.AutoModelForCausalLM.from_config(config)


def causal_types() -> frozenset[str]:
    """Return the model types of which transformers has causal language models.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    _transformers()
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def default_settings(model_type: str) -> frozenset[str]:
    """Return the names of the settings that a model type has.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    config = _transformers().AutoConfig.for_model(model_type)
    return frozenset(config.to_dict()) | frozenset(config.attribute_map)


def _rows_can_leave(cache: Any) -> bool:
    """Tell whether rows of a batch can be dropped; a recurrent layer's state has no such way."""
    layers = getattr(cache, "layers", None)
    return bool(layers) and all(
        hasattr(layer, "batch_select_indices") and not hasattr(layer, "recurrent_states")
        for layer in layers
    )


class _DecoderOutput:
    """What a decoder returns, of a last hidden state alone; all else is None."""

    def __init__(self, final: Tensor):
        self.last_hidden_state = final

    def __getitem__(self, i: Any) -> Any:
        return (self.last_hidden_state,)[i]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _map_of(module: Any, config: Any) -> SiteMap:
    """Return where the sites of a model are, by its family or by its structure."""
    family = family_of(config.model_type)
    if family is None:
        return structure.find(module, config)
    points = family.points(config)
    left_out = {
        str(Site(i, point)): "attention and MLP are added to the stream together"
        for i in range(config.num_hidden_layers)
        for point in POINTS
        if point not in points
    }
    layers = [points] * config.num_hidden_layers
    return SiteMap(family.name, family.embed, family.final_norm, layers, left_out)


def _is_spread(module: Any) -> bool:
    """Tell a model that accelerate put on devices, or whose weights are of 8 or 4 bits."""
    return hasattr(module, "hf_device_map") or bool(getattr(module, "is_quantized", False))


def _device_of(module: Any) -> torch.device:
    """Return the device of the token embedding, where a pass begins."""
    embedding = module.get_input_embeddings()
    device = embedding.weight.device
    if device.type != "meta":
        return device
    return torch.device(embedding._hf_hook.execution_device)  # its weights wait elsewhere


def _n_ctx_max(config: Any) -> int:
    """Return the tokens of the longest row; models that say none have no limit of their own."""
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    said = (getattr(config, name, None) for name in names)
    return next((n for n in said if isinstance(n, int) and n > 0), NO_LIMIT)


def _in_features(module: Any) -> int:
    """Return how many numbers a linear map reads."""
    found = getattr(module, "in_features", None)
    return int(module.weight.shape[0] if found is None else found)  # Conv1D's weight is [in, out]


def _local(name: str) -> Path | None:
    """Return the folder a name stands for on this machine; None for a name on the hub."""
    if name in MODELS:
        return embedded(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    is_path = name.startswith(("/", ".", "~")) or name.count("/") > 1
    if is_path or "/" not in full_name(name):
        if why := UNREADABLE.get(name.lower()):
            raise UnknownNameError(
                f"There is no model or folder `{name}`. TransformerLens has one of this name, but "
                f"{why}."
            )
        raise UnknownNameError(f"There is no model or folder `{name}`. {_known(name)}")
    return None


def _known(name: str = "") -> str:
    near = nearest(name, {*MODELS, *SHORT_NAMES}, cutoff=0.8) if name else ""
    return (
        f"A model is an embedded one ({', '.join(MODELS)}), a folder, a name on the hub such as "
        f"EleutherAI/pythia-70m, or a short name of TransformerLens such as gpt2-small.{near}"
    )


def copied(module: Any) -> Any:
    """Return a module of its own weights, without what was hung on its layers."""
    found = type(module)(module.config).to(module.device, module.dtype)
    found.load_state_dict(module.state_dict())
    return found


def weights_revision(folder: Path) -> str:
    """Return what a model in a folder has for a revision: a digest of its files of weights."""
    weights = sorted(folder.glob("*.safetensors"))
    return digest(part for file in weights for part in (file.name, sha256_of(file)))


def _tokenizer_of(library: Any, folder: Path, n_embedded: int | None) -> HFTokenizer:
    found = library.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise FormatError(
            f"{folder} has no fast tokenizer (tokenizer.json); text could not be shown token "
            f"by token. Convert it with transformers first."
        )
    special = SpecialIds(found.bos_token_id, found.eos_token_id, found.pad_token_id)
    chats = found if isinstance(found.chat_template, str) else None
    return HFTokenizer(backend, special, n_embedded=n_embedded, chats=chats)


@contextlib.contextmanager
def _readable_errors(name: str) -> Iterator[None]:
    """Say in one paragraph what transformers says in a page."""
    try:
        yield
    except SaekitError:
        raise
    except Exception as error:  # whatever damaged or odd files make transformers raise
        reason = str(error).strip().partition("\n")[0].rstrip(".:") or type(error).__name__
        raise FormatError(
            f"`{name}` could not be loaded: {reason}. The folder needs config.json, "
            f"*.safetensors and tokenizer.json, whole and of one model."
        ) from error


@contextlib.contextmanager
def quiet(library: Any) -> Iterator[None]:
    """Hide the progress bars and advice of transformers while a model is loaded."""
    log, hub = library.utils.logging, logging.getLogger("huggingface_hub")
    level, hub_level, bars = log.get_verbosity(), hub.level, log.is_progress_bar_enabled()
    log.set_verbosity_error()
    hub.setLevel(logging.ERROR)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            log.enable_progress_bar()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "lm") from error
    return transformers


def about_parameters(lm: LanguageModel) -> int:
    """Return how many weights a model has; if it does not tell, 12 d² a layer and an embedding."""
    if isinstance(lm, HFModel):
        return sum(p.numel() for p in lm.module.parameters())
    return 12 * lm.n_layers * lm.d_model**2 + lm.vocab_size * lm.d_model
