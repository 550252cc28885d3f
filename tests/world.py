"""What several tests stand on: a tiny language model, text in files, a small run."""

import random
from pathlib import Path

from saekit.activations.pairs import Pair
from saekit.data.corpora.files import Files
from saekit.models.base import LanguageModel
from saekit.models.tiny import tiny
from saekit.saes.topk import TopK
from saekit.training.run import Run

# One type of each kind of block; contracts go through every type of every family.
FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma2", "gemma3_text", "qwen2", "qwen3")
WORDS = "the a cat dog sat ran on under mat hat and then quickly slowly 12 7 yes no"


def model(family: str = "llama") -> LanguageModel:
    """Return a tiny model with random weights."""
    return tiny(family)


def text_file(folder: Path, n_docs: int = 300, seed: int = 0) -> Path:
    """Write a file of one document a line, all different."""
    chance = random.Random(seed)
    lines = [" ".join(chance.choices(WORDS, k=40)) + f" {i}." for i in range(n_docs)]
    path = folder / "text.jsonl"
    path.write_text("".join(f'{{"text": "{line}"}}\n' for line in lines), encoding="utf-8")
    return path


def run(folder: Path, **changes) -> Run:
    """Return a run of seconds on the tiny model."""
    settings = {
        "model": "tiny",
        "pair": Pair(read=("L1.resid_post",)),
        "corpus": Files(paths=(str(text_file(folder)),), validation_share=0.0),
        "sae": TopK(d_in=32, d_out=32, d_sae=64, k=4),
        "tokens": 6000,
        "n_ctx": 32,
        "batch_tokens": 128,
        "buffer_tokens": 512,
        "lr": 1e-2,
        "warm_up_steps": 5,
        "checkpoint_tokens": 1500,
        "log_steps": 5,
    }
    return Run(**(settings | changes))
