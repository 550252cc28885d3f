"""Latent: one latent of an index, as it is printed and as a notebook shows it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from saekit.core import notebook

if TYPE_CHECKING:
    from saekit.analysis.index_folder import Index

SHOWN_TEXTS, SHOWN_TOKENS, SHOWN_LOGITS = 6, 40, 8
FACTS = ("density", "count", "mean", "max", "documents", "first_share")


@final
class Latent:
    """All that an index keeps of a latent.

    Args:
        index: the index.
        number: 0 to index.d_sae - 1.

    Attributes:
        record: JSON-ready; docs/explorer.md has its fields.

    Raises:
        UnknownNameError: there is no such latent.
        FormatError: a file of the index is damaged.
    """

    def __init__(self, index: "Index", number: int):
        self.index, self.number = index, number
        self.record: dict[str, Any] = index.record(number)

    def __repr__(self) -> str:
        values = self.record["values"]
        said = [f"{n} {notebook.number(values[n])}" for n in FACTS if values.get(n) is not None]
        contexts = repr(self.index.contexts(self.number))
        head, _, rest = contexts.partition("\n")
        return "\n".join(filter(None, [head, f"  {', '.join(said)}", rest]))

    def _repr_html_(self) -> str:
        record, columns = self.record, self.index.columns
        values = {
            f"{columns[n].label} ({columns[n].unit})" if columns[n].unit else columns[n].label: v
            for n, v in record["values"].items()
            if n in FACTS
        }
        histogram = record["histogram"]
        return notebook.page(
            f"Latent {self.number}",
            notebook.facts({"SAE": f"{self.index.site} of {self.index.model}"} | values),
            notebook.section("Strongest texts", self._texts()),
            notebook.section(
                "Activations by size",
                notebook.histogram(histogram["edges"], histogram["counts"], "act units")
                if histogram
                else "",
            ),
            notebook.section("Logits", self._logits(record["logits"])),
            notebook.section("Nearest directions", self._neighbours(record["neighbours"])),
        )

    def _texts(self) -> str:
        shown = []
        largest = self.record["values"].get("max")
        for one in self.record["examples"]["top"][:SHOWN_TEXTS]:
            acts = dict(zip(one["at"], one["acts"], strict=True))
            end = min(len(one["tokens"]), (one["peak"] or 0) + SHOWN_TOKENS // 4 + 1)
            first = max(0, end - SHOWN_TOKENS)
            tokens = [
                notebook.token(
                    self.record["strings"][one["tokens"][i]],
                    abs(acts.get(i, 0.0)) / abs(largest) if largest else 0.0,
                    notebook.number(acts[i]) if i in acts else "",
                )
                for i in range(first, end)
            ]
            value = notebook.escaped(notebook.number(one["value"]))
            shown.append(f'<div class="r"><span class="n">{value}</span> {"".join(tokens)}</div>')
        return "\n".join(shown)

    def _logits(self, logits: Mapping[str, Any] | None) -> str:
        if not logits:
            return ""
        rows = []
        for side, label in (("promoted", "promotes"), ("suppressed", "suppresses")):
            listed = [
                notebook.token(self.record["strings"][i], 0.25, notebook.number(effect))
                for i, effect in logits[side][:SHOWN_LOGITS]
            ]
            rows.append((notebook.escaped(label), " ".join(listed)))
        return notebook.table(("", ""), rows)

    def _neighbours(self, neighbours: Mapping[str, Any]) -> str:
        near = neighbours["decoder"][:SHOWN_LOGITS]
        return notebook.escaped(
            ", ".join(f"{latent} ({notebook.number(cosine)})" for latent, cosine in near)
        )
