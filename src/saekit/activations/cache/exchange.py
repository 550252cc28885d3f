"""Exchange: stores to and from the layout in which SAELens caches activations."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from saekit.activations.cache.caching import Caching
from saekit.activations.cache.precision import Channels, added_fvu
from saekit.activations.cache.store import Store, begin, described
from saekit.activations.cache.store_writer import StoreWriter, bytes_of_row
from saekit.activations.harvest import CALIBRATION_ROWS, HARVEST_ROWS
from saekit.activations.rules import FittedRule, fit
from saekit.core.errors import ConfigError, DataError, ShapeError, UnknownNameError
from saekit.core.files import need_space
from saekit.core.finite import all_finite
from saekit.core.lock import made_whole
from saekit.core.progress import Progress
from saekit.data.arrow import Part, Table, open_arrow, read_arrow, write_arrow
from saekit.data.tokenise import Rows
from saekit.models.base import LanguageModel
from saekit.models.sites import Site, parse_site, transformer_lens_name

EXPORTED = {"float32": torch.float32, "float16": torch.float16}
_FILE_BYTES = 2**29
_PART_ROWS = 64
COMPARED_ROWS = 8
# Of the variance: room for another precision, and less than lies between neighbouring layers.
SAME_FVU = 0.01


def export_arrow(
    store: Store,
    folder: Path,
    site: Site,
    *,
    column: str | None = None,
    dtype: str = "float32",
    shown: bool = True,
) -> int:
    """Write a site of a store as SAELens caches activations, and return the rows.

    Args:
        store: what to write, special tokens and all, in text order.
        folder: a folder to make.
        site: one of the store.
        column: name of the activations; None: that of TransformerLens for the site.
        dtype: "float32", in which every stored activation is exact, or "float16"; the layout
            has no bfloat16.
        shown: show progress.

    Raises:
        ConfigError: `folder` is in use, or `dtype` is another.
        DataError: an activation does not fit float16.
        ResourceError: the disk is too small.
    """
    if dtype not in EXPORTED:
        raise ConfigError(f"`dtype` must be one of {', '.join(EXPORTED)}; got {dtype!r}.")
    size = store.n_ctx * (store.sites[site] * EXPORTED[dtype].itemsize + 4)
    each = max(_FILE_BYTES // (size * _PART_ROWS), 1) * _PART_ROWS
    progress = Progress("export", store.n_rows, "rows", shown=shown)

    def parts(first: int) -> Iterator[Part]:
        for row in range(first, min(first + each, store.n_rows), _PART_ROWS):
            n = min(_PART_ROWS, first + each - row)
            acts = store.acts(site, row, n).to(EXPORTED[dtype])
            if not all_finite(acts):
                raise DataError(
                    f"An activation at {site} in rows from {row:,} does not fit {dtype}. Export "
                    f"as float32."
                )
            progress.add(len(acts))
            yield Part(acts, store.text(row, n).tokens)

    with made_whole(folder, "saekit cache export") as part:
        need_space(folder, size * store.n_rows)
        files = [parts(first) for first in range(0, store.n_rows, each)]
        name = column or transformer_lens_name(site)
        write_arrow(part, name, files, (store.n_ctx, store.sites[site]), dtype)
    progress.close()
    return store.n_rows


def import_arrow(
    source: Path,
    folder: Path,
    caching: Caching,
    model: LanguageModel,
    *,
    column: str | None = None,
    compare: bool = True,
    shown: bool = True,
) -> Store:
    """Make a store of activations that SAELens cached.

    Documents are not known (their ids are -1), and the text is what `caching` says it is:
    the layout records neither. That the activations are of the model and the site is checked:
    by the column's name, where it is a hook's, and by the model's own activations of the first
    rows, where there are token ids. The manifest says how far these are apart, or null.

    Args:
        source: the folder SAELens wrote.
        folder: a folder to make.
        caching: what the activations are; one site. `n_ctx` must be that of the rows.
        model: the language model they are of.
        column: name of the activations; None: the only one there is.
        compare: refuse activations that the model does not have at the site. False for rows
            that are parts of longer ones, and for models that were changed before they were
            cached.
        shown: show progress.

    Raises:
        ConfigError: `folder` is in use, several sites are named, or the column's name or the model
            contradict the site.
        FormatError: `source` is not of this layout, or is damaged.
        ShapeError: rows are not as long, or activations not as wide, as they should be.
    """
    if len(caching.sites) != 1:
        raise ConfigError(f"One site is imported at a time; got {', '.join(caching.sites)}.")
    site = model.check_site(caching.places[0])
    table = open_arrow(source, column)
    if (table.n_ctx, table.width) != (caching.n_ctx, model.width(site)):
        raise ShapeError(
            f"{source} has rows of {table.n_ctx} tokens and {table.width} dimensions; "
            f"{caching.n_ctx} and {model.width(site)} are expected of {model.name} at {site}. "
            f"Set `n_ctx`, or name another model or site."
        )
    _check_name(table, site)
    with made_whole(folder, "saekit cache import") as part:
        found = _first(table)
        rule = _rule(caching, model, table, found)
        off = _compared(found, rule, model, site) if compare and table.has_tokens else None
        sample = found.acts[rule.keep(_tokens(found), found.acts)]
        channels = Channels.of(sample)
        begin(
            part,
            {site: channels} if caching.precision == "int8w" else {},
            {
                "config": caching.to_dict(),
                **described(model, [site]),
                "text": {"corpus": caching.corpus.to_dict(), "split": caching.split},
                "rules": {str(site): rule.to_dict()},
                "added_fvu": {str(site): added_fvu(sample, caching.precision, channels)},
                "kept_a_row": len(sample) / len(found.acts),
                "batch_rows": HARVEST_ROWS,
                "token_ids": table.has_tokens,
                "imported": {
                    "from": source.name,
                    "column": table.column,
                    "layout": "sae-lens",
                    "off_by_fvu": off,
                },
            },
        )
        _copy(table, StoreWriter(Store.open(part), {site: channels}), site, rule, shown)
    return Store.open(folder)


def _check_name(table: Table, site: Site) -> None:
    """Refuse a site that the column's name contradicts, where that is a hook's."""
    try:
        named = parse_site(table.column)
    except UnknownNameError:
        return  # a name of the user's own, or a hook that is no site: the model decides
    if _same_place(named) != _same_place(site):
        raise ConfigError(
            f"The column `{table.column}` is of {named}; got {site}. Name that site, or another "
            f"column."
        )


def _same_place(site: Site) -> Site:
    """Return one name for the stream between two blocks, which has two."""
    if site.layer is not None and site.point == "resid_post":
        return Site(site.layer + 1, "resid_pre")
    return site


def _compared(found: Part, rule: FittedRule, model: LanguageModel, site: Site) -> float:
    """Return how far the first rows are from the model's own activations, as a share of variance.

    Raises:
        ConfigError: they are further apart than another precision makes them; the message
            names the site that they are of, if there is one.
    """
    acts, tokens = found.acts[:COMPARED_ROWS].float(), _tokens(found)[:COMPARED_ROWS].long()
    if int(tokens.min()) < 0 or int(tokens.max()) >= model.vocab_size:
        raise ConfigError(
            f"The rows have token ids from {int(tokens.min())} to {int(tokens.max())}; "
            f"{model.name} has 0..{model.vocab_size - 1}. Name the model they are of."
        )
    kept = rule.keep(tokens, acts)

    def off(one: Site) -> float:
        own = model.read(tokens.to(model.device), [one])[one].float().to(acts.device)[kept]
        wrong = (acts[kept] - own).square().sum(dtype=torch.float64)
        return float(wrong / (own - own.mean(0)).square().sum(dtype=torch.float64))

    if (here := off(site)) <= SAME_FVU:
        return here
    others = [s for s in model.sites() if s != site and model.width(s) == acts.shape[-1]]
    near = next((s for s in others if off(s) <= SAME_FVU), None)
    what = (
        f"they are of {near}"
        if near
        else (
            "they are of none of its sites either: of another model, of one changed before it was "
            "cached, or of rows cut from longer ones (compare=False, --no-compare, takes these)"
        )
    )
    raise ConfigError(
        f"The activations are not those of {model.name} at {site}: over the first rows they "
        f"differ by {here:.3g} of the variance, and {what}."
    )


def _copy(table: Table, writer: StoreWriter, site: Site, rule: FittedRule, shown: bool) -> None:
    progress = Progress("import", None, "rows", shown=shown)
    row, store = 0, writer.store
    for part in _in_passes(read_arrow(table), store.batch_rows):
        tokens = _tokens(part)
        need_space(
            store.folder,
            writer.shard_rows * bytes_of_row(store.sites, store.n_ctx, store.precision),
        )
        kept = int(rule.keep(tokens, part.acts).sum())
        writer.add(Rows(tokens, torch.full_like(tokens, -1), row), {site: part.acts}, kept)
        row += len(tokens)
        progress.add(len(tokens))
    writer.flush()
    writer.end()
    progress.close()


def _in_passes(parts: Iterator[Part], size: int) -> Iterator[Part]:
    """Yield the same rows, so many at a time; fewer at the end."""
    acts: list[Tensor] = []
    tokens: list[Tensor] = []
    for part in parts:
        acts += list(part.acts.split(1))
        tokens += list(_tokens(part).split(1))
        while len(acts) >= size:
            yield Part(torch.cat(acts[:size]), torch.cat(tokens[:size]))
            acts, tokens = acts[size:], tokens[size:]
    if acts:
        yield Part(torch.cat(acts), torch.cat(tokens))


def _first(table: Table) -> Part:
    """Return the first rows."""
    found = next(_in_passes(read_arrow(table), CALIBRATION_ROWS), None)
    if found is None:
        raise DataError(f"{table.files[0].parent} holds no rows.")
    return found


def _tokens(part: Part) -> Tensor:
    """Return token ids, -1 where they are not known."""
    if part.tokens is not None:
        return part.tokens
    return torch.full(part.acts.shape[:2], -1)


def _rule(caching: Caching, model: LanguageModel, table: Table, found: Part) -> FittedRule:
    if caching.rule.special and not table.has_tokens:
        raise ConfigError(
            "The activations have no token ids beside them, so special tokens cannot be told. "
            "Set `rule.special` to false."
        )
    return fit(caching.rule, model.tokenizer.special_ids, _tokens(found), found.acts)
