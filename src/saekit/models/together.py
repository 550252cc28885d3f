"""Together: several language models over the same tokens, whose sites name their model."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, final

from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.errors import ConfigError, UnknownNameError
from saekit.models.base import LanguageModel, Replace
from saekit.models.sites import Site


@final
class Together(LanguageModel):
    """Checkpoints or fine-tunes of one model, read in one pass each over the same tokens.

    Their sites are those of each with its name in front, as ``base:L13.resid_post``, so that one
    harvest reads all of them and a crosscoder can compare them. Numbers that belong to one model
    (width and layers of the whole, a site where none is named) are those of the first.

    Args:
        models: by a short name, without ``:``, ``=`` or ``,``; two at least.

    Raises:
        ConfigError: there is one model only, a name has one of these signs, or their tokenizers or
            devices differ.
    """

    def __init__(self, models: Mapping[str, LanguageModel]):
        if len(models) < 2:
            raise ConfigError(f"Name two models at least; got {', '.join(models) or 'none'}.")
        for name in models:
            if not name or set(name) & set(":=,/ "):
                raise ConfigError(f"A model's short name is a plain word; got {name!r}.")
        first = next(iter(models.values()))
        for name, lm in models.items():
            if lm.tokenizer.digest != first.tokenizer.digest:
                raise ConfigError(
                    f"Models read the same tokens, so their tokenizers must be the same; that of "
                    f"`{name}` ({lm.name}) is another than that of {first.name}."
                )
            if lm.device != first.device:
                raise ConfigError(f"All models must be on one device; got {lm.device} too.")
        self.models = dict(models)
        self.name = ",".join(f"{name}={lm.name}" for name, lm in models.items())
        self.revision = ",".join(f"{name}={lm.revision}" for name, lm in models.items())
        self.family = ",".join(dict.fromkeys(lm.family for lm in models.values()))
        self.n_layers, self.d_model = first.n_layers, first.d_model
        self.vocab_size = min(lm.vocab_size for lm in models.values())
        self.n_ctx_max = min(lm.n_ctx_max for lm in models.values())
        self.tokenizer, self.device, self.dtype = first.tokenizer, first.device, first.dtype
        self.separator_id = first.separator_id

    @override
    def sites(self) -> list[Site]:
        return [
            site._replace(model=name) for name, lm in self.models.items() for site in lm.sites()
        ]

    @override
    def check_site(self, site: Site) -> Site:
        if site.model not in self.models:
            raise UnknownNameError(
                f"Here are several models, {', '.join(self.models)}; `{site}` names none of them. "
                f"Write it as {next(iter(self.models))}:{site._replace(model='')}."
            )
        self.models[site.model].check_site(site._replace(model=""))
        return site

    @override
    def model_at(self, site: Site) -> LanguageModel:
        return self.models[self.check_site(site).model]

    @override
    def width(self, site: Site) -> int:
        return self.model_at(site).width(site._replace(model=""))

    @override
    def _read(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        sites: Sequence[Site],
        *,
        replace: Mapping[Site, Replace] | None = None,
        grad: bool = False,
    ) -> dict[Site, Float[Tensor, "batch n_ctx width"]]:
        changes = self.replacing(tokens, replace)
        acts: dict[Site, Tensor] = {}
        for name, lm in self.models.items():
            own = [site for site in dict.fromkeys(sites) if site.model == name]
            if own:
                plain = [site._replace(model="") for site in own]
                read = lm.read(tokens, plain, replace=_of(name, changes), grad=grad)
                acts |= {site: read[site._replace(model="")] for site in own}
        return {site: acts[site] for site in sites}

    @override
    def _logits(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        replace: Mapping[Site, Replace] | None = None,
        *,
        grad: bool = False,
    ) -> Float[Tensor, "batch n_ctx vocab"]:
        self._apart("logits")

    @override
    def final(
        self, tokens: Int[Tensor, "batch n_ctx"], replace: Mapping[Site, Replace] | None = None
    ) -> Float[Tensor, "batch n_ctx d_model"]:
        self._apart("predictions")

    @override
    def unembed(self, final: Float[Tensor, "m d_model"]) -> Float[Tensor, "m vocab"]:
        self._apart("logits")

    @override
    def continue_tokens(self, prompts: Sequence[Sequence[int]], n: int, **how: Any) -> NoReturn:
        self._apart("text")

    @override
    def attention_bytes(self, n_ctx: int) -> int:
        return max(lm.attention_bytes(n_ctx) for lm in self.models.values())

    @override
    def logit_effects(self, directions: Float[Tensor, "m d_model"]) -> Float[Tensor, "m vocab"]:
        self._apart("logits")

    @override
    def unembedding(self) -> Float[Tensor, "vocab d_model"]:
        self._apart("an unembedding")

    @override
    def separated(self) -> "Together":
        return Together({name: lm.separated() for name, lm in self.models.items()})

    @override
    def shuffled(self, seed: int) -> "Together":
        return Together({name: lm.shuffled(seed) for name, lm in self.models.items()})

    def _apart(self, what: str) -> NoReturn:
        raise ConfigError(
            f"Each of {', '.join(self.models)} has {what} of its own. Take one of them, as "
            f"lm.models[{next(iter(self.models))!r}]; of an evaluation, leave losses out with "
            f"ce_tokens=0."
        )


def _of(name: str, changes: Mapping[Site, Replace]) -> dict[Site, Replace] | None:
    """Return the changes at one model's sites, by the names it has for them."""
    own = {s._replace(model=""): change for s, change in changes.items() if s.model == name}
    return own or None


def named(text: str) -> dict[str, str]:
    """Return the models of ``base=NAME,chat=NAME`` by their short names; empty for one model.

    Raises:
        ConfigError: a part has no short name, or two have the same.
    """
    if "=" not in text:
        return {}
    models: dict[str, str] = {}
    for part in text.split(","):
        short, sign, name = part.partition("=")
        if not sign or not name or short in models:
            raise ConfigError(
                f"Several models are named as base=NAME,chat=NAME, each once; got {text!r}."
            )
        models[short.strip()] = name.strip()
    return models
