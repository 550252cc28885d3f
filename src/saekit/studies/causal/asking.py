"""Prompts about things: what a model answers, and what it answers with an activation swapped.

An answer is the likeliest of the first tokens that the attribute's answers have. Answers that begin
with one token are one answer; what all begin with, as a space, is part of the prompt.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.progress import Progress
from saekit.models.base import LanguageModel, Replace
from saekit.models.sites import Site
from saekit.studies.causal.facts import PLACE, Facts
from saekit.studies.faithful.sequences import Padded, Shape, ordinary_ids, pad

NONE = -1  # the number of an answer that there is none of


class Prompts(NamedTuple):
    """The prompts of one attribute, one for each thing."""

    attribute: str
    rows: Padded
    at: Int[Tensor, "n"]  # the last token of the thing's name
    last: Int[Tensor, "n"]  # the last token of the prompt
    answer: Int[Tensor, "n"]  # its place among `candidates`; NONE: this thing is left out
    candidates: Int[Tensor, "c"]  # first tokens of answers

    @property
    def n_tokens(self) -> int:
        """Tokens of all prompts."""
        return int(self.rows.real.sum())


def prompts_of(facts: Facts, lm: LanguageModel, shape: Shape) -> dict[str, Prompts]:
    """Return prompts by attribute.

    A thing is left out of an attribute where it has no answer, where its name does not end at the
    end of a token, or where prompt and answer are more than the model reads.
    """
    return {name: _prompts(name, facts, lm, shape) for name in facts.prompts}


def _prompts(name: str, facts: Facts, lm: LanguageModel, shape: Shape) -> Prompts:
    head, _, tail = facts.prompts[name].partition(PLACE)
    encode = lm.tokenizer.encode
    starts = encode([f"{head}{entity}" for entity in facts.entities])
    asked = encode([f"{head}{entity}{tail}" for entity in facts.entities])
    told = encode(
        [f"{head}{e}{tail} {a}" for e, a in zip(facts.entities, facts.answers[name], strict=True)]
    )
    usable = [
        bool(answer) and whole[: len(start)] == start and full[: len(whole)] == whole
        for start, whole, full, answer in zip(starts, asked, told, facts.answers[name], strict=True)
    ]
    rest = [
        full[len(whole) :] if ok else []
        for ok, whole, full in zip(usable, asked, told, strict=True)
    ]
    shared: list[int] = []
    while first := {r[len(shared)] for r in rest if len(r) > len(shared)}:
        if len(first) > 1:
            break
        shared.append(first.pop())
    keys = [r[len(shared)] if len(r) > len(shared) else NONE for r in rest]
    bos = [] if shape.bos_id is None else [shape.bos_id]
    rows = [[*bos, *whole, *shared] for whole in asked]
    keys = [NONE if len(row) >= lm.n_ctx_max else key for row, key in zip(rows, keys, strict=True)]
    candidates = sorted({key for key in keys if key != NONE})
    place = {key: i for i, key in enumerate(candidates)} | {NONE: NONE}
    filler = int(ordinary_ids(lm.tokenizer, lm.vocab_size)[0])
    return Prompts(
        name,
        pad(rows, filler),
        torch.tensor([len(bos) + len(start) - 1 for start in starts]),
        torch.tensor([len(row) - 1 for row in rows]),
        torch.tensor([place[key] for key in keys]),
        torch.tensor(candidates, dtype=torch.int64),
    )


class Clean(NamedTuple):
    """What an untouched model makes of the prompts of an attribute."""

    logits: Float[Tensor, "n c"]  # of the candidates
    acts: dict[Site, Float[Tensor, "n d"]]  # at the last token of the name, float32
    kept: dict[Site, Bool[Tensor, "n"]]  # filled by the caller: whether a rule keeps that token

    def known(self, prompts: Prompts) -> Bool[Tensor, "n"]:
        """Return the things whose answer the model gives."""
        some = prompts.answer != NONE
        return some & (self.logits.argmax(1) == prompts.answer) if self.logits.shape[1] else some


class Asked(NamedTuple):
    """A model that is asked, some prompts at a time."""

    lm: LanguageModel
    batch_rows: int
    bar: Progress

    @torch.no_grad()
    def clean(self, prompts: Prompts, sites: list[Site]) -> Clean:
        """Return what the untouched model answers, and activations at the names."""
        n = len(prompts.at)
        acts: dict[Site, list[Tensor]] = {site: [] for site in sites}
        logits = []
        for first in range(0, n, self.batch_rows):
            some = torch.arange(first, min(first + self.batch_rows, n))

            def look(site: Site, some: Tensor = some) -> Replace:
                def see(x: Tensor) -> Tensor:
                    at = prompts.at[some].to(x.device)
                    acts[site].append(x[torch.arange(len(x), device=x.device), at].float().cpu())
                    return x

                return see

            logits.append(self._logits(prompts, some, {site: look(site) for site in sites}))
        return Clean(torch.cat(logits), {s: torch.cat(a) for s, a in acts.items()}, {})

    @torch.no_grad()
    def swapped(
        self, prompts: Prompts, which: Int[Tensor, "k"], site: Site, new: Float[Tensor, "k d"]
    ) -> Float[Tensor, "k c"]:
        """Return the logits of the candidates with other activations at the names.

        Args:
            prompts: of an attribute.
            which: things, one a row; one may come several times.
            site: where.
            new: what is put at the last token of the name.
        """
        found = [torch.zeros(0, len(prompts.candidates))]
        for first in range(0, len(which), self.batch_rows):
            some = which[first : first + self.batch_rows]
            values = new[first : first + self.batch_rows]
            found.append(self._logits(prompts, some, {site: _put(prompts.at[some], values)}))
        return torch.cat(found)

    def slopes(
        self, prompts: Prompts, pairs: Int[Tensor, "k two"], site: Site
    ) -> Float[Tensor, "k d"]:
        """Return the gradient, at each base's name, of its source's answer's logit less its own.

        Args:
            prompts: of an attribute.
            pairs: base and source, with an answer each.
            site: where.
        """
        found = [torch.zeros(0, self.lm.width(site))]
        for first in range(0, len(pairs), self.batch_rows):
            base, source = pairs[first : first + self.batch_rows].T
            leaf: list[Tensor] = []

            def hold(x: Tensor, leaf: list[Tensor] = leaf) -> Tensor:
                leaf.append(x.detach().requires_grad_())
                return leaf[0]

            part = Padded(prompts.rows.tokens[base], prompts.rows.real[base])
            tokens = part.rows(slice(0, len(base))).tokens.to(self.lm.device)
            logits = self.lm.logits(tokens, {site: hold}, grad=True)
            rows = torch.arange(len(base), device=logits.device)
            there = logits[rows, prompts.last[base].to(logits.device)].float()
            ids = [
                prompts.candidates[prompts.answer[one]].to(there.device) for one in (source, base)
            ]
            gap = there[rows, ids[0]] - there[rows, ids[1]]
            (slope,) = torch.autograd.grad(gap.sum(), leaf[0])
            at = prompts.at[base].to(slope.device)
            found.append(slope[torch.arange(len(base), device=slope.device), at].float().cpu())
            self.bar.add(tokens.numel())
        return torch.cat(found)

    def _logits(
        self, prompts: Prompts, some: Tensor, replace: dict[Site, Callable[[Tensor], Tensor]]
    ) -> Float[Tensor, "k c"]:
        part = Padded(prompts.rows.tokens[some], prompts.rows.real[some])
        tokens = part.rows(slice(0, len(some))).tokens.to(self.lm.device)
        final = self.lm.final(tokens, replace)
        rows = torch.arange(len(some), device=final.device)
        logits = self.lm.unembed(final[rows, prompts.last[some].to(final.device)])
        self.bar.add(tokens.numel())
        return logits[:, prompts.candidates.to(logits.device)].float().cpu()


def _put(at: Int[Tensor, "k"], values: Float[Tensor, "k d"]) -> Replace:
    def replace(x: Tensor) -> Tensor:
        out = x.clone()
        out[torch.arange(len(x), device=x.device), at.to(x.device)] = values.to(x)
        return out

    return replace
