"""The contract of a language model: read sites, replace them, give logits."""

import abc
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, overload, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.errors import ConfigError, DataError, UnknownNameError, nearest
from saekit.models.generation import Sampling
from saekit.models.sites import Site, parse_site

Replace = Callable[[Tensor], Tensor]  # [batch, n_ctx, width] -> the same shape
SiteName: TypeAlias = Site | str
# Token ids as [batch, n_ctx], one row of ids, rows of ids, one text, or texts of equal length.
Text: TypeAlias = (
    Tensor | np.ndarray | str | Sequence[int] | Sequence[Sequence[int]] | Sequence[str]
)


class Look:
    """A replacement that leaves activations as they are, and has them afterwards."""

    def __init__(self) -> None:
        self.acts: Tensor | None = None

    def __call__(self, values: Tensor) -> Tensor:
        """Keep the values and return them."""
        self.acts = values
        return values


class Whole:
    """A replacement that writes the same activations whatever was there.

    What the model computes before a residual stream that is replaced so changes nothing, and
    need not run.

    Args:
        acts: ``[batch, n_ctx, width]``.
    """

    def __init__(self, acts: Float[Tensor, "batch n_ctx width"]):
        self.acts = acts

    def __call__(self, values: Tensor) -> Tensor:
        """Return the activations."""
        return self.acts


@runtime_checkable
class Edits(Protocol):
    """What changes activations in every pass of a model while it is attached to it."""

    def changes(
        self, tokens: Int[Tensor, "batch n"], start: int = 0
    ) -> Sequence[Mapping[Site, Replace]]:
        """Return what to write at some sites of a pass, one change after another.

        Args:
            tokens: ids of the pass.
            start: position in its row of the first of them; above 0 where keys and values of
                earlier ones are cached.
        """
        ...


class Activations(dict[Site, Tensor]):
    """Activations by site; ``acts["L10.resid_post"]`` finds what ``acts[Site(...)]`` does."""

    def __getitem__(self, site: SiteName) -> Tensor:
        return super().__getitem__(parse_site(site) if isinstance(site, str) else site)

    def __repr__(self) -> str:
        return f"Activations({', '.join(f'{s}: {list(x.shape)}' for s, x in self.items())})"


