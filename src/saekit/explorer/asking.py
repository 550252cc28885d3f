"""From what a page asks to what the worker gets: ids become folders, multiples become act units."""

from typing import Any

from saekit.explorer.labels import ASKED
from saekit.explorer.library import Entry
from saekit.explorer.problems import Problem
from saekit.explorer.views import Views


class Asking:
    """Turns the settings of a job, checked by its schema, into those of the worker.

    Args:
        views: what the ids name.
    """

    def __init__(self, views: Views):
        self._views = views

    def arguments(self, kind: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Return what the worker gets for a job.

        Raises:
            Problem: an id names nothing, a latent is out of range, or an index is needed.
        """
        entry = self._views.library.sae(asked["sae"])
        found = asked | {"sae": _place(entry)}
        if kind == "match":
            found["other"] = _place(self._views.library.sae(asked["other"]))
        if kind == "index" and self._views.labels.why == ASKED:
            raise Problem(403, "The server was started read-only.", entry.command())
        self._check_latent(entry, asked.get("latent"))
        if kind == "steer" and asked["scale"] is not None:
            found["max"] = self._largest(entry, asked["latent"])
        if kind == "logits":
            found["max"] = None
            if asked["latent"] is not None and asked["unit"] == "max":
                at = self._at(entry, asked["site"])
                found["max"] = self._largest(at, asked["latent"])
            found["site"] = asked["site"] or entry.reads
        return found

    def _check_latent(self, entry: Entry, latent: int | None) -> None:
        d_sae = entry.d_sae
        if latent is not None and d_sae is not None and latent >= d_sae:
            raise Problem(404, f"There is no latent {latent}; this SAE has latents 0..{d_sae - 1}.")

    def _at(self, entry: Entry, site: str | None) -> Entry:
        """Return the entry of another site that shares the SAE."""
        if site is None or site == entry.site:
            return entry
        saes = self._views.library.scan().saes
        others = [saes[name] for name in entry.family if name in saes]
        return next((one for one in others if one.site == site), entry)

    def _largest(self, entry: Entry, latent: int) -> float:
        """Return the activation of largest size that the index knows of a latent."""
        index = self._views.index(entry)
        largest = float(index.column("max")[latent])
        if not largest or largest != largest:
            raise Problem(
                400,
                f"Latent {latent} is never on in the index, so multiples of its maximum say "
                f"nothing.",
                "Steer in act units instead.",
            )
        return largest


def _place(entry: Entry) -> dict[str, Any]:
    """Return where an SAE is, as the worker loads it.

    Raises:
        Problem: there is an index alone.
    """
    if not entry.usable:
        raise Problem(
            409,
            f"{entry.title} is an index whose SAE is not in this folder, so no text can be run "
            f"through it.",
            f"Serve the folder of its SAE, or make its index there: {entry.command()}",
        )
    name = entry.card.get("model", {}).get("name")
    said = None if entry.native or name in (None, "unknown") else str(name)
    return {"folder": str(entry.folder), "site": entry.reads, "model": said}
