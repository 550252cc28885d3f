"""Toy: a format in one file. It holds `topk`, exactly."""

from typing import ClassVar, final

import torch

from saekit.core.errors import ConfigError
from saekit.core.files import read_tensors, write_json, write_tensors
from saekit.hub.formats.base import (
    Format,
    Read,
    check_unscaled,
    make_card,
    need,
    only,
    registry,
    say,
    say_object,
)
from saekit.saes.topk import TopK

WEIGHTS, CONFIG = "toy.safetensors", "toy.json"
NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")


@final
@registry.register
class ToyFormat(Format):
    """Toy: the four tensors of a TopK, and k.

    Source:
        Ours.
    """

    name: ClassVar[str] = "toy_format"
    files: ClassVar[str] = f"{CONFIG} and {WEIGHTS}"

    def detect(self, folder):
        return (folder / CONFIG).exists()

    def read(self, folder, hints):
        raw, where = say_object(folder / CONFIG), folder / WEIGHTS
        d_in, d_sae, k = (say(raw, n, int, folder / CONFIG) for n in ("d_in", "d_sae", "k"))
        weights = read_tensors(where)
        shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,)}
        need(weights, shapes | {"b_dec": (d_in,)}, where)
        only(weights, set(NAMES), where)
        return Read(
            TopK(d_in=d_in, d_out=d_in, d_sae=d_sae, k=k), weights, make_card(self.name, hints)
        )

    def write(self, sae, card, folder):
        check_unscaled(card, self.name)
        cfg = sae.cfg
        if type(cfg) is not TopK or cfg.d_in != cfg.d_out or not card.pair.is_autoencoder:
            raise ConfigError(
                f"Toy files hold autoencoders of `topk`; this is `{cfg.name}` of "
                f"{card.pair.label}. Use --format saekit."
            )
        state = {n: t.detach().contiguous() for n, t in sae.state_dict().items()}
        write_tensors(folder / WEIGHTS, {n: state[n] for n in NAMES})
        write_json(folder / CONFIG, {"d_in": cfg.d_in, "d_sae": cfg.d_sae, "k": cfg.k})
        return folder

    def example(self, folder):
        g = torch.Generator().manual_seed(0)
        sae = TopK(d_in=6, d_out=6, d_sae=20, k=3).build(g)
        write_tensors(folder / WEIGHTS, dict(sae.state_dict()))
        write_json(folder / CONFIG, {"d_in": 6, "d_sae": 20, "k": 3})
        return folder
