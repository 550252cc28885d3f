"""What a result of `absorption` says of each letter, as lines."""

from typing import Any

from saekit.core.errors import ConfigError, UnknownNameError
from saekit.core.result import Result


def told(result: Result, letter: str | None = None) -> dict[str, dict[str, Any]]:
    """Return what a result says of each letter, or of one.

    Raises:
        ConfigError: it is of another evaluation.
        UnknownNameError: the letter was not measured; the reason is named.
    """
    if result.name != "absorption":
        raise ConfigError(
            f"A result of `absorption` is needed; got `{result.name}`. Measure it: saekit eval RUN "
            f"--eval absorption"
        )
    found = result.details["letters"]
    if letter is None:
        return found
    if letter not in found:
        why = result.details["letters_left_out"].get(letter, "it is none of a to z")
        raise UnknownNameError(
            f"The letter {letter!r:.20} was not measured: {why}. Measured are "
            f"{', '.join(found) or 'none'}."
        )
    return {letter: found[letter]}


def lines(found: dict[str, dict[str, Any]], *, words: bool) -> list[str]:
    """Return a line a letter; with its absorbed words, where they are asked for."""
    out = ["letter  latents for it          F1    absorbed  in full  words"]
    for letter, one in found.items():
        absorbed, full = (one[k]["value"] for k in ("absorption_fraction", "full_absorption"))
        latents = ", ".join(map(str, one["main"][:4])) + (" ..." if len(one["main"]) > 4 else "")  # noqa: PLR2004
        out.append(
            f"{letter:<6}  {latents or 'none':<22}  {one['main_f1']:.2f}  "
            f"{absorbed:>8.3f}  {full:>7.3f}  {one['words']:>5}"
        )
        if words:
            for word, latent, share, full in one["absorbed"]:
                how = "in full" if full else f"{share:.0%}"
                out.append(f"        {word}: {how}, by latent {latent}")
            if more := one["n_absorbed"] - len(one["absorbed"]):
                out.append(f"        and {more} more")
    return out if len(out) > 1 else ["No letter was measured."]
