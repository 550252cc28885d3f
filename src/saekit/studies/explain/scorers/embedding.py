"""Embedding: are the texts that fire nearer to the explanation in meaning than the others?"""

from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from saekit.studies.explain.material import Case
from saekit.studies.explain.scorers.base import Judging, Scorer, registry
from saekit.studies.explain.statistics import Answer


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Embedding(Scorer):
    """Cosine of the sentence embeddings of explanation and text; no judge is asked.

    Texts are said to fire where the cosine is over the median; the AUROC needs no such bound.

    Source:
        Paulo, Mallen, Juang, Belrose 2024, arXiv:2410.13928; the embeddings: Reimers and Gurevych
        2019.
    """

    name: ClassVar[str] = "embedding"
    title: ClassVar[str] = "embedding: are texts that fire nearer to the explanation?"
    asks: ClassVar[bool] = False

    @override
    def directly(self, case: Case, label: str, how: Judging) -> list[Answer]:
        assert how.embed is not None  # the study gives it
        vectors = how.embed([label, *(s.text for s in case.tests)])
        cosines = (vectors[1:] @ vectors[0]).tolist()
        middle = sorted(cosines)[len(cosines) // 2] if cosines else 0.0
        return [
            Answer(float(s.is_on), float(cosine >= middle), cosine)
            for s, cosine in zip(case.tests, cosines, strict=True)
        ]
