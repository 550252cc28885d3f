"""What measuring an SAE needs and the files of other libraries do not say."""

from dataclasses import replace

from saekit.activations.harvest import Harvest
from saekit.activations.rules import TokenRule
from saekit.core.errors import ConfigError
from saekit.data.base import Corpus
from saekit.data.tokenise import TokenStream
from saekit.hub.native import Loaded
from saekit.models.base import LanguageModel
from saekit.models.sites import UNKNOWN

N_CTX = 128  # tokens of a row where the files do not say


def complete(loaded: Loaded, lm: LanguageModel, corpus: Corpus) -> Loaded:
    """Return an SAE whose card has all that measuring needs; one that has it comes back as it is.

    Which tokens count is decided by saekit's usual rule, with the median norm of the first rows
    of the text's training part. What was filled in stands in ``provenance["filled"]``.

    Raises:
        ConfigError: the files do not say the site, and nobody did.
        UnknownNameError: the model has no such site.
    """
    card = loaded.card
    if UNKNOWN in card.pair.sites:
        raise ConfigError(
            f"The SAE's files do not say which site it is of ({card.pair.label}). Name it: site=, "
            f"on a command line --site; of a transcoder both: saekit convert --read --write."
        )
    if card.rules:
        return loaded
    n_ctx = card.n_ctx or N_CTX
    stream = TokenStream(corpus, "train", lm.tokenizer, n_ctx=n_ctx, bos_each_row=card.bos)
    rules = Harvest(lm, stream, card.pair, TokenRule()).rules
    filled = {"rules": {s: r.to_dict() for s, r in rules.items()}, "n_ctx": n_ctx}
    return loaded._replace(
        card=replace(
            card, rules=rules, n_ctx=n_ctx, model=lm.provenance(),
            provenance=card.provenance | {"filled": filled},
        )
    )  # fmt: skip
