import pytest

from saekit.core.errors import FormatError
from saekit.models.tokenizer import (
    HFTokenizer,
    SpecialIds,
    byte_alphabet,
    byte_level_bpe,
    split_text,
)

tokenizers = pytest.importorskip("tokenizers")

TEXTS = [
    "Hello, world!",
    "日本語のテキスト",
    "Привет, мир",
    "emoji 👩‍👩‍👧 and 🇫🇷 flags",
    " leading and  double  spaces \n\tand lines\r\n",
    "naïve café — “quotes”",
    "a\\x80b",
    "",
]


def byte_level() -> HFTokenizer:
    """Byte-level BPE with merges that join halves of characters."""
    by_byte = [char for char, _ in sorted(byte_alphabet().items(), key=lambda item: item[1])]
    first, second = (by_byte[b] for b in "日".encode()[:2])
    merges = [(first, second), ("l", "l"), ("H", "e"), ("He", "ll")]
    tokens = [*by_byte, *(a + b for a, b in merges), "<end>"]
    return HFTokenizer(byte_level_bpe(tokens, merges, ["<end>"]), SpecialIds(eos=260))


def sentencepiece(scheme: str) -> HFTokenizer:
    """BPE with byte fallback, as Llama 2 (`always`) and Gemma (`never`) have it."""
    t = tokenizers
    tokens = ["<unk>", *(f"<0x{b:02X}>" for b in range(256))]
    tokens += ["▁", "H", "e", "l", "o", "w", "r", "d", "▁w", "日", "▁▁"]
    vocab = {token: i for i, token in enumerate(tokens)}
    model = t.models.BPE(
        vocab=vocab, merges=[("▁", "w"), ("▁", "▁")], byte_fallback=True, unk_token="<unk>"
    )
    backend = t.Tokenizer(model)
    steps = [t.normalizers.Replace(" ", "▁")]
    decoders = [t.decoders.Replace("▁", " "), t.decoders.ByteFallback(), t.decoders.Fuse()]
    if scheme == "always":
        steps.insert(0, t.normalizers.Prepend("▁"))
        decoders.append(t.decoders.Strip(" ", 1, 0))
    backend.normalizer = t.normalizers.Sequence(steps)
    backend.decoder = t.decoders.Sequence(decoders)
    backend.add_special_tokens(["<s>"])
    return HFTokenizer(backend, SpecialIds(bos=backend.token_to_id("<s>")))


def metaspace() -> HFTokenizer:
    t = tokenizers
    vocab = {"▁": 0, "a": 1, "b": 2, "▁a": 3}
    backend = t.Tokenizer(t.models.BPE(vocab=vocab, merges=[("▁", "a")]))
    backend.pre_tokenizer = t.pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = t.decoders.Metaspace(prepend_scheme="first")
    return HFTokenizer(backend, SpecialIds())


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "make", [byte_level, lambda: sentencepiece("always"), lambda: sentencepiece("never")]
)
def test_pieces_join_to_the_text(make, text: str) -> None:
    tokenizer = make()
    (ids,) = tokenizer.encode([text])
    pieces = tokenizer.pieces(ids)
    assert "".join(pieces) == text == tokenizer.decode(ids)
    assert len(pieces) == len(ids)


def test_metaspace_pieces_join_to_the_text() -> None:
    tokenizer = metaspace()
    (ids,) = tokenizer.encode(["a b a"])
    assert tokenizer.pieces(ids) == ["a", " ", "b", " a"]
    assert tokenizer.decode(ids) == "a b a"


def test_a_character_belongs_to_the_token_of_its_first_byte() -> None:
    tokenizer = byte_level()
    (ids,) = tokenizer.encode(["é日!"])
    assert tokenizer.pieces(ids) == ["é", "", "日", "", "!"]  # 日 is one merge and one byte


def test_a_window_cut_inside_a_character_shows_the_bytes() -> None:
    tokenizer = byte_level()
    (ids,) = tokenizer.encode(["日本"])
    assert tokenizer.pieces(ids[1:-1]) == ["\\xa5", "\\xe6", "\\x9c"]


@pytest.mark.parametrize(
    ("parts", "want"),
    [
        ([b"\xff", b"a"], ["\\xff", "a"]),
        ([b"\xe6\x97", b"\xa5x"], ["日", "x"]),
        ([b"\xe6", b"x", b"\x97\xa5"], ["\\xe6", "x", "\\x97\\xa5"]),
        ([b"\xf0\x9f", b"", b"\x91\x8d"], ["👍", "", ""]),
        ([b"\xc3"], ["\\xc3"]),
        ([], []),
    ],
)
def test_split_text(parts, want) -> None:
    assert split_text(parts) == want


def test_special_tokens_are_shown_and_listed_and_never_added() -> None:
    tokenizer = byte_level()
    assert tokenizer.special_ids == {260}
    assert tokenizer.encode(["Hell"]) == [[tokenizer._backend.token_to_id("Hell")]]
    assert tokenizer.pieces([260, 104]) == ["<end>", "h"]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 260, None)


def test_batches_equal_single_texts_and_long_texts_are_not_cut() -> None:
    tokenizer = byte_level()
    assert tokenizer.encode(TEXTS) == [tokenizer.encode([text])[0] for text in TEXTS]
    assert len(tokenizer.encode(["日" * 5000])[0]) == 10000


def test_truncation_and_padding_of_the_file_are_switched_off() -> None:
    backend = byte_level()._backend
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    tokenizer = HFTokenizer(backend, SpecialIds())
    assert len(tokenizer.encode(["abcde"])[0]) == 5


def test_digest_follows_the_definition() -> None:
    assert byte_level().digest == byte_level().digest
    assert sentencepiece("always").digest != sentencepiece("never").digest
    assert HFTokenizer(byte_level()._backend, SpecialIds()).digest != byte_level().digest


def test_ids_no_token_has_read_as_nothing() -> None:
    assert byte_level().pieces([100_000, 104]) == ["", "h"]


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(FormatError, match="joining words"):
        HFTokenizer(backend, SpecialIds())
