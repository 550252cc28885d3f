import struct

import numpy as np
import pytest
import torch

from saekit.core.errors import FormatError
from saekit.models.embedded.gguf import BLOCKS, GGUF
from saekit.models.embedded.gguf_llama import write_folder
from saekit.models.hf import load
from saekit.models.sites import Site
from saekit.models.tokenizer import byte_alphabet

CODES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "BF16": 30}


def half(raw: bytes) -> float:
    return struct.unpack("<e", raw)[0]


def slow_block(kind: str, raw: bytes) -> list[float]:
    """The block formats weight by weight, after the comments of ggml-quants."""
    if kind == "F32":
        return list(struct.unpack("<f", raw))
    if kind == "F16":
        return [half(raw)]
    if kind == "BF16":
        return list(struct.unpack("<f", b"\0\0" + raw))
    scale = half(raw[:2])
    if kind == "Q8_0":
        return [scale * b for b in struct.unpack("<32b", raw[2:])]
    low = half(raw[2:4]) if kind.endswith("1") else None
    rest = raw[4:] if low is not None else raw[2:]
    fifth = 0
    if kind.startswith("Q5"):
        (fifth,) = struct.unpack("<I", rest[:4])
        rest = rest[4:]
    out = []
    for i in range(32):
        nibble = rest[i % 16] >> (4 if i >= 16 else 0) & 15
        whole = nibble | (fifth >> i & 1) << 4
        middle = 16 if kind.startswith("Q5") else 8
        out.append(scale * (whole - middle) if low is None else scale * whole + low)
    return out


