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


@final
class Asker:
    """Asks a generator, keeps every reply, and stops where a limit would be passed.

    Equal requests are sent once. Limits are of all calls together.

    Args:
        generator: who is asked.
        journal: file of the replies.
        limits: what may be spent, and how fast; None: the defaults.
        cache: replies of other runs; None: none are used.
        shown: show progress on stderr.
    """

    def __init__(
        self,
        generator: Generator,
        journal: Path,
        limits: Limits | None = None,
        cache: ReplyCache | None = None,
        shown: bool = False,
    ):
        self.generator, self.journal = generator, Journal(journal)
        self.limits, self.cache, self.shown = limits or Limits(), cache, shown
        self.who = generator.identity()
        self.stopped = self.reason = ""
        self.failures = self.known = self.sent = 0
        self._spent = Spent(requests=0, read=0, written=0, usd=0.0)

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
        spent, before = answers.spent, self._spent
        self._spent = Spent(
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
        used = {
            "requests": self._spent.requests,
            "tokens": self._spent.read + self._spent.written,
            "usd": self._spent.usd or 0.0,
        }
        changed = {}
        for name, spent in used.items():
            most = getattr(self.limits, name)
            if not most:
                continue
            if spent >= most:
                return None
            changed[name] = most - spent
        return dataclasses.replace(self.limits, **changed)
