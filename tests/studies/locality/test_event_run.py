"""A run of events that is killed goes on, and ends as one that was not."""

import dataclasses

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, DataError
from saekit.hub.card import Card
from saekit.hub.trained import TrainedSAE
from saekit.models.tiny import tiny
from saekit.saes.relu import ReLU
from saekit.studies.locality.events import event_entropy
from saekit.studies.locality.events.base import Event
from saekit.studies.locality.events.event_run import AboutEvents, EventRun
from tests.studies.locality.world import AGAIN, QUIET


@pytest.fixture(scope="module")
def world():
    lm = tiny("llama", d_model=16)
    sae = ReLU(d_in=16, d_out=16, d_sae=24).build(torch.Generator().manual_seed(0))
    sae.b_enc.data.fill_(0.7)
    card = Card(
        model={"name": "tiny"},
        pair=Pair(read=("L0.resid_post",)),
        rules={},
        corpus={},
        n_ctx=16,
        bos=True,
        tokens=0,
    )
    g = torch.Generator().manual_seed(2)
    events = [
        Event(i // 3, i % 3, 1.0, tuple(torch.randint(0, 256, (3 + i,), generator=g).tolist()))
        for i in range(12)
    ]
    return TrainedSAE(sae, card), lm, events


RUN = EventRun(n_ctx=(4, 9), batch_tokens=20)


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path, world, monkeypatch):
    loaded, lm, events = world
    RUN.write(loaded, lm, events, tmp_path / "whole", about=AboutEvents(source={}), options=QUIET)
    real, asked = event_entropy.influence, []

    def killed(*args, **kwargs):
        asked.append(1)
        if len(asked) == 7:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(event_entropy, "influence", killed)
    with pytest.raises(KeyboardInterrupt):
        RUN.write(loaded, lm, events, tmp_path / "cut", about=AboutEvents(source={}), options=QUIET)
    assert not (tmp_path / "cut" / "manifest.json").exists()
    asked[:] = [1] * 7
    RUN.write(loaded, lm, events, tmp_path / "cut", about=AboutEvents(source={}), options=AGAIN)
    total = len(list((tmp_path / "whole" / "journal").iterdir()))
    assert len(asked) - 7 == total - 6  # six batches were done before
    for name in ("ctx4.csv", "ctx9.csv", "per_feature_ctx9.csv", "top_contexts_layer0.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for name in ("influences_ctx4.npz", "influences_ctx9.npz"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_other_events_or_weights_are_not_gone_on_with(tmp_path, world):
    loaded, lm, events = world
    RUN.write(loaded, lm, events, tmp_path, about=AboutEvents(source={}), options=QUIET)
    with pytest.raises(ConfigError, match="--resume"):
        RUN.write(loaded, lm, events, tmp_path, about=AboutEvents(source={}), options=QUIET)
    with pytest.raises(ConfigError, match="events"):
        RUN.write(loaded, lm, events[1:], tmp_path, about=AboutEvents(source={}), options=AGAIN)
    other = ReLU(d_in=16, d_out=16, d_sae=24).build(torch.Generator().manual_seed(1))
    with pytest.raises(ConfigError, match="weights"):
        RUN.write(
            dataclasses.replace(loaded, sae=other),
            lm,
            events,
            tmp_path,
            about=AboutEvents(source={}),
            options=AGAIN,
        )
    with pytest.raises(DataError, match="no events"):
        RUN.write(loaded, lm, [], tmp_path / "n", about=AboutEvents(source={}), options=QUIET)
