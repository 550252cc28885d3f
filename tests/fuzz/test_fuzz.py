"""Hurt inputs end in a value or in a sentence that names the file: nothing raw, slow or large."""

import pytest

from tests import share
from tests.fuzz.kinds import KINDS
from tests.fuzz.run import inputs

FEW, MANY = 12, 4000


@pytest.mark.parametrize("kind", [k for k in KINDS if KINDS[k].cost < 10])
def test_some_hurt_inputs_of_each_kind(kind):
    faults = list(inputs(kind, 0, FEW))
    assert not faults, "\n".join(f"{f.kind} {f.seed}: {f.what}" for f in faults[:5])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_hurt_inputs_of_each_kind(kind):
    faults = list(inputs(kind, FEW, share.part(MANY // KINDS[kind].cost)))
    assert not faults, "\n".join(f"{f.kind} {f.seed}: {f.what}" for f in faults[:20])
