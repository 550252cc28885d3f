"""Rows of a pass: by the device's memory, never none."""

import types

import pytest
import torch

from saekit.activations.passes import pass_rows
from tests import world


@pytest.mark.parametrize(("n_ctx", "rows"), [(32, 64), (128, 16), (2048, 1), (8192, 1)])
def test_a_cpu_gets_as_many_tokens_whatever_the_row(n_ctx, rows):
    assert pass_rows(world.model(), n_ctx) == rows


@pytest.mark.parametrize(("gigabytes", "d_model", "tokens"), [(141, 2304, 2**17), (8, 4096, 5086)])
def test_a_gpu_gets_a_share_of_its_memory(monkeypatch, gigabytes, d_model, tokens):
    memory = types.SimpleNamespace(total_memory=int(gigabytes * 1e9))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: memory)
    model = world.model()
    for name, value in {"device": torch.device("cuda"), "dtype": torch.bfloat16}.items():
        monkeypatch.setattr(model, name, value)
    monkeypatch.setattr(model, "d_model", d_model)
    assert pass_rows(model, 128) == tokens // 128
