"""saekit: sparse autoencoders on language models.

Everything that a notebook needs is a name of this package. A name is imported when it is first
used, so ``import saekit`` takes no time:

- make: ``load_model``, ``train``, ``fit``, ``fit_dictionary``, and the architectures;
- open: ``load``, ``published``, ``pull``, ``use``;
- measure: ``verify``, ``evaluate``, ``evaluate_suite``, ``compare``, ``score``;
- look: ``index``, ``query``, ``analyse``, ``prompt``, ``serve``;
- inside the model: ``splice``, ``steer``, ``attribute``;
- keep and share: ``save``, ``card``, ``push``, ``paper``, ``cite``, ``reproduce``.

docs/python.md and docs/using.md show them at work.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saekit.activations.harvest import Harvest as Harvest
    from saekit.analysis.analyse import analyse as analyse
    from saekit.analysis.index_folder import Index as Index
    from saekit.analysis.index_saes import index as index
    from saekit.analysis.query import query as query
    from saekit.core.registry import use as use
    from saekit.core.result import Result as Result
    from saekit.evals.compare import compare as compare
    from saekit.evals.evaluate import evaluate as evaluate
    from saekit.evals.suite import evaluate_suite as evaluate_suite
    from saekit.evals.verify.verify import verify as verify
    from saekit.explorer.serve import serve as serve
    from saekit.hub.attribution import attribute as attribute
    from saekit.hub.names.listing import published as published
    from saekit.hub.native import load as load
    from saekit.hub.native import save as save
    from saekit.hub.prompting import prompt as prompt
    from saekit.hub.publish import card as card
    from saekit.hub.publish import pull as pull
    from saekit.hub.publish import push as push
    from saekit.hub.splicing import splice as splice
    from saekit.hub.steering import steer as steer
    from saekit.hub.trained import TrainedSAE as TrainedSAE
    from saekit.models.hf import load as load_model  # noqa: F401
    from saekit.models.sites import Site as Site
    from saekit.report.citation import cite as cite
    from saekit.report.paper.folder import paper as paper
    from saekit.report.reproduction.rerun import reproduce as reproduce
    from saekit.saes.abs_topk import AbsTopK as AbsTopK
    from saekit.saes.batch_topk import BatchTopK as BatchTopK
    from saekit.saes.crosscoder import Crosscoder as Crosscoder
    from saekit.saes.gated import Gated as Gated
    from saekit.saes.group_max import GroupMax as GroupMax
    from saekit.saes.jumprelu import JumpReLU as JumpReLU
    from saekit.saes.matching_pursuit import MatchingPursuit as MatchingPursuit
    from saekit.saes.matryoshka import Matryoshka as Matryoshka
    from saekit.saes.multi_topk import MultiTopK as MultiTopK
    from saekit.saes.p_anneal import PAnneal as PAnneal
    from saekit.saes.relu import ReLU as ReLU
    from saekit.saes.skip import Skip as Skip
    from saekit.saes.standardised import Standardised as Standardised
    from saekit.saes.temporal import Temporal as Temporal
    from saekit.saes.topk import TopK as TopK
    from saekit.training.dictionary import fit_dictionary as fit_dictionary
    from saekit.training.fit_vectors import fit as fit
    from saekit.training.run import Run as Run
    from saekit.training.sweep import sweep as sweep
    from saekit.training.train import train as train
    from saekit.training.vector_scores import score as score

_PLACES = {
    "Harvest": "saekit.activations.harvest",
    "Index": "saekit.analysis.index_folder",
    "Result": "saekit.core.result",
    "Run": "saekit.training.run",
    "Site": "saekit.models.sites",
    "TrainedSAE": "saekit.hub.trained",
    "analyse": "saekit.analysis.analyse",
    "attribute": "saekit.hub.attribution",
    "card": "saekit.hub.publish",
    "cite": "saekit.report.citation",
    "compare": "saekit.evals.compare",
    "evaluate": "saekit.evals.evaluate",
    "evaluate_suite": "saekit.evals.suite",
    "fit": "saekit.training.fit_vectors",
    "fit_dictionary": "saekit.training.dictionary",
    "index": "saekit.analysis.index_saes",
    "load": "saekit.hub.native",
    "load_model": "saekit.models.hf:load",
    "paper": "saekit.report.paper.folder",
    "prompt": "saekit.hub.prompting",
    "published": "saekit.hub.names.listing",
    "pull": "saekit.hub.publish",
    "push": "saekit.hub.publish",
    "query": "saekit.analysis.query",
    "reproduce": "saekit.report.reproduction.rerun",
    "save": "saekit.hub.native",
    "score": "saekit.training.vector_scores",
    "serve": "saekit.explorer.serve",
    "splice": "saekit.hub.splicing",
    "steer": "saekit.hub.steering",
    "sweep": "saekit.training.sweep",
    "train": "saekit.training.train",
    "verify": "saekit.evals.verify.verify",
    "use": "saekit.core.registry",
    "AbsTopK": "saekit.saes.abs_topk",
    "BatchTopK": "saekit.saes.batch_topk",
    "Crosscoder": "saekit.saes.crosscoder",
    "Gated": "saekit.saes.gated",
    "GroupMax": "saekit.saes.group_max",
    "JumpReLU": "saekit.saes.jumprelu",
    "MatchingPursuit": "saekit.saes.matching_pursuit",
    "Matryoshka": "saekit.saes.matryoshka",
    "MultiTopK": "saekit.saes.multi_topk",
    "PAnneal": "saekit.saes.p_anneal",
    "ReLU": "saekit.saes.relu",
    "Skip": "saekit.saes.skip",
    "Standardised": "saekit.saes.standardised",
    "Temporal": "saekit.saes.temporal",
    "TopK": "saekit.saes.topk",
}
__all__ = ["__version__", *sorted(_PLACES)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("saekit")
    if name not in _PLACES:
        if name[:1].isupper() and (found := _architecture(name)) is not None:
            return found
        import difflib

        near = difflib.get_close_matches(name, __all__, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise AttributeError(f"saekit has no `{name}`; it has {', '.join(__all__)}.{hint}")
    module, _, attribute = _PLACES[name].partition(":")
    found = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = found  # so that the next use is an ordinary one
    return found


def _architecture(name: str) -> Any:
    """Return the class of an architecture that is not listed above, by its name; None: none is."""
    from saekit.saes.base import registry

    classes = (registry.get(one) for one in registry.names())
    return next((cls for cls in classes if cls.__name__ == name), None)


def __dir__() -> list[str]:
    return list(__all__)
