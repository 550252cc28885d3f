"""Shuffled: the SAE on a model whose weights are in a random order."""

from typing import ClassVar, final

from typing_extensions import override

from saekit.activations.rules import FittedRule, TokenRule
from saekit.evals.base import Subject
from saekit.evals.floors.base import Floor, Ground, check_single, registry


@final
@registry.register
class Shuffled(Floor):
    """The same SAE on the model with shuffled weights, which learned nothing from text.

    Only special tokens are left out there: the bound on norms is of the model that was trained.
    """

    name: ClassVar[str] = "shuffled"
    label: ClassVar[str] = "model with shuffled weights"
    version: ClassVar[int] = 1
    of_model: ClassVar[bool] = True

    @override
    def make(self, subject: Subject, ground: Ground) -> Subject:
        check_single(subject)
        lm = subject.lm
        assert lm is not None  # floors are made of SAEs that stand in a model
        if id(lm) not in ground.models:
            ground.models[id(lm)] = lm.shuffled(ground.seed)
        rule = FittedRule(TokenRule(max_norm=None), subject.rule.special_ids, 0.0)
        return self.stands_for(subject, subject.sae)._replace(
            lm=ground.models[id(lm)],
            rule=rule,
            write_rule=None if subject.write_rule is None else rule,
        )
