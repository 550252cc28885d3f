"""Latents whose truth is known: detectors of one letter each, and documents with such letters."""

import json
from pathlib import Path

import torch

from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule, TokenRule
from saekit.data.corpora.files import Files
from saekit.hub.card import Card
from saekit.hub.trained import TrainedSAE
from saekit.saes.relu import ReLU

LETTERS = "zqe"  # latent i fires on letter i and nothing else


def detector(lm) -> TrainedSAE:
    """An SAE at the embedding whose latents are detectors of one letter each."""
    table = lm.read(torch.arange(258)[:, None], "embed")[:, 0]
    unit = torch.nn.functional.normalize(table, dim=1)
    rows = unit[[ord(c) for c in LETTERS]]
    cfg = ReLU(d_in=32, d_out=32, d_sae=4)
    sae = cfg.build(torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    state = {k: torch.zeros_like(v) for k, v in sae.state_dict().items()}
    # On its letter the score is the length of the embedding; elsewhere the bias keeps it below 0.
    score = table @ rows.T
    for i, letter in enumerate(LETTERS):
        own = score[ord(letter), i]
        others = torch.cat([score[: ord(letter), i], score[ord(letter) + 1 :, i]]).max()
        assert own > others
        state["W_enc"][:, i] = rows[i]
        state["b_enc"][i] = -(own + others) / 2
    state["b_enc"][3] = -1e3  # dead
    state["W_dec"][:3] = rows
    sae.load_state_dict(state)
    rule = FittedRule(TokenRule(max_norm=None), (256, 257), 0.0)
    card = Card(
        model=lm.provenance(),
        pair=Pair(read=("embed",)),
        rules={"embed": rule},
        corpus={"name": "none"},
        n_ctx=64,
        bos=False,
        tokens=0,
    )
    return TrainedSAE(sae, card)


def documents(folder: Path):
    """Documents in which z and q are rare and e is in every word."""
    lines = []
    for i in range(400):
        words = ["the", "tree", "here", "we", "see"] * 6
        if i % 2:
            words[3 + i % 9] = "zoo"
        if i % 3 == 0:
            words[5 + i % 7] = "quit"
        lines.append(json.dumps({"text": " ".join(words) + f" {i}"}))
    path = folder / "t.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return Files(paths=(str(path),)), "train"
