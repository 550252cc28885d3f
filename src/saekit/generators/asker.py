"""Asker: every question once, within one budget for all that is asked in a run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import final

from saekit.core.progress import Progress
from saekit.generators.asking import BUDGET, ask
from saekit.generators.base import Generator, Reply, Request
from saekit.generators.cache import ReplyCache
from saekit.generators.journal import Journal
from saekit.generators.limits import Limits, Spent

NOTHING = Spent(requests=0, read=0, written=0, usd=0.0)


@final
class Asker:
    """Asks a generator, keeps every reply, and stops where a limit would be passed.

    Equal requests are sent once. Limits are of all calls together.

    Args:
        generator: who is asked.
        journal: file of the replies; None: they are kept in memory, and in the cache.
        limits: what may be spent, and how fast; None: the defaults.
        cache: replies of other runs; None: none are used.
        shown: show progress on stderr.
        spent: of the same limits before.
    """

    def __init__(  # noqa: PLR0913 - the words of `ask`
        self,
        generator: Generator,
        journal: Path | None,
        limits: Limits | None = None,
        cache: ReplyCache | None = None,
        shown: bool = False,
        spent: Spent = NOTHING,
    ):
        self.generator, self.journal = generator, Journal(journal)
        self.limits, self.cache, self.shown = limits or Limits(), cache, shown
        self.who = generator.identity()
        self.stopped = self.reason = ""
        self.failures = self.known = self.sent = 0
        self.spent = spent

    def replies(self, requests: Sequence[Request], what: str) -> dict[str, Reply]:
        """Return the replies to some requests by `key`; those that were not answered are lacking.

        Args:
            requests: any number, equal ones among them.
            what: they are about, for the progress bar.
        """
        unique = list({self.key(request): request for request in requests}.items())
        over = bool(self.stopped)
        left = self._left()
        if over or left is None:  # what is known costs nothing
            if left is None and not over:
                self.stopped, self.reason = BUDGET, "the limits of the run are used up"
            unique = [(key, one) for key, one in unique if self.journal.get(key) is not None]
            left = self.limits
        if not unique:
            return {}
        bar = Progress(what, len(unique), "requests", shown=self.shown)
        answers = ask(
            self.generator,
            [request for _, request in unique],
            self.journal,
            cache=self.cache,
            limits=left,
            told=bar.add,
        )
        bar.close()
        spent, before = answers.spent, self.spent
        self.spent = Spent(
            requests=before.requests + spent.requests,
            read=before.read + spent.read,
            written=before.written + spent.written,
            usd=(before.usd or 0.0) + (spent.usd or 0.0),
        )
        self.known += answers.known
        self.sent += spent.requests
        self.failures += len(answers.failures)
        if answers.stopped and not self.stopped:
            self.stopped, self.reason = answers.stopped, answers.reason
        return {unique[i][0]: reply for i, reply in answers.replies.items()}

    def key(self, request: Request) -> str:
        """Return what tells a request from every other."""
        return request.key(self.who)

    def _left(self) -> Limits | None:
        """Return the limits of what may still be spent; None where one is used up."""
        spent = self.spent
        used = (
            (self.limits.requests, spent.requests),
            (self.limits.tokens, spent.read + spent.written),
            (self.limits.usd, spent.usd or 0.0),
        )
        over = any(most and gone >= most for most, gone in used)
        return None if over else _remaining(self.limits, spent)


def _remaining(limits: Limits, spent: Spent) -> Limits:
    """Return limits of which a part is spent; none of them is used up."""
    changed: dict[str, int | float] = {}
    if limits.requests:
        changed["requests"] = limits.requests - spent.requests
    if limits.tokens:
        changed["tokens"] = limits.tokens - spent.read - spent.written
    if limits.usd:
        changed["usd"] = limits.usd - (spent.usd or 0.0)
    return dataclasses.replace(limits, **changed)
