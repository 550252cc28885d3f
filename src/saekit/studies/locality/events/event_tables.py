"""Tables of events by name: their files, their columns in either generation. Without torch."""

import re
from collections.abc import Mapping
from pathlib import Path

from saekit.core.errors import FormatError
from saekit.data import table_files

# Columns of the current generation, then those that only the older one has, then ours.
CURRENT = ("feature_id", "event_idx", "H_pos", "peak_token_idx", "peak_value", "sum_J")
OLDER = (
    "tier",
    "description",
    "top_act_rank",
    "activation_value",
    "abs_peak",
    "ctx_len",
    "ctx_start",
    "H_pos_bits",
    "n_positions",
    "J_max",
    "J_sum",
    "J_argmax",
    "peak_token_str",
    "status",
)
OURS = ("local_activation", "H_share", "effective_tokens", "bos_share", "doc", "npz_key")
SAME = {
    "event_idx": "top_act_rank",
    "H_pos": "H_pos_bits",
    "peak_value": "activation_value",
    "sum_J": "J_sum",
}
NO_TIER = "all"
_TABLE = re.compile(r"ctx0*(?P<n>\d+)(_(?P<tier>[a-z]+))?\.(csv|parquet)")


def key(latent: int, rank: int) -> str:
    """Return the name of an event's influences in the archive."""
    return f"{latent}_{rank}"


def lengths(folder: Path) -> dict[int, list[Path]]:
    """Return the tables of a folder by context length, shortest first.

    A table without a tier holds the events of all tiers, so it stands alone: tables of tiers
    beside it would count the same events twice.

    Raises:
        FormatError: there is none.
    """
    found: dict[int, list[Path]] = {}
    stems = {p.with_suffix(""): m for p in folder.glob("ctx*") if (m := _TABLE.fullmatch(p.name))}
    for n in {int(match["n"]) for match in stems.values()}:
        tiers = {
            match["tier"] or "": stem
            for stem, match in sorted(stems.items())
            if int(match["n"]) == n
        }
        whole = next((tiers[t] for t in ("", NO_TIER) if t in tiers), None)
        of_length = list(tiers.values()) if whole is None else [whole]
        found[n] = [table_files.find(stem) for stem in of_length]
    if not found:
        raise FormatError(
            f"{folder} holds no ctx<N>.csv or .parquet. Make them: saekit locality events --out "
            f"{folder}"
        )
    return dict(sorted(found.items()))


def value_of(record: Mapping[str, str], name: str) -> str:
    """Return a cell by the current generation's name of its column.

    Raises:
        KeyError: neither generation's column is there.
    """
    return record[name] if name in record else record[SAME[name]]
