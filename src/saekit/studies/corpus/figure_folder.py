"""Every figure of measured corpora, in one folder."""

from pathlib import Path

from saekit.models.base import LanguageModel
from saekit.report import style
from saekit.studies.corpus.figures import cosines, embeddings, first_tokens, frequencies, lengths
from saekit.studies.corpus.measure import Measured


def draw_all(found: Measured, out: Path, lm: LanguageModel, suffix: str = ".svg") -> list[Path]:
    """Draw every figure and return the files.

    Args:
        found: what was measured.
        out: folder.
        lm: whose tokens are shown.
        suffix: of the files.

    Raises:
        MissingExtraError: matplotlib or scikit-learn is not installed.
    """
    style.check()
    names = ("first_tokens", "token_frequency", "lengths", "embedding_cosine", "embeddings")
    files = [out / f"{name}{suffix}" for name in names]
    first_tokens.draw(found, lm, files[0])
    frequencies.draw(found, files[1])
    lengths.draw(found, files[2])
    cosines.draw(found, files[3])
    embeddings.draw(found, files[4])
    return files
