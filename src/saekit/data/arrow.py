"""Rows of activations in the Arrow layout that Hugging Face `datasets` saves to disk.

A folder: ``data-00000-of-00002.arrow`` and so on, each an Arrow stream of record batches with
two columns, activations as lists of lists and ``token_ids``; ``dataset_info.json`` with their
types; ``state.json`` with the files. `datasets.load_from_disk` opens it, without `datasets`
having been here. It is what SAELens caches activations in.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.border import bordered, inside, ordinary, reading
from saekit.core.errors import FormatError, MissingExtraError
from saekit.core.files import digest, read_object, write_json

TOKENS = "token_ids"
_TYPE = "datasets.features.features.Array2DExtensionType"  # as its field metadata name it


class Table(NamedTuple):
    """What a folder holds."""

    files: list[Path]
    column: str
    n_ctx: int
    width: int
    has_tokens: bool


class Part(NamedTuple):
    """Some consecutive rows."""

    acts: Float[Tensor, "rows n_ctx width"]
    tokens: Int[Tensor, "rows n_ctx"] | None


def write_arrow(
    folder: Path, column: str, files: list[Iterator[Part]], shape: tuple[int, int], dtype: str
) -> None:
    """Write rows, one file for each iterator, into a folder that exists and is empty.

    Args:
        folder: where.
        column: name of the activations.
        files: what goes into each file; parts of less than 2^31 activations, with tokens.
        shape: n_ctx and width.
        dtype: "float32" or "float16".
    """
    pa = _pyarrow()
    features = {
        column: {"shape": list(shape), "dtype": dtype, "_type": "Array2D"},
        TOKENS: {
            "feature": {"dtype": "int32", "_type": "Value"},
            "length": shape[0],
            "_type": "List",
        },
    }
    value = pa.float32() if dtype == "float32" else pa.float16()
    extension = {
        "ARROW:extension:name": _TYPE,
        "ARROW:extension:metadata": json.dumps([list(shape), dtype]),
    }
    fields = [
        pa.field(column, pa.list_(pa.list_(value)), metadata=extension),
        pa.field(TOKENS, pa.list_(pa.int32(), shape[0])),
    ]
    schema = pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})
    names = [f"data-{i:05d}-of-{len(files):05d}.arrow" for i in range(len(files))]
    for name, parts in zip(names, files, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, schema) as out:
            for part in parts:
                out.write_batch(_batch(pa, part, schema))
    write_json(
        folder / "dataset_info.json",
        {"citation": "", "description": "", "features": features, "homepage": "", "license": ""},
    )
    write_json(
        folder / "state.json",
        {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": digest([column, dtype, *names, str(folder)])[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        },
    )


@bordered("a folder that `datasets` saved")
def open_arrow(folder: Path, column: str | None = None) -> Table:
    """Return what a folder holds.

    Args:
        folder: as `datasets` or SAELens saved it.
        column: of the activations; None: the only one that has two dimensions.

    Raises:
        FormatError: it is no such folder, or has no such column.
    """
    info = read_object(folder / "dataset_info.json")
    state = read_object(folder / "state.json")
    if state.get("_indices_data_files"):
        raise FormatError(
            f"{folder} is in another order than its files; save it with flatten_indices() first."
        )
    features: dict[str, Any] = info.get("features") or {}
    found = {n: f for n, f in features.items() if f.get("_type") == "Array2D"}
    if column is None and len(found) == 1:
        column = next(iter(found))
    if column is None or column not in found:
        raise FormatError(
            f"{folder} has the columns {', '.join(features) or 'none'}, of which activations are "
            f"{', '.join(found) or 'none'}; asked was {column or 'the only one'}. Name one."
        )
    n_ctx, width = found[column]["shape"]
    if not all(type(n) is int and n > 0 for n in (n_ctx, width)):
        raise FormatError(
            f"{folder} has rows of shape {[n_ctx, width]!r}; both are whole numbers, at least 1. "
            f"Write it again."
        )
    files = [inside(folder, part["filename"]) for part in state["_data_files"]]
    return Table(files, column, n_ctx, width, TOKENS in features)


def read_arrow(table: Table) -> Iterator[Part]:
    """Yield the rows of a folder in order, a record batch at a time.

    Raises:
        FormatError: a file is missing or damaged, or rows are not of the size they should be.
    """
    pa = _pyarrow()
    for path in table.files:
        try:
            ordinary(path)
        except FormatError as error:
            raise FormatError(
                f"{path.name} is missing or damaged: {error} Fetch or write it again."
            ) from error
        parts = _parts(pa, table, path)
        while True:
            # The next part alone: what is done with it is not the file's fault.
            with reading(path, "a file of Arrow"):
                part = next(parts, None)
            if part is None:
                break
            yield part


def _parts(pa: Any, table: Table, path: Path) -> Iterator[Part]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        for batch in stream:
            # Nothing else looks at offsets of lists: a hurt one leads outside the file's memory.
            batch.validate(full=True)
            yield _part(pa, batch, table, path)


def _batch(pa: Any, part: Part, schema: Any) -> Any:
    rows, n_ctx, width = part.acts.shape
    assert part.tokens is not None
    flat = pa.array(part.acts.contiguous().view(-1).numpy())
    tokens = pa.array(part.tokens.int().contiguous().view(-1).numpy())
    inner = pa.ListArray.from_arrays(_offsets(rows * n_ctx, width), flat)
    outer = pa.ListArray.from_arrays(_offsets(rows, n_ctx), inner)
    listed = pa.FixedSizeListArray.from_arrays(tokens, n_ctx)
    return pa.RecordBatch.from_arrays([outer, listed], schema=schema)


def _offsets(n: int, size: int) -> np.ndarray:
    return np.arange(0, (n + 1) * size, size, dtype=np.int32)


def _part(pa: Any, batch: Any, table: Table, path: Path) -> Part:
    rows = batch.num_rows
    acts = _flat(pa, batch.column(table.column), 2)
    if len(acts) != rows * table.n_ctx * table.width:
        raise FormatError(
            f"{path} has rows that are not of {table.n_ctx} tokens and {table.width} dimensions."
        )
    tokens = None
    if table.has_tokens:
        ids = _flat(pa, batch.column(TOKENS), 1).astype(np.int64)
        if len(ids) != rows * table.n_ctx:
            raise FormatError(f"{path} has rows that are not of {table.n_ctx} token ids.")
        tokens = torch.from_numpy(ids).view(rows, table.n_ctx)
    shaped = torch.from_numpy(acts.copy()).view(rows, table.n_ctx, table.width)
    return Part(shaped, tokens)


def _flat(pa: Any, column: Any, depth: int) -> np.ndarray:
    """Return the values of lists in lists, in order."""
    if isinstance(column.type, pa.BaseExtensionType):  # where `datasets` is imported too
        column = column.storage
    for _ in range(depth):
        column = column.flatten()
    return column.to_numpy(zero_copy_only=False)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pyarrow
