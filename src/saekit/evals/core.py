"""Core: what an SAE keeps of activations, and of the language model's predictions."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple, final

import torch
from typing_extensions import override

from saekit.core import provenance
from saekit.core.config import setting
from saekit.core.errors import ConfigError, DataError
from saekit.core.files import digest
from saekit.core.progress import Progress
from saekit.core.result import Result
from saekit.data.base import HeldOut
from saekit.data.tokenise import Rows
from saekit.evals._plan import plan
from saekit.evals._reconstruction import Reconstruction
from saekit.evals._replacing import Ablated
from saekit.evals._splicing import Splicing, abreast, compare
from saekit.evals.base import Eval, Subject, Tools, made_from, registry
from saekit.evals.intervals import Blocks, BlockSums, blocks_of_documents
from saekit.metrics.base import in_order

ABLATIONS = 3  # spliced, zero, mean: a pass each, beside one clean


class Measured(NamedTuple):
    """What was measured of one SAE, in sums by block of text."""

    subject: Subject
    part: Reconstruction
    splicing: Splicing
    rows: Rows
    blocks: Blocks  # of the rows that losses were measured on

    @property
    def sums(self) -> dict[str, BlockSums]:
        """The sums of every metric, by name."""
        return self.part.blocks | self.splicing.sums(self.blocks)


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Core(Eval):
    """Reconstruction, sparsity, and how much worse the language model predicts, on held-out text.

    Every metric of the registry, over the tokens that the SAE's rules keep; for a transcoder,
    those kept both where it reads and where it predicts. Reconstruction
    and sparsity take one partial forward pass over `n_tokens`. For the first `ce_tokens` of
    them the next-token loss is measured with the activations at the write site left alone
    (clean), replaced by the SAE's prediction (spliced), by 0 (zero) and by the mean of kept
    activations over all `n_tokens` of this evaluation (mean). Only kept tokens are replaced;
    the others keep their own activations in every case. The loss counts at positions whose
    next token exists in the row and is not special. The SAE computes in float32, the model
    in its own precision; losses are float32, sums float64.

    Scores come with 95 % intervals over documents. Where there are many, neighbouring documents
    form blocks, and `n` is the number of blocks. Too few documents give no interval.

    If an SAE codes several sites jointly, a token counts only where it counts at all of them. It
    is measured as one vector of all sites, in act units, so sites with large activations weigh
    most. Each site is replaced alone and losses are means over sites; `details` has the FVU
    and the losses of each. If an SAE codes windows, only tokens in a window are measured and
    replaced, and windows are cut as in training; `details` counts tokens left over ("cut").

    Args:
        n_tokens: tokens read, special ones included, rounded up to whole rows.
        ce_tokens: how many of them pass through the whole model; 0 leaves the losses out.
        n_blocks: the most blocks of whole documents for the intervals.
        batch_rows: the most rows of a forward pass; fewer where rows are long, so that a
            pass stays within 1 GB. Changes no score beyond rounding.

    Raises:
        ConfigError: a number is out of range.

    Cost:
        n_tokens to the write site, and ce_tokens through the whole model 1 + 3 * sites times.

    Reads:
        Held-out rows.

    Source:
        Karvonen et al. 2025, arXiv:2503.09532 (SAEBench core).
        Differs: sums over all tokens in place of means of batches; both ablations; kept
        tokens only; intervals.
    """

    name: ClassVar[str] = "core"
    version: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    events: ClassVar[frozenset[str]] = frozenset({"site", "seq"})
    headline: ClassVar[tuple[str, ...]] = ("fvu", "l0", "ce_recovered_zero", "kl", "dead")

    n_tokens: int = setting(2**16, least=1)
    ce_tokens: int = setting(2**14, least=0)
    n_blocks: int = setting(128, least=1)
    batch_rows: int = setting(8, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ce_tokens > self.n_tokens:
            raise ConfigError(
                f"`ce_tokens` must be at most `n_tokens`; got ce_tokens={self.ce_tokens}, "
                f"n_tokens={self.n_tokens}. Lower `ce_tokens` or raise `n_tokens`."
            )

    @classmethod
    @override
    def example(cls) -> "Core":
        return cls(n_tokens=1024, ce_tokens=768)

    @override
    def run(self, subject: Subject, tools: Tools) -> Result:
        return self.run_all([subject], tools)[0]

    @override
    def run_all(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        """Measure SAEs of one model on the same rows, whose untouched pass they share.

        Passes with activations ablated are shared too where the same tokens count.
        """
        began = time.monotonic()
        found = self.measure(subjects, tools)
        return [self._result(one, tools, began) for one in found]

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], tools: Tools) -> list[Measured]:
        """Return the sums of every metric of each SAE, by block of the same text.

        Raises: as `run`.
        """
        for subject in subjects:
            self.check(subject)
        if not subjects:
            return []
        rows = self.rows_of(tools)
        return self._measure(subjects, rows, shown=tools.shown)

    def _result(self, found: Measured, tools: Tools, began: float) -> Result:
        part, splicing, rows = found.part, found.splicing, found.rows
        sums, tokens = found.sums, rows.tokens
        scores = {name: sums[name].score() for name in in_order()}
        details = {
            **part.details(),
            "documents": len(rows.doc_ids.unique()),
            "rows": {"wanted": math.ceil(self.n_tokens / tokens.shape[1]), "read": len(tokens)},
            "n_ctx": tokens.shape[1],
            "scored_tokens": splicing.n_scored,
            "losses": splicing.mean_losses(),
            "mean_from": "kept tokens of this evaluation",
            "tokens_sha256": digest([tokens.numpy().tobytes()]),
        }
        if found.subject.beside:
            details["sites"] = self._by_site(part, splicing, found.blocks)
        notes = self.notes_on(rows, tools.split)
        made = _made_from(found.subject, tools.seed, began) | {"notes": notes}
        return self.result(scores, details, made)

    def _by_site(
        self, part: Reconstruction, splicing: Splicing, blocks: Blocks
    ) -> dict[str, dict[str, Any]]:
        """Return the FVU, and the scores and losses with that site alone replaced, by site."""
        found = {}
        for site, fvu in part.by_site.items():
            sums = splicing.sums(blocks, site) | {"fvu": fvu}
            scores = {name: asdict(sums[name].score()) for name in sorted(sums)}
            found[str(site)] = {"scores": scores, "losses": splicing.mean_losses(site)}
        return found

    def notes_on(self, text: Rows, split: HeldOut) -> list[str]:
        """Return a note where the text that was read is shorter than `n_tokens`."""
        return provenance.shortfall(self.n_tokens, text.tokens.numel(), f"{split} text")

    def rows_of(self, tools: Tools) -> Rows:
        """Return the rows to measure; fewer than wanted where the text is shorter (`notes_on`).

        Raises:
            DataError: there is no row of text.
        """
        found: list[Rows] = []
        missing = 1
        for rows in tools.rows(self.batch_rows):
            found.append(rows)
            n_found = sum(len(r.tokens) for r in found)
            missing = math.ceil(self.n_tokens / rows.tokens.shape[1]) - n_found
            if missing <= 0:
                break
        if not sum(len(r.tokens) for r in found):
            raise DataError(
                "The held-out text does not fill one row of tokens. Give the corpus more text, "
                "or use a shorter context."
            )
        tokens = torch.cat([r.tokens.cpu() for r in found])
        n_rows = len(tokens) + min(missing, 0)
        return Rows(tokens[:n_rows], torch.cat([r.doc_ids.cpu() for r in found])[:n_rows], 0)

    def _measure(self, subjects: Sequence[Subject], text: Rows, *, shown: bool) -> list[Measured]:
        """Run every forward pass; the clean one of a loss also gives its rows' activations."""
        lm, tokens = subjects[0].lm, text.tokens
        assert lm is not None  # `check` refuses it
        n_rows, n_ctx = tokens.shape
        planned = plan(subjects, n_ctx, n_rows, self)
        planned.say(shown=shown)
        n_full = min(math.ceil(self.ce_tokens / n_ctx), n_rows)
        passes = n_rows + ABLATIONS * n_full * sum(len(one.ways) for one in subjects)
        bar = Progress(self.name, passes * n_ctx, shown=shown)
        blocks = blocks_of_documents(text.doc_ids, self.n_blocks)
        blocks_full = blocks_of_documents(text.doc_ids[:n_full], self.n_blocks)
        ablated: Ablated = {}  # passes that do not depend on an SAE, shared by all
        found = [
            Measured(
                one,
                Reconstruction(one, blocks),
                Splicing(lm, [w.write for w in one.ways], one.rule.special_ids, bar, ablated),
                text,
                blocks_full,
            )
            for one in subjects
        ]
        ways = [way for one in subjects for way in one.ways]
        sites = list(dict.fromkeys([*(w.read for w in ways), *(w.write for w in ways)]))
        size = planned.rows
        for first in range(0, n_full, size):
            rows = tokens[first : min(first + size, n_full)]
            clean, acts = found[0].splicing.clean(rows, sites)
            some = abreast(clean, max(len(one.ways) for one in subjects))
            for at in range(0, len(found), some):
                part = found[at : at + some]
                placed = [(one.splicing, one.part.add(first, rows, acts)) for one in part]
                compare(placed, rows, clean, acts)
        for first in range(n_full, n_rows, size):
            rows = tokens[first : first + size]
            acts = lm.read(rows, sites)
            for one in found:
                one.part.add(first, rows, acts)
            bar.add(rows.numel())
        for one in found:
            one.splicing.ablate_mean(one.part.mean)
        bar.close()
        return found


def _made_from(subject: Subject, seed: int, began: float) -> dict[str, Any]:
    """Return what the numbers came from, and how long they took."""
    return made_from(subject, seed, began) | {
        "read": [str(way.read) for way in subject.ways] if subject.beside else str(subject.read),
        "write": [str(way.write) for way in subject.ways] if subject.beside else str(subject.write),
        "rules": {
            str(site): rule.to_dict()
            for way in subject.ways
            for site, rule in ((way.write, way.write_rule), (way.read, way.rule))
            if rule is not None
        },
        "window": subject.window,
    }