class Tokenizer(abc.ABC):
    """Text to token ids and back."""

    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    special_ids: frozenset[int]
    vocab_size: int
    n_embedded: int | None = None  # rows of its model's embedding; None: not known
    digest: str  # SHA-256 of what defines it
    adds_bos: bool = False  # left alone, it puts BOS before a text (Llama, Gemma; not GPT-2)
    chat_template: str | None = None  # Jinja; None: it has none

    @abc.abstractmethod
    def encode(self, texts: str | Sequence[str]) -> list[list[int]]:
        """Return a list of token ids for each text, without any special token added.

        Args:
            texts: several texts, or one as a plain string, which gives one list in a list.

        Raises:
            DataError: something in it is no text, as token ids, or is text that no UTF-8 can hold.
        """

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a run of ids."""

    def chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = False) -> str:
        """Return a chat as one text, by the template that came with the tokenizer.

        Args:
            messages: each with ``role`` and ``content``.
            answer: end where the model's answer begins.

        Raises:
            DataError: there is no template, or it does not take these messages.
        """
        raise DataError(
            "The tokenizer has no chat template, which says how messages become text. Use a model "
            "tuned for chat, or write the chats out as text."
        )

    @abc.abstractmethod
    def pieces(self, ids: Sequence[int]) -> list[str]:
        r"""Return one string per id, as a reader should see it.

        Joined, they are the text. Where a character spans several tokens, its first token
        holds the character and the others are empty; undecodable bytes read as ``\xNN``.
        """

    def bytes_of(self, ids: Sequence[int]) -> list[bytes]:
        """Return what each id stands for in a text, as bytes of UTF-8; a character may span ids.

        Raises:
            DataError: this tokenizer does not tell.
        """
        raise DataError("This tokenizer does not tell which bytes its tokens are.")


def as_texts(texts: str | Sequence[Any]) -> list[str]:
    """Return texts as a list; one plain string is one text, never a text a letter.

    Raises:
        DataError: something in it is no text, as token ids, or has a lone surrogate.
    """
    found = [texts] if isinstance(texts, str) else list(texts)
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise DataError(
                f"Text {i} to be encoded must be a string; got {text!r:.60} "
                f"({type(text).__name__}). Token ids need no encoding: give them to the model as "
                f"a tensor [batch, n_ctx]."
            )
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"Text {i} to be encoded has half a surrogate pair, {text[error.start]!r}, at "
                    f"character {error.start:,}, which is no text. Put another character there."
                ) from error
    return found


def composed(changes: Sequence[Mapping[Site, Replace]]) -> dict[Site, Replace]:
    """Return several changes as one, each made on what those before it wrote."""
    found: dict[Site, Replace] = {}
    for one in changes:
        for site, change in one.items():
            found[site] = _after(found.get(site), change)
    return found


def _after(first: Replace | None, second: Replace) -> Replace:
    """Return one change after another at the same site."""
    return second if first is None else lambda x: second(first(x))


def default_site(model: "LanguageModel") -> str:
    """Return the site that is read where none is named: a third of the way up the layers."""
    return str(model.sites()[0]._replace(layer=model.n_layers // 3, point="resid_post"))


def refuse_edits(model: "LanguageModel") -> None:
    """Refuse a model inside a splice, whose activations would be recorded as the model's own.

    Raises:
        ConfigError: SAEs are spliced into it.
    """
    if model.edits:
        raise ConfigError(
            "SAEs are spliced into this model, so what is measured now would not be the model's "
            "own. Leave the `with saekit.splice(...)` block first."
        )


class LanguageModel(abc.ABC):
    """A causal language model whose activations can be read and replaced.

    Rows are full: there is no padding. Activations come in `dtype`, on `device`. Where tokens are
    taken, text is too (see `tokens`), and sites may be given by name.
    """

    name: str  # hub name or folder
    revision: str  # hub commit, or SHA-256 of the weight files
    family: str
    n_layers: int
    d_model: int
    vocab_size: int
    n_ctx_max: int
    tokenizer: Tokenizer
    dtype: torch.dtype
    device: torch.device
    separator_id: int | None = None  # ends a document that later ones do not attend to
    left_out: Mapping[str, str] = {}  # sites that other models have and this one has not: why
    edits: tuple[Edits, ...] = ()  # made in every pass, in this order: see `saekit.splice`

    @abc.abstractmethod
    def sites(self) -> list[Site]:
        """Return every site of this model, in the order a forward pass meets them."""

    @abc.abstractmethod
    def width(self, site: Site) -> int:
        """Return the last dimension of the activations at a site."""

    def n_heads(self, site: Site) -> int:
        """Return the heads whose parts of a site are sites too, as ``L3.z.h2``; 0: none are.

        They are not in `sites`.
        """
        del site
        return 0

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{type(self).__name__}({self.name}: {self.family}, {self.n_layers} layers of width "
            f"{self.d_model}, {dtype} on {self.device})"
        )

    def tokens(self, text: Text, *, bos: bool = True) -> Int[Tensor, "batch n_ctx"]:
        """Return rows of token ids.

        Args:
            text: one text, texts that have equally many tokens, ids of one row or of several, or
                a tensor of ids.
            bos: put BOS before each text, where the tokenizer has one, as training does. Ids are
                taken as they are.

        Raises:
            DataError: there is nothing in it, texts and ids are mixed, or rows differ in length.
        """
        if isinstance(text, Tensor):
            if text.is_floating_point() or text.ndim not in (1, 2):
                raise DataError(
                    f"Token ids are whole numbers of shape [batch, n_ctx] or [n_ctx]; got "
                    f"{text.dtype} of shape {list(text.shape)}."
                )
            return text if text.ndim == 2 else text[None]
        if isinstance(text, bytes) or not hasattr(text, "__iter__"):
            raise DataError(
                f"Text is a string, or a list of them or of token ids; got {text!r:.40} "
                f"({type(text).__name__})."
            )
        if isinstance(text, np.ndarray):
            return self.tokens(torch.as_tensor(text), bos=bos)
        rows = [text] if isinstance(text, str) else list(text)
        if rows and isinstance(rows[0], int):
            rows = [rows]
        if rows and isinstance(rows[0], str):
            ids = self.tokenizer.encode(rows)  # type: ignore[arg-type]
            start = [self.tokenizer.bos_id] if bos and self.tokenizer.bos_id is not None else []
            rows = [[*start, *row] for row in ids]
        lengths = sorted({len(row) for row in rows})  # type: ignore[arg-type]
        if not rows or lengths[0] == 0:
            raise DataError("There is no token in the text. Give at least one.")
        if len(lengths) > 1:
            raise DataError(
                f"Rows are read without padding, so they must have one length; these have "
                f"{lengths[0]} to {lengths[-1]} tokens. Read them one by one, or cut them."
            )
        return torch.tensor(rows, dtype=torch.int64)

    def site(self, name: SiteName) -> Site:
        """Return a site of this model, by its name or as it is.

        Raises:
            UnknownNameError: it has no such layer or point.
        """
        return self.check_site(parse_site(name) if isinstance(name, str) else name)

    def replacing(
        self, tokens: Int[Tensor, "batch n"], replace: Mapping[Site, Replace] | None, start: int = 0
    ) -> Mapping[Site, Replace]:
        """Return what to write in a pass: what is attached to the model, then what was asked."""
        if not self.edits:
            return replace or {}
        attached = [change for e in self.edits for change in e.changes(tokens, start)]
        return composed([*attached, replace or {}])

    def look_ahead(
        self,
        tokens: Int[Tensor, "batch n"],
        sites: Sequence[Site],
        replace: Callable[[Int[Tensor, "batch n_ctx"]], Mapping[Site, Replace]],
        start: int = 0,
        until: Edits | None = None,
    ) -> Mapping[Site, Float[Tensor, "batch n width"]]:
        """Return activations of a pass that is about to run, from a pass over whole rows.

        Args:
            tokens: ids of the pass.
            sites: which.
            replace: returns what is written in that pass, from the ids of whole rows.
            start: position of the first token in its row; above 0 where the pass goes on from keys
                and values that are kept. The rows are then read again from their beginning.
            until: of what is attached to the model, that before this is in effect.

        Raises:
            ConfigError: the rows are not known from their beginning, or are padded.
        """
        rows = self._whole_rows(tokens, start)
        attached = self.edits
        self.edits = attached[: attached.index(until)] if until in attached else ()
        try:
            found = self._read(rows, sites, replace=replace(rows))
        finally:
            self.edits = attached
        return {site: acts[:, start:] for site, acts in found.items()}

    def _whole_rows(self, tokens: Tensor, start: int) -> Tensor:
        """Return the rows of a pass from their beginning."""
        if start:
            raise ConfigError(f"{self.name} keeps nothing between tokens to look ahead from.")
        return tokens

    def own_passes(self) -> contextlib.AbstractContextManager[None]:
        """Return a block in which passes of the library below, too, go through `edits`.

        Of a transformers model that is what its own ``generate`` and ``forward`` do (``lm.hf``).
        """
        return contextlib.nullcontext()

    @overload
    def read(
        self,
        tokens: Text,
        sites: SiteName,
        *,
        replace: Mapping[Any, Replace] | None = None,
        grad: bool = False,
    ) -> Float[Tensor, "batch n_ctx width"]: ...

    @overload
    def read(
        self,
        tokens: Text,
        sites: Sequence[SiteName],
        *,
        replace: Mapping[Any, Replace] | None = None,
        grad: bool = False,
    ) -> Activations: ...

    def read(
        self,
        tokens: Text,
        sites: SiteName | Sequence[SiteName],
        *,
        replace: Mapping[Any, Replace] | None = None,
        grad: bool = False,
    ) -> Tensor | Activations:
        """Return the activations at one site, or by site at several, ``[batch, n_ctx, width]``.

        The pass stops after the last of them.

        Args:
            tokens: ids or text; see `tokens`.
            sites: one site, or several in any order; names or `Site`.
            replace: functions of the activations at some sites, written back in their place;
                what is read at such a site is what was written.
            grad: keep the graph, for gradients through the model; off by default. The token
                embedding (site ``embed``) is a leaf of it.

        Raises:
            UnknownNameError: the model has no such site.
            DataError: what was given is neither tokens nor text.
        """
        one = isinstance(sites, str | Site)
        wanted = [self.site(s) for s in ([sites] if one else sites)]  # type: ignore[list-item]
        rows = self.tokens(tokens)
        found = self._read(rows, wanted, replace=self._checked_changes(replace), grad=grad)
        return found[wanted[0]] if one else Activations(found)

    @abc.abstractmethod
    def _read(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        sites: Sequence[Site],
        *,
        replace: Mapping[Site, Replace] | None = None,
        grad: bool = False,
    ) -> dict[Site, Float[Tensor, "batch n_ctx width"]]:
        """Do what `read` does, of sites that were checked."""

    def logits(
        self, tokens: Text, replace: Mapping[Any, Replace] | None = None, *, grad: bool = False
    ) -> Float[Tensor, "batch n_ctx vocab"]:
        """Return logits, with the activations at some sites replaced by a function of them."""
        return self._logits(self.tokens(tokens), self._checked_changes(replace), grad=grad)

    @abc.abstractmethod
    def _logits(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        replace: Mapping[Site, Replace] | None = None,
        *,
        grad: bool = False,
    ) -> Float[Tensor, "batch n_ctx vocab"]:
        """Do what `logits` does, of sites that were checked."""

    def _checked_changes(
        self, replace: Mapping[Any, Replace] | None
    ) -> Mapping[Site, Replace] | None:
        return None if replace is None else {self.site(s): f for s, f in replace.items()}

    @overload
    def generate(self, prompts: str, n: int, **how: Any) -> str: ...

    @overload
    def generate(self, prompts: Sequence[str], n: int, **how: Any) -> list[str]: ...

    @overload
    def generate(self, prompts: Sequence[Sequence[int]], n: int, **how: Any) -> list[list[int]]: ...

    def generate(
        self, prompts: str | Sequence[str] | Sequence[Sequence[int]], n: int, **how: Any
    ) -> str | list[str] | list[list[int]]:
        """Return what follows each prompt: text after text, token ids after token ids.

        Args:
            prompts: one text or several, of any lengths, to which BOS is added where the
                tokenizer has one; or the token ids of each, as they are.
            n: tokens to add at most, at least 1.
            how: see `continue_tokens`: temperature, top_p, seed, replace, stop, batch_rows.

        Raises:
            ConfigError: a number is out of range, or this model separates documents.
            DataError: a prompt is empty, or has tokens that the model lacks.
            ShapeError: a prompt and `n` are more than the model reads.
        """
        if how.get("replace") is not None:
            how["replace"] = self._checked_changes(how["replace"])
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts or not isinstance(texts[0], str):
            return self.continue_tokens(texts, n, **how)  # type: ignore[arg-type]
        ids = [self.tokens(text)[0].tolist() for text in texts]  # type: ignore[arg-type]
        found = [self.tokenizer.decode(new) for new in self.continue_tokens(ids, n, **how)]
        return found[0] if isinstance(prompts, str) else found

    def continue_tokens(  # noqa: PLR0913 - the words every library has for sampling
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
        """Return the tokens that follow each prompt, with keys and values cached between steps.

        Args:
            prompts: token ids of each, of any lengths; BOS is yours to give.
            n: tokens to add at most, at least 1.
            temperature: see `generation.Sampling`, as of the next three.
            top_p: share of probability to draw from.
            repetition_penalty: on logits of tokens that the sequence has.
            seed: decides every draw, or one for each prompt; a sequence draws the same whatever
                else is in the batch.
            replace: as of `logits`; applied at every position of the prompt and at every token
                that is generated, each position once.
            stop: tokens that end a sequence, kept as its last; None is the tokenizer's EOS, and an
                empty list ends none early.
            batch_rows: sequences run together at most; changes nothing beyond rounding.

        Raises:
            ConfigError: a number is out of range, or this model separates documents.
            DataError: a prompt is empty, or has tokens that the model lacks.
            ShapeError: a prompt and `n` are more than the model reads.
        """
        raise ConfigError(f"{self.name} reads text and writes none; load a model to generate with.")

    def sequences(
        self,
        prompts: Iterable[tuple[int, Sequence[int]]],
        n: int,
        sampling: Sampling,
        *,
        stop: Sequence[int] | None = None,
        batch_rows: int = 32,
    ) -> Iterator[tuple[int, list[int]]]:
        """Yield the tokens that follow each prompt, as sequences end: any number of them.

        Where one ends the next enters the batch at once, if the model can hold rows of unlike
        lengths; else neighbours of one length are run together. In single precision a sequence is
        the same whatever the batch; in half precision what else is in it moves logits by too much.

        Args:
            prompts: a number and token ids each, read as places become free. The number and the
                seed decide the draws.
            n: tokens to add at most.
            sampling: how, with one seed.
            stop: as of `continue_tokens`.
            batch_rows: sequences run together at most.

        Raises: as `continue_tokens`.
        """
        del prompts, n, sampling, stop, batch_rows
        raise ConfigError(f"{self.name} reads text and writes none; load a model to generate with.")

    @abc.abstractmethod
    def final(
        self, tokens: Int[Tensor, "batch n_ctx"], replace: Mapping[Site, Replace] | None = None
    ) -> Float[Tensor, "batch n_ctx d_model"]:
        """Return what the unembedding reads, after the final norm; replacements as in `logits`.

        With `unembed` it gives logits of some positions without those of all others.
        """

    @abc.abstractmethod
    def unembed(self, final: Float[Tensor, "m d_model"]) -> Float[Tensor, "m vocab"]:
        """Return the logits of some positions from `final`: the same as `logits` has there.

        All that the model does after the final norm is done: bias, scaling, soft cap.
        """

    def stream_decides(self, site: Site) -> bool:
        """Return whether all that follows a site depends on nothing but the activations there.

        Rows that are given the same there are then the same ever after, whatever their tokens.
        """
        return False

    def attention_bytes(self, n_ctx: int) -> int:
        """Return bytes of attention scores that a pass holds for a row; 0 if it holds none."""
        return 0

    @abc.abstractmethod
    def logit_effects(self, directions: Float[Tensor, "m d_model"]) -> Float[Tensor, "m vocab"]:
        """Return what each residual direction adds to each logit, by the logit lens.

        The final norm's gain (and, for LayerNorm, its centring) is applied; its division by
        the norm is not, so rows are comparable within a direction, not between contexts.
        """

    @abc.abstractmethod
    def separated(self) -> "LanguageModel":
        """Return this model, with the same weights, reading each document by itself.

        A document ends with EOS, or begins with it where it is BOS too; tokens attend to none
        before it, and positions begin anew. A row of several documents then gives what each
        would alone.

        Raises:
            ConfigError: the tokenizer has no EOS.
        """

    @abc.abstractmethod
    def shuffled(self, seed: int) -> "LanguageModel":
        """Return this model with the entries of every weight matrix in a random order.

        The distribution of each matrix stays and what was learned goes; biases and the gains
        of norms stay. A null for what owes to the architecture alone.
        """

    @abc.abstractmethod
    def unembedding(self) -> Float[Tensor, "vocab d_model"]:
        """Return the direction that each token's logit reads, before the final norm's gain."""

    def model_at(self, site: Site) -> "LanguageModel":
        """Return the model that has a site: this one, or one of several that are read together."""
        return self

    def check_site(self, site: Site) -> Site:
        """Return `site` if this model has it.

        Raises:
            UnknownNameError: it has no such layer or point.
        """
        known, whole = self.sites(), site._replace(head=None)
        if site.head is not None and whole in known:
            if site.head < self.n_heads(whole):
                return site
            heads = f"heads 0..{self.n_heads(whole) - 1}" if self.n_heads(whole) else "no heads"
            raise UnknownNameError(f"{self.name} has no site `{site}`; `{whole}` has {heads}.")
        if site not in known:
            if why := self.left_out.get(str(whole)):
                raise UnknownNameError(f"{self.name} has no site `{site}`: {why}.")
            hint = nearest(str(site), map(str, known))
            raise UnknownNameError(
                f"{self.name} has no site `{site}`; it has layers 0..{self.n_layers - 1} with "
                f"{', '.join(dict.fromkeys(s.point for s in known))}.{hint}"
            )
        return site

    def provenance(self) -> dict[str, Any]:
        """Return what identifies the model, JSON-ready."""
        found = {
            "name": self.name,
            "revision": self.revision,
            "family": self.family,
            "dtype": str(self.dtype).removeprefix("torch."),
            "tokenizer": self.tokenizer.digest,
        }
        return found if self.separator_id is None else found | {"separate_documents": True}
