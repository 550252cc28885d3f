"""The tables of a run as CSV and Parquet, and the manifest that says what is in its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saekit.core.errors import MissingExtraError
from saekit.core.files import sha256_of, write_json
from saekit.core.result import Result, Table
from saekit.data import table_files
from saekit.generators.limits import Limits
from saekit.studies.sensitivity.audit import Asked
from saekit.studies.sensitivity.prompts import digest_of

FILE, PARQUET = "manifest.json", "parquet"


def write_tables(folder: Path, tables: Mapping[str, Table]) -> dict[str, Any]:
    """Write every table as CSV, and as Parquet into a folder of its own where that can be written.

    Args:
        folder: of the run.
        tables: by name.

    Returns:
        ``files``: rows and SHA-256 of each, by its path in the folder; ``parquet``: why there is
        none, "" where there is.
    """
    reason = ""
    try:
        table_files.check("parquet")
    except MissingExtraError as error:
        reason = str(error)
    files = {}
    for name, table in tables.items():
        made = [table_files.write(table, folder / name, "csv")]
        if not reason:
            (folder / PARQUET).mkdir(exist_ok=True)
            made.append(table_files.write(table, folder / PARQUET / name, "parquet"))
        for path in made:
            place = path.relative_to(folder).as_posix()
            files[place] = {"rows": len(table), "sha256": sha256_of(path)}
    return {"files": files, "parquet": reason}


def write(
    folder: Path,
    result: Result,
    tables: Mapping[str, Any],
    asked: Sequence[Asked],
    limits: Limits | None,
) -> None:
    """Write what a run was made from, what it used and what is in its folder.

    Tokens are those of every reply that the run rests on, whether it was paid for in this call, an
    earlier one or by another run; None where a reply told of none.

    Args:
        folder: of the run.
        result: its scores.
        tables: what `write_tables` returned.
        asked: every request with its reply.
        limits: with the prices.
    """
    replies = [one.reply for one in asked if one.reply is not None]
    read = _sum([reply.prompt_tokens for reply in replies])
    written = _sum([reply.completion_tokens for reply in replies])
    usage = {
        "requests": len(asked),
        "replies": len(replies),
        "tokens_read": read,
        "tokens_written": written,
        "usd": None
        if read is None or written is None
        else (limits or Limits()).cost(read, written),
    }
    record = {
        "name": result.name,
        "version": result.version,
        "settings": result.config,
        "prompts_sha256": digest_of([one.request for one in asked]),
        "models": sorted({reply.model for reply in replies if reply.model}),
        "usage": usage,
        "provenance": result.provenance,
    }
    write_json(folder / FILE, record | dict(tables))


def _sum(numbers: Sequence[int | None]) -> int | None:
    """Return the sum of tokens; None where a reply told of none, for the sum would be too small."""
    known = [n for n in numbers if n is not None]
    return sum(known) if len(known) == len(numbers) else None