def random_blocks(kind: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(sum(kind.encode()))
    raw = rng.integers(0, 256, (count, BLOCKS[kind].n_bytes), dtype=np.uint8)
    # Scales are made ordinary numbers: random bytes would give infinities and NaN.
    if kind == "F32":
        return rng.normal(size=count).astype("<f4").view(np.uint8).reshape(count, 4)
    if kind == "BF16":
        return rng.normal(size=count).astype("<f4").view(np.uint8).reshape(count, 4)[:, 2:]
    n_halves = 2 if kind.endswith("1") else 1
    raw[:, : 2 * n_halves] = rng.normal(size=(count, n_halves)).astype("<f2").view(np.uint8)
    return raw


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_unpack_as_weight_by_weight(kind: str) -> None:
    raw = random_blocks(kind, 50)
    want = [slow_block(kind, row.tobytes()) for row in raw]
    got = BLOCKS[kind].unpack(raw)
    assert got.dtype == np.float32
    assert got.shape == (50, BLOCKS[kind].weights)
    np.testing.assert_allclose(got, np.array(want), rtol=1e-6, atol=1e-6)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def setting(key: str, value: object) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", 6, value)
    if isinstance(value, list) and value and isinstance(value[0], str):
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    if isinstance(value, list):
        return (
            text(key)
            + struct.pack("<IIQ", 9, 5, len(value))
            + struct.pack(f"<{len(value)}i", *value)
        )
    return text(key) + struct.pack("<II", 4, value)


def gguf_file(settings: dict[str, object], tensors: dict[str, tuple]) -> bytes:
    """Write GGUF: tensors as name -> (numpy shape, kind, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings))
    head += b"".join(setting(k, v) for k, v in settings.items())
    body = b""
    for name, (shape, kind, raw) in tensors.items():
        axes = tuple(reversed(shape))
        head += text(name) + struct.pack(f"<I{len(axes)}Q", len(axes), *axes)
        head += struct.pack("<IQ", CODES[kind], len(body))
        body += raw + b"\0" * (-len(raw) % 32)
    return head + b"\0" * (-len(head) % 32) + body


def llama_settings(pre: str = "smollm") -> dict[str, object]:
    by_byte = sorted(byte_alphabet().items(), key=lambda item: item[1])
    tokens = [char for char, _ in by_byte] + ["12", "<|end|>"]
    return {
        "general.architecture": "llama",
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 64,
        "llama.block_count": 1,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.context_length": 64,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 100000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 257 + [3],
        "tokenizer.ggml.merges": ["1 2"],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 257,
    }


SHAPES = {
    "token_embd": (258, 32),
    "output_norm": (32,),
    "blk.0.attn_norm": (32,),
    "blk.0.attn_q": (32, 32),
    "blk.0.attn_k": (16, 32),
    "blk.0.attn_v": (16, 32),
    "blk.0.attn_output": (32, 32),
    "blk.0.ffn_norm": (32,),
    "blk.0.ffn_gate": (64, 32),
    "blk.0.ffn_up": (64, 32),
    "blk.0.ffn_down": (32, 64),
}


def llama_file(pre: str = "smollm") -> bytes:
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in SHAPES.items():
        value = rng.normal(size=shape).astype("<f4") / 4
        tensors[f"{name}.weight"] = (shape, "F32", value.tobytes())
    kind, shape = "Q4_1", (64, 32)
    tensors["blk.0.ffn_up.weight"] = (shape, kind, random_blocks(kind, 64).tobytes())
    return gguf_file(llama_settings(pre), tensors)


def test_a_llama_in_gguf_becomes_a_folder_that_loads(tmp_path) -> None:
    source = GGUF(llama_file())
    write_folder(source, tmp_path)
    model = load(str(tmp_path), dtype="float32")
    assert (model.n_layers, model.d_model, model.n_ctx_max) == (1, 32, 64)
    config = model.module.config
    assert config.rope_parameters["rope_theta"] == 100000.0
    assert config.rms_norm_eps == 1e-5
    embedding = torch.from_numpy(source.tensor("token_embd.weight"))
    tokens = torch.tensor([[5, 9]])
    pre = Site(0, "resid_pre")
    assert torch.equal(model.read(tokens, [pre])[pre][0], embedding[[5, 9]])
    assert model.module.lm_head.weight is model.module.get_input_embeddings().weight


def test_rotary_rows_are_put_back_in_halves(tmp_path) -> None:
    source = GGUF(llama_file())
    write_folder(source, tmp_path)
    loaded = load(str(tmp_path), dtype="float32").module.model.layers[0].self_attn
    for name, weight, heads in (("q", loaded.q_proj, 4), ("k", loaded.k_proj, 2)):
        stored = source.tensor(f"blk.0.attn_{name}.weight")
        for head in range(heads):
            rows = stored[head * 8 : head * 8 + 8]
            want = np.concatenate([rows[0::2], rows[1::2]])
            np.testing.assert_array_equal(weight.weight[head * 8 : head * 8 + 8].numpy(), want)


@pytest.mark.parametrize(("pre", "pieces"), [("smollm", ["1", "2"]), ("gpt-2", ["12"])])
def test_the_pre_tokenizer_decides_whether_digits_are_single(tmp_path, pre, pieces) -> None:
    write_folder(GGUF(llama_file(pre)), tmp_path)
    tokenizer = load(str(tmp_path), check=False).tokenizer
    assert tokenizer.pieces(tokenizer.encode(["12"])[0]) == pieces
    assert tokenizer.special_ids == {257}
    assert tokenizer.pad_id is None


def test_what_cannot_be_read_is_refused() -> None:
    whole = llama_file()
    with pytest.raises(FormatError, match="Not a GGUF"):
        GGUF(b"PK\3\4" + bytes(50))
    with pytest.raises(FormatError, match="version 9"):
        GGUF(b"GGUF" + struct.pack("<IQQ", 9, 0, 0))
    with pytest.raises(FormatError, match="cut short"):
        GGUF(whole[:2000])
    with pytest.raises(FormatError, match="ends inside tensor `blk.0.ffn_down.weight`"):
        GGUF(whole[:-64]).tensor("blk.0.ffn_down.weight")
    with pytest.raises(FormatError, match="no tensor `x`"):
        GGUF(whole).tensor("x")
    with pytest.raises(FormatError, match="unknown type 77"):
        GGUF(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("key") + struct.pack("<I", 77))


def test_a_tensor_packed_in_an_unknown_way_is_named(monkeypatch) -> None:
    monkeypatch.setitem(CODES, "F32", 12)
    with pytest.raises(FormatError, match="type 12; types that can be read are F32"):
        GGUF(gguf_file({}, {"w": ((32,), "F32", bytes(128))}))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("general.architecture", "gemma", "architecture `llama` are read; got gemma"),
        ("tokenizer.ggml.model", "llama", "tokenizer is `llama`"),
        ("tokenizer.ggml.pre", "qwen2", "pre-tokenizer `qwen2`"),
    ],
)
def test_another_architecture_or_tokenizer_is_refused(tmp_path, key, value, says) -> None:
    source = GGUF(gguf_file(llama_settings() | {key: value}, {}))
    with pytest.raises(FormatError, match=says):
        write_folder(source, tmp_path)
    assert not list(tmp_path.iterdir())
