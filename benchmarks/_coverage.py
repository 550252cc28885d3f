"""How often intervals held the truth, counted: what each line of `interval_coverage.py` is."""

import math

WANTED = (0.92, 0.98)


class Count:
    """Repetitions, how many had an interval, and how many of these held the truth.

    Args:
        kind: of interval.
        setting: how much there is of what is drawn.
        text: what is drawn.
        most: the largest share that is no fault; 1.0 of lines that count verdicts not given.
    """

    def __init__(self, kind, setting, text, most=WANTED[1]):
        self.kind, self.setting, self.text, self.most = kind, setting, text, most
        self.n = self.had = self.held = 0
        self.reason = ""

    def add(self, low, high, truth, reason=""):
        self.n += 1
        self.reason = reason or self.reason
        if low is None or math.isnan(low):
            return
        self.had += 1
        self.held += low <= truth <= high

    def score(self, score, truth):
        """Count the interval of a score, if it has one."""
        self.add(score.low, score.high, truth, score.reason)

    @property
    def share(self):
        return self.held / self.had if self.had else None

    @property
    def fine(self):
        """Inside what is wanted, or below by two, above by three standard errors of chance."""
        if self.share is None:
            return True
        low, high = WANTED[0], self.most
        below = 2 * math.sqrt(low * (1 - low) / self.had)
        return low - below <= self.share <= high + max(0.005, 3 * math.sqrt(0.0475 / self.had))

    def record(self):
        return {
            "kind": self.kind,
            "setting": self.setting,
            "text": self.text,
            "repetitions": self.n,
            "with_interval": self.had,
            "coverage": self.share,
        }
