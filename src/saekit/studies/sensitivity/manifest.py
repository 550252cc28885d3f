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
    earlier one or by another run; None where the generator reported none.

    Args:
        folder: of the run.
        result: its scores.
        tables: what `write_tables` returned.
        asked: every request with its reply.
        limits: with the prices.
    """
    replies = [one.reply for one in asked if one.reply is not None]
    read, written = (
        sum(n for n in numbers if n is not None) if any(n is not None for n in numbers) else None
        for numbers in (
            [r.prompt_tokens for r in replies], [r.completion_tokens for r in replies]
        )
    )  # fmt: skip
    known = read is not None and written is not None
    write_json(
        folder / FILE,
        {
            "name": result.name,
            "version": result.version,
            "settings": result.config,
            "prompts_sha256": digest_of([one.request for one in asked]),
            "models": sorted({reply.model for reply in replies if reply.model}),
            "usage": {
                "requests": len(asked),
                "replies": len(replies),
                "tokens_read": read,
                "tokens_written": written,
                "usd": (limits or Limits()).cost(read, written) if known else None,
            },
            "provenance": result.provenance,
        }
        | tables,
    )
