"""HFModel: transformers models by forward hooks, stopping after the last site read."""

import contextlib
import copy
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from saekit.models import selfcheck, together
from saekit.models.base import LanguageModel, Replace, Tokenizer
from saekit.models.embedded.unpacking import DEFAULT, MODELS, embedded
from saekit.models.family import Tap, family_of
from saekit.models.fast_gradients.linear import freeze_linears
from saekit.models.fast_gradients.mlp import freeze_mlps
from saekit.models.fast_gradients.shared import SharedAttention, freeze_activations
from saekit.models.generation import Sampling, Step, check_prompts, continued
from saekit.models.model_files import fetch_model
from saekit.models.placement import pick_device, pick_dtype
from saekit.models.short_names import SHORT_NAMES, full_name
from saekit.models.sites import EMBED, Site
from saekit.models.tokenizer import HFTokenizer, SpecialIds
from saekit.models.whole import check_weight_files, load_weights, read_config

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
        freeze_linears(self.module)
        freeze_activations(self.module)
        freeze_mlps(self.module)
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
                found[site] = x
                if len(found) == len(wanted):
                    raise _Stop

            return visit

        visits = [*self._changes(tokens, replace), *((s, keep(s)) for s in wanted)]
        if wanted:
            with self._hooked(visits, grad), contextlib.suppress(_Stop):
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
        with self._hooked(self._changes(tokens, replace), grad):
            return self.module(**self._inputs(tokens)).logits

    @override
    def final(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        replace: Mapping[Site, Replace] | None = None,
    ) -> Float[Tensor, "batch n_ctx d_model"]:
        with self._hooked(self._changes(tokens, replace), grad=False):
            return self._decoder(**self._inputs(tokens)).last_hidden_state

    @override
    @torch.no_grad()
    def unembed(self, final: Float[Tensor, "m d_model"]) -> Float[Tensor, "m vocab"]:
        # The model's own forward does what follows its decoder, whatever that is in its family;
        # the decoder is stood in for by what it gave before.
        output = _decoder_output(final[None])
        ids = torch.zeros(1, len(final), dtype=torch.int64, device=final.device)
        own = self._decoder.__dict__.get("forward")
        with self._lock:
            self._decoder.forward = lambda *_, **__: output
            try:
                return self.module(input_ids=ids, use_cache=False).logits[0]
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
        return masks + config.num_attention_heads * n_ctx**2 * (2 * item + 4)

    @override
    @torch.no_grad()
    def continue_tokens(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        replace: Mapping[Site, Replace] | None = None,
        stop: Sequence[int] | None = None,
        batch_rows: int = 32,
    ) -> list[list[int]]:
        sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
        check_prompts(prompts, n, self.vocab_size, self.n_ctx_max)
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

        def begin() -> Step:
            cache: Any = None
            start = 0

            def step(new: Tensor, keep: Tensor | None) -> Tensor:
                nonlocal cache, start
                if keep is not None:
                    cache.batch_select_indices(keep.to(self.device))
                with self._hooked(self._changes(new, replace, start), grad=False):
                    out = self.module(
                        input_ids=new.to(self.device), past_key_values=cache, use_cache=True,
                        logits_to_keep=1,
                    )  # fmt: skip
                cache = out.past_key_values
                start += new.shape[1]
                return out.logits[:, -1]

            return step

        return continued(prompts, n, begin, sampling, ends, batch_rows)

    @override
    @torch.no_grad()
    def logit_effects(
        self, directions: Float[Tensor, "m d_model"]
    ) -> Float[Tensor, "m vocab"]:
        norm: Any = self._decoder.get_submodule(self._family.final_norm)
        rows = directions.to(self.device, torch.float32)
        if isinstance(norm, nn.LayerNorm):
            rows = rows - rows.mean(-1, keepdim=True)
        rows = rows * (norm.weight.float() + self._family.gain_offset)
        unembed = self.module.get_output_embeddings().weight  # [vocab, d_model]
        parts = [rows @ w.float().T for w in unembed.split(VOCAB_CHUNK_ROWS)]
        return torch.cat(parts, dim=-1)

    @override
    def separated(self) -> "HFModel":
        if self.tokenizer.eos_id is None:
            raise ConfigError(
                f"Documents are separated at EOS, which the tokenizer of {self.name} has not. "
                f"Leave `separate_documents` out."
            )
        twin = copy.copy(self)
        twin.separator_id = self.tokenizer.eos_id
        return twin

    def _inputs(self, tokens: Tensor) -> dict[str, Any]:
        ids = self._checked(tokens)
        found: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if self.separator_id is None:
            return found
        window = getattr(self.module.config.get_text_config(), "sliding_window", None)
        if window is not None and ids.shape[1] > window:
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
        module = _copied(self.module)
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
    def _hooked(self, visits: list[tuple[Site, Visit]], grad: bool) -> Iterator[None]:
        """Run one pass with hooks at some sites; hooks of two passes would mix."""
        if self._holder == threading.get_ident():
            raise RuntimeError("A replacement may not run the model it is part of.")
        with self._lock, torch.set_grad_enabled(grad), contextlib.ExitStack() as undo:
            self._holder = threading.get_ident()
            undo.callback(setattr, self, "_holder", None)
            if grad:
                undo.callback(self._attach(EMBED, _require_grad).remove)
                undo.enter_context(SharedAttention())
            for site, visit in visits:
                undo.callback(self._attach(site, visit).remove)
            yield

    def _tap(self, site: Site) -> Tap:
        return Tap(self._family.embed, "output") if site == EMBED else self._points[site.point]

    def _changes(
        self, tokens: Tensor, replace: Mapping[Site, Replace] | None, start: int = 0
    ) -> list[tuple[Site, Visit]]:
        """Return what writes at each site of a pass, in the order the pass meets them."""
        changes = self.replacing(tokens, replace, start)
        ordered = sorted((self.check_site(s) for s in changes), key=self._sites.index)
        return [(site, self._change(site, changes[site])) for site in ordered]

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

    def _submodule(self, path: str, site: Site) -> nn.Module:
        try:
            return self._decoder.get_submodule(path)
        except AttributeError as error:
            raise FormatError(
                f"The map of sites of {self.family} is wrong for {self.name}: `{site}` should "
                f"be at module `{path}`, which it has not."
            ) from error

    def _attach(self, site: Site, visit: Visit) -> RemovableHandle:
        tap = self._tap(site)
        module = self._submodule(tap.module.format(i=site.layer), site)
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


