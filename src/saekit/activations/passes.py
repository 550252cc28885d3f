"""Passes: how many rows of text go through the language model at once."""

import torch

from saekit.models.base import LanguageModel

CPU_TOKENS = 2048  # more is no faster on a CPU, and leaves its caches
MOST_TOKENS = 2**17
GPU_SHARE = 0.125  # of the device's memory, for what a pass holds beside weights
HELD = 24  # widths of activations a token that a pass holds at once: a block's, its MLP's, sites


def pass_rows(model: LanguageModel, n_ctx: int) -> int:
    """Return rows of a forward pass, by the memory of the model's device.

    It depends on the device, the model's width and the row's length alone, not on what is
    free at the moment: a run that is taken up again makes the passes it made before.

    Args:
        model: the language model.
        n_ctx: tokens of a row.
    """
    tokens = CPU_TOKENS
    if model.device.type == "cuda":
        total = torch.cuda.get_device_properties(model.device).total_memory
        item = torch.empty(0, dtype=model.dtype).element_size()
        held = int(GPU_SHARE * total / (HELD * model.d_model * item))
        tokens = min(max(held, CPU_TOKENS), MOST_TOKENS)
    return max(tokens // n_ctx, 1)
