"""Text that came from files: shown so that it stays text, on a terminal and in a spreadsheet."""

import re
import unicodedata
from collections.abc import Sequence

# C0 and C1 control characters but tab and newline, and the marks that reorder text around them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_FORMULA = tuple("=+-@\t\r")  # a spreadsheet reads a cell that starts so as a formula


def seen(text: str) -> bool:
    """Tell whether a text has a character that is neither a space nor without a shape."""
    return any(unicodedata.category(char)[0] not in "CZ" for char in text)


def printable(text: str) -> str:
    r"""Return text whose control characters are spelled out, as ``\x1b``, for a terminal."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_json(line: str) -> str:
    r"""Return a line of JSON of the same value whose control characters are ``\u`` escapes."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def as_cell(text: str) -> str:
    """Return text as a cell of CSV that no spreadsheet takes for a formula.

    A quotation mark goes in front of what starts like one, which spreadsheets show as text; numbers
    stay as they are. `from_cell` takes it off again.
    """
    return "'" + text if _starts_a_formula(text) else text


def from_cell(cell: str) -> str:
    """Return the text that `as_cell` was given."""
    return cell[1:] if cell.startswith("'") and _starts_a_formula(cell[1:]) else cell


def _starts_a_formula(text: str) -> bool:
    if not text.lstrip("'").startswith(_FORMULA):  # quoted ones too, so that `from_cell` inverts
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def split_text(parts: Sequence[bytes]) -> list[str]:
    r"""Return one string per run of bytes, so that joined they are the text.

    A character whose bytes are spread over several runs belongs to the run of its first
    byte. Bytes that are no UTF-8 read as ``\xNN``.
    """
    try:
        return [part.decode() for part in parts]
    except UnicodeDecodeError:
        pass  # some character is spread over several runs, or is broken
    owners = [i for i, part in enumerate(parts) for _ in part]
    data = b"".join(parts)
    out = [""] * len(parts)
    at = 0
    while at < len(data):
        size = _character_bytes(data[at])
        try:
            char = data[at : at + size].decode()
        except UnicodeDecodeError:
            size, char = 1, f"\\x{data[at]:02x}"
        out[owners[at]] += char
        at += size
    return out


def _character_bytes(lead: int) -> int:
    return 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
