"""Names of published runs: parsed and written, alone and in pairs of seeds."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from saekit.core.errors import DataError

_NAME = re.compile(
    r"(?P<model>.+?)_blocks\.(?P<block>\d+)\.hook_(?P<point>[a-z_]+?)_(?P<d_sae>\d+)_"
    r"(?P<kind>[a-z]+)_(?P<k>\d+)_(?P<lr>[0-9.e-]+)_(?P<seed>\d+)_(?P<data>.+)_(?P<n_ctx>\d+)_"
    r"(?P<last_step>\d+)"
)


@dataclass(frozen=True, kw_only=True)
class RunName:
    """What the name of a run says.

    Args:
        model: short name of the language model.
        block: layer that the site is in.
        point: of the layer, as ``resid_pre``.
        d_sae: latents.
        kind: architecture, as ``topk``.
        k: latents in use.
        lr: learning rate.
        seed: of the run.
        data: last part of the data set's name.
        n_ctx: tokens a row.
        last_step: index of the last step, one less than there were.

    Source:
        FaithfulSAE (arXiv:2506.17673), names of checkpoint folders.
    """

    model: str
    block: int
    point: str
    d_sae: int
    kind: str
    k: int
    lr: float
    seed: int
    data: str
    n_ctx: int
    last_step: int

    @classmethod
    def parse(cls, text: str) -> "RunName":
        """Read a name.

        Raises:
            DataError: it is not one, or would be written in another way.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            raise DataError(
                f"{text!r} is not the name of a published run. One is MODEL_blocks.B.hook_POINT_"
                f"LATENTS_KIND_K_LR_SEED_DATA_CONTEXT_LASTSTEP."
            )
        whole = {"block", "d_sae", "k", "seed", "n_ctx", "last_step"}
        try:
            values: dict[str, Any] = {
                n: int(v) if n in whole else v for n, v in match.groupdict().items()
            }
            values["lr"] = float(match["lr"])
        except ValueError as error:  # of a rate such as 1e, or a number of over 4,300 digits
            raise DataError(f"A number in {text!r:.200} is wrong: {error}.") from error
        found = cls(**values)
        if str(found) != text:
            raise DataError(f"{text!r} would be written {str(found)!r}. Mend its numbers.")
        return found

    def __str__(self) -> str:
        return (
            f"{self.model}_blocks.{self.block}.hook_{self.point}_{self.d_sae}_{self.kind}_{self.k}"
            f"_{self.lr!r}_{self.seed}_{self.data}_{self.n_ctx}_{self.last_step}"
        )

    @property
    def site(self) -> str:
        """The site as saekit names it."""
        return f"L{self.block}.{self.point}"

    @property
    def written_by(self) -> str | None:
        """The model whose own text the data is, as the data set's name has it; None: no model's."""
        match = re.fullmatch(r"faithful-(?P<a>.+)|(?P<b>.+?)_synthetic(_.+)?", self.data)
        return None if match is None else match["a"] or match["b"]


def parse_pair(key: str) -> tuple[RunName, RunName]:
    """Read the key of a result over two seeds: two names with a hyphen between.

    Raises:
        DataError: it is no pair, or the two differ in more than the seed.
    """
    model = key.partition("_blocks.")[0]
    head, mark, rest = key.partition(f"-{model}_blocks.")
    if not mark:
        raise DataError(f"{key!r} is not two names of runs with a hyphen between.")
    first, second = RunName.parse(head), RunName.parse(mark[1:] + rest)
    if dataclasses.replace(second, seed=first.seed) != first:
        raise DataError(f"The runs of {key!r} differ in more than the seed.")
    return first, second


def pair_key(first: RunName, second: RunName) -> str:
    """Return the key of a result over two seeds."""
    return f"{first}-{second}"


def same_model(one: str, other: str) -> bool:
    """Tell whether two short names mean one model, up to case, hyphens and points."""
    return _plain(one) == _plain(other)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.rpartition("/")[2].lower())
