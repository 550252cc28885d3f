"""What a file of torch.save names, told from its program without reading its tensors."""

import zipfile
from pathlib import Path

HEAD_BYTES = 2**20


def names_all(path: Path, *words: str) -> bool:
    """Return whether a file of torch.save has all of these texts in its program.

    The program is searched as bytes and not run. What is no such file has none.
    """
    try:
        if not path.is_file():
            return False
        with zipfile.ZipFile(path) as file:
            entry = next((e for e in file.infolist() if e.filename.endswith("/data.pkl")), None)
            if entry is None or entry.compress_type != zipfile.ZIP_STORED:
                return False
            with file.open(entry) as opened:
                program = opened.read(HEAD_BYTES)
    except Exception:  # a damaged zip may surprise its reader in any way; the format says how
        return False
    return all(word.encode() in program for word in words)


def torch_files(folder: Path) -> list[Path]:
    """Return the files of a folder that end as torch's do, in order of their names."""
    return sorted(p for p in folder.iterdir() if p.suffix in (".pt", ".pth"))
