"""Stdlib: Python's own standard library, always at hand."""

import hashlib
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import DataError
from saekit.core.files import digest
from saekit.data.base import Corpus, Document, Split, registry
from saekit.data.split import documents_of, rule_of

# Third-party code, tests, and tables of characters rather than text.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_LEFT_OUT |= {"encodings", "ensurepip"}


@registry.register
@dataclass(frozen=True, kw_only=True)
class Stdlib(Corpus):
    """The sources of Python's standard library, without its tests; nothing to download.

    A document is a file. Files come in the order of the hash of their names, so that a part
    is a sample of the whole. The text differs between versions of Python.

    Args:
        test_share: share of files that are test.
        validation_share: share of files that are for validation.

    Raises:
        ConfigError: a share is out of range.

    Source:
        Python Software Foundation, PSF licence; the version in use.
    """

    name: ClassVar[str] = "stdlib"

    test_share: float = setting(0.1, least=0, below=1)
    validation_share: float = setting(0.1, least=0, below=1)

    @override
    def documents(self, split: Split) -> Iterator[Document]:
        return documents_of(split, _sources(), self.test_share, self.validation_share)

    @override
    def provenance(self) -> dict[str, Any]:
        texts = [document.text for document in _sources()]
        return {
            "python": platform.python_version(),
            "n_files": len(texts),
            "sha256": digest(texts),
            "licence": "PSF-2.0",
            "split_rule": rule_of(self.validation_share),
        }


def _sources() -> Iterator[Document]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = [p.relative_to(folder) for p in folder.rglob("*.py")]
    kept = [name for name in names if not _LEFT_OUT.intersection(name.parts)]
    if not kept:
        raise DataError(
            f"This Python keeps no sources of its standard library in {folder}. "
            f"Use another corpus, as `packaged`, or files of your own."
        )
    for name in sorted(kept, key=lambda n: hashlib.sha256(n.as_posix().encode()).hexdigest()):
        with tokenize.open(folder / name) as file:  # heeds the encoding a source declares
            yield Document(file.read(), f"python/{name.as_posix()}")
