"""Family: where the points of a block are, for models that share a layout."""

import abc
from typing import Any, ClassVar, Literal, NamedTuple

import saekit.models.families as package
from saekit.core.registry import Registry


class Tap(NamedTuple):
    """The input or the output of a module: an activation a hook can see and change.

    Args:
        module: path below the decoder; ``{i}`` stands for the layer.
        side: which end of the module.
        shared: the block goes on to use the very tensor that is the module's input (as its
            residual branch), so a replacement is written into that tensor.
        norm: path of a norm whose output this is; its gain and bias are divided out when it is
            read, and put back when it is written.
        overwritten: the block adds to the very tensor later, so a copy is read and written.
        scale: the block multiplies by this before it adds to the stream.
        listed: it is a site; else it is known only for the sums that prove others.
        stream: which of several streams, stacked in front of the batch; None where there is one.
    """

    module: str
    side: Literal["input", "output"]
    shared: bool = False
    norm: str = ""
    overwritten: bool = False
    scale: float = 1.0
    listed: bool = True
    stream: int | None = None


class SiteMap(NamedTuple):
    """Where the sites of one model are.

    Args:
        family: a family's name, or the type of a model whose map was found from its structure.
        embed: path of the token embedding.
        final_norm: path of the norm before the unembedding; "" where there is none, and None where
            more than a norm is between the last block and the unembedding.
        layers: points of each block.
        left_out: sites that the model has not, and why.
    """

    family: str
    embed: str
    final_norm: str | None
    layers: list[dict[str, Tap]]
    left_out: dict[str, str]


class Family(abc.ABC):
    """A layout of decoder blocks, known to transformers under some model types.

    Paths start below the decoder (what ``get_decoder`` of the transformers model returns).
    A new family is one file in `saekit/models/families`; `selfcheck` proves it right. Types that no
    family names are mapped by `structure`.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    embed: ClassVar[str]  # path of the token embedding
    final_norm: ClassVar[str]  # path of the norm before the unembedding
    tiny_type: ClassVar[str] = ""  # what `tiny` makes for the family's name; "": the first type

    @staticmethod
    @abc.abstractmethod
    def points(config: Any) -> dict[str, Tap]:
        """Return the points of a block, in the order a forward pass meets them.

        Args:
            config: the text part of the transformers configuration.
        """

    @staticmethod
    def tiny(model_type: str, sizes: dict[str, Any]) -> dict[str, Any]:
        """Return settings of a small model of one of the family's types.

        `saekit.models.tiny` and the contract of families make it, with random weights.

        Args:
            model_type: one of `model_types`.
            sizes: of the model, under the names that most of transformers' configurations share:
                ``hidden_size``, ``num_hidden_layers``, ``num_attention_heads`` and so on.
        """
        del model_type
        return sizes


registry = Registry[Family]("model family", package)


def family_of(model_type: str) -> type[Family] | None:
    """Return the family of a transformers model type; None: its structure has to tell."""
    families = (registry.get(name) for name in registry.names())
    return next((family for family in families if model_type in family.model_types), None)
