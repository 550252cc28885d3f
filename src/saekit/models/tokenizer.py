"""HFTokenizer: the fast tokenizers of the `tokenizers` library; and how to make one."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

from typing_extensions import override

from saekit.core.errors import DataError, FormatError, MissingExtraError
from saekit.core.files import digest, write_json
from saekit.core.text import split_text as split_text
from saekit.models.base import Tokenizer, as_texts

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class SpecialIds(NamedTuple):
    """Ids of the special tokens a model has; None where it has none."""

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None


@final
class HFTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library.

    Args:
        backend: a `tokenizers.Tokenizer`; its truncation and padding are switched off.
        special: which ids stand for begin, end and padding.
        n_embedded: rows of the embedding of the model it goes with, where that is known.
        chats: the tokenizer of transformers that has the template of chats; None: there is none.
    """

    def __init__(
        self, backend: Any, special: SpecialIds, *, n_embedded: int | None = None, chats: Any = None
    ):
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.bos_id, self.eos_id, self.pad_id = special
        self.n_embedded = n_embedded
        self._chats = chats
        self.chat_template = None if chats is None else str(chats.chat_template)
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        added = backend.get_added_tokens_decoder()
        self._added = {i: token.content for i, token in added.items()}
        marked = {i for i, token in added.items() if token.special}
        self.adds_bos = special.bos is not None and backend.encode("a").ids[:1] == [special.bos]
        self.special_ids = frozenset(marked | {i for i in special if i is not None})
        definition = backend.to_str()
        self.digest = digest([definition, json.dumps(special)])
        self._bytes_of, self._drops_first_space = _byte_reader(json.loads(definition)["decoder"])
        self._known: dict[int, bytes] = {}

    def save(self, folder: Path) -> None:
        """Write it as transformers does: tokenizer.json and tokenizer_config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(folder / "tokenizer.json"))
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        named = {k: self._backend.id_to_token(i) for k, i in ids.items() if i is not None}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
        if self.chat_template is not None:
            settings["chat_template"] = self.chat_template
        write_json(folder / "tokenizer_config.json", settings)

    @override
    def encode(self, texts: str | Sequence[str]) -> list[list[int]]:
        batch = self._backend.encode_batch_fast(as_texts(texts), add_special_tokens=False)
        return [row.ids for row in batch]

    @override
    def chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = False) -> str:
        if self._chats is None:
            return super().chat(messages, answer=answer)
        try:
            return self._chats.apply_chat_template(
                [dict(m) for m in messages], tokenize=False, add_generation_prompt=answer
            )
        except Exception as error:  # a template may raise anything
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise DataError(
                f"The chat template of the tokenizer does not take these messages: {reason}. They "
                f"begin {str(list(messages))[:60]!r}; mend them, or leave them out."
            ) from error

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=False)

    @override
    def bytes_of(self, ids: Sequence[int]) -> list[bytes]:
        return [self._bytes(i) for i in ids]

    @override
    def pieces(self, ids: Sequence[int]) -> list[str]:
        out = split_text(self.bytes_of(ids))
        if self._drops_first_space and out and ids[0] not in self._added:
            out[0] = out[0].removeprefix(" ")
        return out

    def _bytes(self, token_id: int) -> bytes:
        if token_id not in self._known:
            token = self._backend.id_to_token(token_id)
            if token is None:  # rows of the embedding that no token uses
                found = b""
            elif token_id in self._added:
                found = self._added[token_id].encode()
            else:
                found = self._bytes_of(token)
            self._known[token_id] = found
        return self._known[token_id]


def byte_level_bpe(
    tokens: Sequence[str],
    merges: Sequence[tuple[str, str]],
    special: Sequence[str],
    *,
    single_digits: bool = False,
) -> Any:
    """Return a byte-level BPE tokenizer of the `tokenizers` library.

    Args:
        tokens: token of every id, in the byte alphabet of GPT-2.
        merges: pairs in the order they are applied.
        special: tokens that are never split and never made by merging.
        single_digits: split off every digit first, so that numbers are read digit by digit.
    """
    library = _tokenizers()
    pre = library.pre_tokenizers
    vocab = {token: i for i, token in enumerate(tokens)}
    out = library.Tokenizer(library.models.BPE(vocab=vocab, merges=list(merges)))
    steps = [pre.Digits(individual_digits=True)] if single_digits else []
    steps.append(pre.ByteLevel(add_prefix_space=False, use_regex=True))
    out.pre_tokenizer = pre.Sequence(steps)
    out.decoder = library.decoders.ByteLevel()
    out.add_special_tokens(
        [library.AddedToken(token, special=True, normalized=False) for token in special]
    )
    return out


def byte_alphabet() -> dict[str, int]:
    """Return the character that stands for each byte in byte-level BPE, as char to byte.

    Source:
        Radford et al. 2019, GPT-2 encoder.py, `bytes_to_unicode`. Differs: nothing known.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(rest)}


def _byte_reader(decoder: Mapping[str, Any] | None) -> tuple[Callable[[str], bytes], bool]:
    """Return how a token reads as bytes, and whether decoding drops the first space."""
    steps = [] if decoder is None else decoder.get("decoders", [decoder])
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()

        def byte_level(token: str) -> bytes:
            if all(char in alphabet for char in token):
                return bytes(alphabet[char] for char in token)
            return token.encode()

        return byte_level, False
    if kinds & {"Metaspace", "ByteFallback", "Replace"}:
        strips = any(s["type"] == "Strip" and s["content"] == " " and s["start"] for s in steps)
        schemes = [s.get("prepend_scheme") for s in steps if s["type"] == "Metaspace"]
        drops = strips or any(scheme != "never" for scheme in schemes)
        return _sentencepiece, drops
    raise FormatError(
        f"This tokenizer decodes by {', '.join(sorted(kinds)) or 'joining words'}; pieces of text "
        f"are known for byte-level and SentencePiece tokenizers. Use a model with one of these."
    )


def _sentencepiece(token: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace("▁", " ").encode()


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("tokenizers", "lm") from error
    return tokenizers
