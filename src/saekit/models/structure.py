"""Structure: where the sites of a model are, found from what its modules give in one pass.

A block adds to the stream. Which of its modules' outputs are what it adds is found by trying: those
that sum to what comes after. So a map needs no names of modules, and holds for any block of a known
kind: attention, then MLP, with norms before or after either; both from one stream; one alone. What
does not sum is left out, with the reason.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from saekit.core.errors import UnknownNameError
from saekit.models.family import SiteMap, Tap
from saekit.models.sites import POINTS, Site

N_TOKENS = 6
_ROUNDINGS = 4  # of the dtype, of each term of a sum, by which it may be off
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(r"mlp|feed_?forward|ffn|moe", re.IGNORECASE)
_EXPERTS = re.compile(r"expert|router", re.IGNORECASE)
_STREAM_ALONE = {"rwkv": "both halves of a block mix tokens, so neither is an MLP or attention"}
_NOT_SUMMED = "{} is not the stream before it plus what a module of the block gives"


@dataclass
class _Call:
    """One module of a block in the pass; tensors that are no activations of the stream are None."""

    path: str  # below the block
    module: nn.Module
    start: int
    x: Tensor | None
    end: int = -1
    y: Tensor | None = None
    y_own: Tensor | None = None  # the very tensor, to see whether the block writes over it

    @property
    def depth(self) -> int:
        return self.path.count(".")

    @property
    def names(self) -> str:
        return f"{self.path} {type(self.module).__name__}"

    def within(self, other: "_Call") -> bool:
        return self.path == other.path or self.path.startswith(f"{other.path}.")


class _Added(NamedTuple):
    """What a block adds to the stream: ``scale * y`` of a call."""

    call: _Call
    scale: float


@dataclass
class _Pass:
    """What a pass through one block met."""

    shape: tuple[int, ...]  # [batch, n, d_model]
    clock: int = 0
    open: list[_Call] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)

    def values(self, x: Any) -> Tensor | None:
        """Return a tensor of activations of the stream, as [tokens, d_model], copied."""
        width, size = self.shape[-1], torch.Size(self.shape).numel()
        if not isinstance(x, Tensor) or x.numel() != size or x.shape[-1] != width:
            return None
        return x.detach().reshape(-1, width).clone()


def find(module: Any, config: Any) -> SiteMap:
    """Return the map of a model that no family has, from one pass of 6 tokens.

    Args:
        module: a ``...ForCausalLM`` of transformers, in evaluation mode.
        config: the text part of its configuration.

    Raises:
        UnknownNameError: its structure is none of those known; the message says what was looked
            for.
    """
    decoder, kind = decoder_of(module), config.model_type
    embed = _path_of(decoder, module.get_input_embeddings())
    if embed is None:
        raise _refusal(kind, "its decoder has no token embedding of its own")
    lists = (
        name
        for name, m in decoder.named_modules()
        if isinstance(m, nn.ModuleList) and len(m) == config.num_hidden_layers
    )
    blocks = next(lists, None)
    if blocks is None:
        raise _refusal(kind, f"its decoder has no list of {config.num_hidden_layers} blocks")
    search = _Search(decoder, blocks, config)
    final = search.run(module)
    left_out = {
        str(Site(i, point)): reason
        for i, layer in enumerate(search.reasons)
        for point, reason in layer.items()
    }
    return SiteMap(kind, embed, final, search.layers, left_out)


def decoder_of(module: Any) -> Any:
    """Return the part of a model that makes the last hidden state of tokens."""
    decoder = module.get_decoder()
    if decoder is not module:
        return decoder
    embedding = module.get_input_embeddings()
    inside = (part for part in module.children() if _path_of(part, embedding) is not None)
    return next((part for part in inside if part is not embedding), module)


class _Search:
    """A pass of a decoder, during which each block is looked at when it has run."""

    def __init__(self, decoder: Any, blocks: str, config: Any):
        self.decoder, self.blocks, self.config = decoder, blocks, config
        self.layers: list[dict[str, Tap]] = []
        self.reasons: list[dict[str, str]] = []
        self.outside: list[_Call] = []  # modules that run on the stream after the last block
        self.last: Tensor | None = None  # what the last block gave
        self.shared: set[int] = set()  # modules that several blocks use
        self.stream = getattr(config, "altup_active_idx", None)  # Gemma 3n carries several

    def run(self, module: Any) -> str | None:
        """Return the path of the final norm, after every block was looked at."""
        hooks = []
        blocks = self.decoder.get_submodule(self.blocks)
        # A hook on a module that several blocks share could not tell which of them runs.
        uses = Counter(id(part) for block in blocks for part in block.modules())
        self.shared = {part for part, n in uses.items() if n > 1}
        if len({id(block) for block in blocks}) < len(blocks):
            raise _refusal(self.config.model_type, f"blocks in `{self.blocks}` are one module")
        for i, block in enumerate(blocks):
            hooks += self._watch(i, block)
        for name, part in self.decoder.named_modules():
            if name and not f"{name}.".startswith(f"{self.blocks}."):
                hooks.append(part.register_forward_hook(self._after_blocks(name)))
        tokens = torch.arange(N_TOKENS)[None] * 7919 % self.config.vocab_size
        tokens = tokens.to(module.get_input_embeddings().weight.device)
        try:
            with torch.no_grad():
                out = self.decoder(input_ids=tokens, use_cache=False).last_hidden_state
        except Exception as error:  # whatever a model of another kind makes of text
            why = f"it does not read text alone ({type(error).__name__}: {str(error)[:100]})"
            raise _refusal(self.config.model_type, why) from error
        finally:
            for hook in hooks:
                hook.remove()
        if len(self.layers) != len(blocks):
            raise _refusal(
                self.config.model_type,
                f"of the {len(blocks)} blocks in `{self.blocks}`, {len(self.layers)} ran once each "
                f"and in order on activations [batch, n, {self.config.hidden_size}]",
            )
        if self.last is not None and _same(out, self.last):
            return ""
        norms = (c.path for c in self.outside if _same(c.x, self.last) and _same(c.y, out))
        return next(norms, None)

    def _watch(self, layer: int, block: nn.Module) -> Iterator[Any]:
        """Yield hooks that follow one block."""
        state: list[_Pass] = []
        begun: list[Tensor] = []

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            x = self._one_stream(taken(args, kwargs))
            if x is None or layer != len(self.layers) or state:
                return
            state.append(_Pass(tuple(x.shape)))
            begun.append(x.detach().reshape(-1, x.shape[-1]).clone())

        def leave(_module: nn.Module, _args: Any, output: Any) -> None:
            if not state or layer != len(self.layers):
                return
            x = self._one_stream(first(output))
            y = None if x is None else state[0].values(x)
            if y is None:
                return
            points, reasons = self._points(state[0], begun[0], y)
            self.layers.append(points)
            self.reasons.append(reasons)
            self.last = y
            state[0].calls.clear()

        yield block.register_forward_pre_hook(enter, with_kwargs=True)
        for path, part in block.named_modules():
            if path and id(part) not in self.shared:
                yield part.register_forward_pre_hook(_open(state, path), with_kwargs=True)
                yield part.register_forward_hook(_close(state))
        yield block.register_forward_hook(leave)

    def _points(
        self, record: _Pass, before: Tensor, after: Tensor
    ) -> tuple[dict[str, Tap], dict[str, str]]:
        """Return the points of a block, at their paths below the decoder, and what is left out."""
        if why := _STREAM_ALONE.get(self.config.model_type):
            points = {"resid_pre": Tap("", "input"), "resid_post": Tap("", "output")}
            reasons = {point: why for point in POINTS if point not in points}
        else:
            points, reasons = _Block(record, before, after, self.config).points()
        stem = f"{self.blocks}.{{i}}"
        points = {
            point: tap._replace(
                module=f"{stem}.{tap.module}" if tap.module else stem,
                norm=f"{stem}.{tap.norm}" if tap.norm else "",
            )
            for point, tap in points.items()
        }
        if self.stream is not None:
            for point in ("resid_pre", "resid_post"):
                points[point] = points[point]._replace(stream=self.stream)
        return points, reasons

    def _one_stream(self, x: Any) -> Tensor | None:
        if self.stream is not None and isinstance(x, Tensor) and x.ndim == 4:
            x = x[self.stream]
        fits = isinstance(x, Tensor) and x.ndim == 3 and x.shape[-1] == self.config.hidden_size
        return x if fits else None

    def _after_blocks(self, path: str) -> Any:
        def hook(part: nn.Module, args: Any, output: Any) -> None:
            x, y = taken(args, {}), first(output)
            if isinstance(x, Tensor) and isinstance(y, Tensor) and self.layers:
                call = _Call(path, part, 0, x.detach().clone(), 0, y.detach().clone())
                self.outside.append(call)

        return hook


def _open(state: list[_Pass], path: str) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        if state:
            now = state[0]
            now.clock += 1
            now.open.append(_Call(path, module, now.clock, now.values(taken(args, kwargs))))

    return hook


def _close(state: list[_Pass]) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        if state:
            now = state[0]
            now.clock += 1
            call, y = now.open.pop(), first(output)
            call.end, call.y = now.clock, now.values(y)
            call.y_own = y if call.y is not None else None
            now.calls.append(call)

    return hook


class _Block:
    """The points of one block, from what its modules took and gave in a pass."""

    def __init__(self, record: _Pass, before: Tensor, after: Tensor, config: Any):
        self.before, self.after = before, after
        calls = record.calls
        names = [c.path for c in calls]
        # Of modules that are used again, as a dropout may be, no hook could tell the uses apart.
        self.calls = sorted((c for c in calls if names.count(c.path) == 1), key=lambda c: c.start)
        self.given = sorted(
            (c for c in self.calls if c.y is not None), key=lambda c: (c.depth, c.start)
        )
        self.has_experts = any(_EXPERTS.search(c.names) for c in calls)
        self.config = config

    def points(self) -> tuple[dict[str, Tap], dict[str, str]]:
        """Return the points that were proved, in the order of a pass, and why others were not."""
        points = {"resid_pre": Tap("", "input"), "resid_post": Tap("", "output")}
        reasons: dict[str, str] = {}
        attn = mlp = None
        middle = self._middle()
        if middle is not None:
            at, attn = middle
            points["resid_mid"] = Tap(at.path, "input", shared=True)
            assert at.x is not None
            mlp = self._added(at.x, self.after, since=at.start)
        elif one := self._added(self.before, self.after, since=0):
            of_mlp = _MLP.search(one.call.names) and not _ATTENTION.search(one.call.names)
            attn, mlp = (None, one) if of_mlp else (one, None)
            reasons["resid_mid"] = "the block adds to the stream once"
        elif pair := self._two_at_once():
            attn, mlp = pair
            reasons["resid_mid"] = "attention and MLP are added to the stream together"
        else:
            reasons["resid_mid"] = _NOT_SUMMED.format("what comes after the block")
        read = self.before if middle is None else middle[0].x
        self._attention(attn, points, reasons)
        source = self._mlp_of(mlp, middle, points, reasons)
        self._mlp(source, read, 0 if middle is None else middle[0].start, points, reasons)
        return {p: points[p] for p in POINTS if p in points}, reasons

    def _middle(self) -> tuple[_Call, _Added] | None:
        """Return the first call that takes the stream after one addition, and what was added."""
        seen: list[Tensor] = []
        for call in self.calls:
            if call.x is None or _same(call.x, self.before) or any(_same(call.x, x) for x in seen):
                continue
            added = self._added(self.before, call.x, since=0, until=call.start)
            if added is not None:
                return call, added
            seen.append(call.x)
        return None

    def _added(
        self, before: Tensor, after: Tensor, *, since: int, until: int | None = None
    ) -> _Added | None:
        """Return the outermost call whose scaled output is the difference of two streams."""
        change = after.double() - before.double()
        for call in self.given:
            if call.start < since or (until is not None and call.end > until):
                continue
            assert call.y is not None
            y = call.y.double()
            fitted = float((change * y).sum() / y.square().sum().clamp_min(1e-300))
            for scale in (1.0, fitted):
                if _sums(after, [(before, 1.0), (call.y, scale)]):
                    return _Added(call, scale)
        return None

    def _two_at_once(self) -> tuple[_Added, _Added] | None:
        """Return two calls whose scaled outputs are what the block adds: attention, then MLP."""
        change = (self.after.double() - self.before.double()).flatten()
        for i, one in enumerate(self.given):
            for two in self.given[i + 1 :]:
                if one.within(two) or two.within(one):
                    continue
                assert one.y is not None and two.y is not None
                columns = torch.stack([one.y.double().flatten(), two.y.double().flatten()], 1)
                normal = columns.T @ columns
                if torch.linalg.matrix_rank(normal) < 2:
                    continue
                fitted = torch.linalg.solve(normal, columns.T @ change).tolist()
                for scales in ([1.0, 1.0], fitted):
                    terms = [(self.before, 1.0), (one.y, scales[0]), (two.y, scales[1])]
                    if not _sums(self.after, terms):
                        continue
                    found = [_Added(one, scales[0]), _Added(two, scales[1])]
                    turned = _ATTENTION.search(two.names) and not _ATTENTION.search(one.names)
                    return (found[1], found[0]) if turned else (found[0], found[1])
        return None

    def _source(self, call: _Call) -> _Call | None:
        """Return the module that made what is added: before a norm after it, if there is one."""
        if _has_maps(call.module):
            return call
        if call.x is None:
            return None
        made = (c for c in self.given if c.end < call.start and _same(c.y, call.x))
        return next(made, None)

    def _output_map(self, source: _Call) -> _Call | None:
        """Return the linear map whose output is that of a module."""
        maps = [
            c
            for c in self.given
            if c.within(source) and _is_linear(c.module) and _same(c.y, source.y)
        ]
        return maps[-1] if maps else None

    def _tap(self, added: _Added) -> Tap:
        own, call = added.call.y_own, added.call
        assert own is not None
        changed = not _same(own.detach(), call.y)
        return Tap(call.path, "output", overwritten=changed, scale=added.scale)

    def _attention(
        self, added: _Added | None, points: dict[str, Tap], reasons: dict[str, str]
    ) -> None:
        """Add what attention adds to the stream, and what its output map reads."""
        if added is None:
            why = "the block has no attention that it adds to the stream"
            reasons["attn_out"] = reasons["z"] = why
            return
        source = self._source(added.call)
        tap = self._tap(added)
        if source is None or not _ATTENTION.search(source.names):
            points["attn_out"] = tap._replace(listed=False)
            name = source.path if source else added.call.path
            reasons["attn_out"] = reasons["z"] = f"the block mixes tokens by `{name}`, no attention"
            return
        points["attn_out"] = tap
        if added.scale != 1:
            points["attn_out"] = tap._replace(listed=False)
            reasons["attn_out"] = _scaled(added)
        output = self._output_map(source)
        if "attention" not in type(source.module).__name__.lower() and output is not source:
            reasons["z"] = f"`{source.path}` has no heads of softmax attention"
        elif output is None:
            reasons["z"] = f"no linear map in `{source.path}` gives what attention adds"
        else:
            points["z"] = Tap(output.path, "input")

    def _mlp(
        self,
        source: _Call | None,
        stream: Tensor | None,
        since: int,
        points: dict[str, Tap],
        reasons: dict[str, str],
    ) -> None:
        """Add what lies within the module that is the MLP."""
        if source is None:
            why = reasons.get("mlp_out", "what is added is the sum of several modules' outputs")
            reasons |= dict.fromkeys(("mlp_normalized", "mlp_in", "mlp_acts"), why)
            return
        down = self._output_map(source)
        if down is not None:
            points["mlp_acts"] = Tap(down.path, "input")
        elif self.has_experts:
            reasons["mlp_acts"] = "a mixture of experts has no one down projection"
        else:
            reasons["mlp_acts"] = f"no linear map in `{source.path}` gives what the MLP adds"
        reader = self._reader(source, since)
        if reader is None or reader.x is None:
            why = "no one module takes what the MLP reads"
            reasons |= dict.fromkeys(("mlp_normalized", "mlp_in"), why)
            return
        points["mlp_in"] = Tap(reader.path, "input")
        norms = (
            c
            for c in self.given
            if c.end < reader.start
            and _same(c.y, reader.x)
            and _same(c.x, stream)
            and not _has_maps(c.module)
        )
        norm = next(norms, None)
        if norm is None:
            reasons["mlp_normalized"] = "there is no norm between the stream and the MLP"
        else:
            points["mlp_normalized"] = Tap(reader.path, "input", norm=norm.path)

    def _mlp_of(
        self,
        added: _Added | None,
        middle: tuple[_Call, _Added] | None,
        points: dict[str, Tap],
        reasons: dict[str, str],
    ) -> _Call | None:
        """Add what the MLP adds to the stream, and return the module that is the MLP."""
        if added is not None:
            points["mlp_out"] = self._tap(added)
            if added.scale != 1:
                points["mlp_out"] = points["mlp_out"]._replace(listed=False)
                reasons["mlp_out"] = _scaled(added)
            return self._source(added.call)
        if middle is None:
            reasons["mlp_out"] = "the block has no MLP whose output it adds to the stream"
            return None
        reasons["mlp_out"] = (
            "what comes after the block is not resid_mid plus what one of its modules gives"
        )
        if self.has_experts:
            return None
        named = (
            c
            for c in self.calls
            if c.start >= middle[0].start
            and c.depth == 0
            and c.y is not None
            and _MLP.search(c.names)
            and _has_maps(c.module)
        )
        return next(named, None)

    def _reader(self, source: _Call, since: int) -> _Call | None:
        """Return the module whose input is what the MLP reads."""
        around = [c for c in self.calls if source.within(c) and c.x is not None]
        around = [c for c in around if not _is_linear(c.module)]
        if around:
            return min(around, key=lambda c: c.depth)
        # The maps of the MLP are the block's own: the first of them reads.
        maps = (
            c
            for c in self.calls
            if since <= c.start <= source.start and c.depth == source.depth and _is_linear(c.module)
        )
        return next(maps, None)


def taken(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the activations that a module was given."""
    return args[0] if args else kwargs.get("hidden_states")


