"""The errors a user may meet. Each message says what came, what may come, what to do."""

import difflib
from collections.abc import Iterable


class SaekitError(Exception):
    """Base of every error that is the user's to mend; the CLI prints it without a traceback."""

    exit_code = 1


class ConfigError(SaekitError, ValueError):
    """A setting, alone or with others, cannot be run."""

    exit_code = 2


class UnknownNameError(SaekitError, LookupError):
    """A name (of a variant, site, corpus, field) that nothing answers to."""

    exit_code = 2


class ShapeError(SaekitError, ValueError):
    """A tensor does not fit what reads it."""


class FormatError(SaekitError, ValueError):
    """A file is damaged, or is not of the format it was taken for."""


class DataError(SaekitError, ValueError):
    """Text or activations that cannot be used: empty, binary, too short, not finite."""


class ResourceError(SaekitError, RuntimeError):
    """The machine lacks what was asked for: device, disk space, memory, network."""


class BudgetError(ResourceError):
    """A limit of what may be spent was reached; what was paid for is kept."""

    exit_code = 4


class TrainingError(SaekitError, RuntimeError):
    """Training cannot go on; the last good checkpoint is kept."""


class MissingExtraError(SaekitError, ImportError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str):
        super().__init__(
            f"`{library}` is needed here and is not installed. "
            f"Install it with: pip install 'saekit[{extra}]'"
        )


class Interrupted(SaekitError):
    """Ctrl-C or SIGTERM; a checkpoint was written first where there was one to write."""

    exit_code = 130


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return `` Did you mean `x`?`` with the nearest known names, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=cutoff)
    if not close:
        return ""
    return " Did you mean " + " or ".join(f"`{c}`" for c in close) + "?"
