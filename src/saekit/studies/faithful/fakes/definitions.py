"""When a latent is called fake: how often, and how strongly, it fires on noise."""

from typing import Literal, NamedTuple

Mode = Literal["sequence", "token"]
Scale = Literal["max", "rms", "absolute"]
Statistic = Literal["max", "sum"]


class Definition(NamedTuple):
    """A latent is fake if it fires in more than a share `p` of sequences, or of tokens.

    It fires in a sequence where the largest of its activations there, or their sum, is over its
    threshold; at a token where its activation is. The threshold is `tau` times what `scale` says:
    its largest activation on text, its root mean square there where it is on, or 1 act unit. A
    latent that text never turned on has the threshold 0 under the first two.
    """

    mode: Mode
    tau: float
    scale: Scale
    p: float
    statistic: Statistic  # of a sequence; of tokens there is none
    n_seqs: int
    seq_len: int  # tokens; 0: that of the SAE's rows
    noise: str  # the noise that it was published with


# The three published ones are of seonglae/FaithfulSAE: the notes' numbers, and two revisions of
# scripts/feat_match.py. Their thresholds are in act units, so that they call 15 % of the latents of
# one model fake and 0.3 % of another's, whose activations are smaller.
PRESETS: dict[str, Definition] = {
    "relative": Definition("sequence", 0.5, "max", 0.05, "max", 512, 0, "uniform_tokens"),
    "notes": Definition("sequence", 1.0, "absolute", 0.05, "sum", 1000, 0, "uniform_tokens"),
    "r1": Definition("sequence", 0.0, "absolute", 0.05, "sum", 195, 512, "vocabulary_strings"),
    "r2": Definition("token", 1.0, "absolute", 0.10, "max", 0, 0, "uniform_tokens"),
}
R2_TOKENS = 1_000_000  # of which "r2" makes whole sequences


def sized(found: Definition, n_ctx: int) -> Definition:
    """Return a definition whose sequences have a length and a number."""
    seq_len = found.seq_len or n_ctx
    return found._replace(seq_len=seq_len, n_seqs=found.n_seqs or max(R2_TOKENS // seq_len, 1))