def first(output: Any) -> Any:
    """Return the activations that a module gave."""
    return output[0] if isinstance(output, tuple | list) and output else output


def _sums(total: Tensor, terms: list[tuple[Tensor, float]]) -> bool:
    """Tell whether scaled terms sum to a total, but for rounding of each."""
    parts = [term.double() * scale for term, scale in terms]
    if any(abs(scale) < 1e-3 for _, scale in terms):
        return False
    room = torch.stack([*(p.abs() for p in parts), total.double().abs()]).sum(0)
    error = (total.double() - torch.stack(parts).sum(0)).abs()
    return bool((error <= _ROUNDINGS * torch.finfo(total.dtype).eps * room).all())


def _scaled(added: _Added) -> str:
    return f"`{added.call.path}` is multiplied by {added.scale:.4g} before it is added"


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.numel() != b.numel():
        return False
    return torch.equal(a.reshape(-1), b.reshape(-1).to(a))


def _is_linear(module: nn.Module) -> bool:
    """Tell a linear map, whatever library keeps its weights: GPT-2's Conv1D, 8 and 4 bits."""
    return (
        isinstance(module, nn.Linear)
        or type(module).__name__ == "Conv1D"
        or (hasattr(module, "in_features") and hasattr(module, "out_features"))
    )


def _has_maps(module: nn.Module) -> bool:
    """Tell what makes activations from what only scales them, as norms do."""
    return any(p.ndim > 1 for p in module.parameters())


def _path_of(decoder: nn.Module, module: nn.Module) -> str | None:
    return next((path for path, m in decoder.named_modules() if m is module), None)


def _refusal(kind: str, why: str) -> UnknownNameError:
    return UnknownNameError(
        f"Models of type `{kind}` have no map of sites, and none was found from their structure: "
        f"{why}. Looked for were a token embedding, a list of blocks, and in each block what "
        f"attention and MLP add to the stream. A map of one's own is one file in "
        f"saekit/models/families."
    )