def load(
    name: str = DEFAULT,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    check: bool = True,
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

    Raises:
        UnknownNameError: nothing has this name, or its type has no map of sites.
        ResourceError: the device is absent, or the model cannot be fetched.
        FormatError: the files are damaged, lack weights or have others, need code of their own
            to run, or the self-check failed.
        ConfigError: `dtype` or `device` is not one of those above, or a `revision` is given
            for files on this machine.
        MissingExtraError: transformers is not installed.
    """
    if not Path(name).expanduser().is_dir() and (several := together.named(name)):
        one = functools.partial(load, dtype=dtype, device=device, check=check)
        if revision is not None:
            raise ConfigError("`revision` is for one model on the hub; leave it out of several.")
        return together.Together({short: one(known) for short, known in several.items()})
    library = _transformers()
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    folder = _local(name)
    if folder is not None and revision is not None:
        raise ConfigError(
            f"`revision` is for models on the hub; `{name}` is on this machine. Leave it out."
        )
    commit = None
    if folder is None:
        name = full_name(name)
        folder, commit = fetch_model(name, revision, f"Check the name and the network. {_known()}")
    with _readable_errors(name), _quiet(library):
        config = read_config(library, folder, name)
        family_of(config.get_text_config().model_type)
        check_weight_files(folder, name)
        tokenizer = _tokenizer_of(library, folder, config.get_text_config().vocab_size)
        module = load_weights(library, folder, config, kind, name)
    made_of = commit or (MODELS[name].sha256 if name in MODELS else _revision(folder))
    model = HFModel(module.to(place), tokenizer, name=name, revision=made_of)
    if check:
        selfcheck.check(model)
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
    with _readable_errors(name), _quiet(library):
        return _tokenizer_of(library, folder, None)


def new_module(model_type: str, settings: dict[str, Any]) -> Any:
    """Return a fresh causal language model of transformers, made from a configuration.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    library = _transformers()
    config = library.AutoConfig.for_model(model_type, **settings)
    return library.AutoModelForCausalLM.from_config(config)


def _decoder_output(final: Tensor) -> Any:
    """Return what a decoder of transformers returns, of a last hidden state alone."""
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=final)  # type: ignore


def _local(name: str) -> Path | None:
    """Return the folder a name stands for on this machine; None for a name on the hub."""
    if name in MODELS:
        return embedded(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    is_path = name.startswith(("/", ".", "~")) or name.count("/") > 1
    if is_path or "/" not in full_name(name):
        raise UnknownNameError(f"There is no model or folder `{name}`. {_known(name)}")
    return None


def _known(name: str = "") -> str:
    near = nearest(name, {*MODELS, *SHORT_NAMES}, cutoff=0.8) if name else ""
    return (
        f"A model is an embedded one ({', '.join(MODELS)}), a folder, a name on the hub such as "
        f"EleutherAI/pythia-70m, or a short name of TransformerLens such as gpt2-small.{near}"
    )


def _copied(module: Any) -> Any:
    """Return a module of its own weights, without what was hung on its layers."""
    found = type(module)(module.config).to(module.device, module.dtype)
    found.load_state_dict(module.state_dict())
    return found


def _revision(folder: Path) -> str:
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
def _quiet(library: Any) -> Iterator[None]:
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
