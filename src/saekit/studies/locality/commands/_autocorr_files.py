"""The files of `saekit locality autocorr`: tables, traces, texts, figures, cards."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from saekit.activations.latents import LatentStore
    from saekit.analysis.autocorrelation import Curves
    from saekit.analysis.document_peaks import DocPeaks
    from saekit.models.base import LanguageModel
    from saekit.studies.locality.events.event_entropy import EventScores
    from saekit.studies.locality.events.neuronpedia import Record

RADIUS = 64  # tokens of a trace to each side of its peak


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked of a run.

    Args:
        tokens: of whole documents to read; 0: an index is used.
        corpus: text by name; None: that of the SAE's run.
        split: of it.
        latents: by number; None: they are drawn.
        n_latents: how many are drawn.
        density: least and largest share of tokens of drawn ones.
        top: peaks per latent; drawn latents are on in as many documents.
        threshold: activations above this are on, act units.
        targets: active positions per latent whose H_pos is taken.
        n_ctx: tokens of a window, of H_pos.
        seed: decides all that is drawn.
    """

    tokens: int
    corpus: str | None
    split: str
    latents: list[int] | None
    n_latents: int
    density: tuple[float, float]
    top: int
    threshold: float
    targets: int
    n_ctx: int
    seed: int

    @property
    def filters(self) -> dict[str, Any]:
        """What drawn latents had to pass; null: it was not asked of them."""
        drawn = self.latents is None
        return {
            "density": self.density if drawn else None,  # least and largest share of tokens
            "docs_active": self.top if drawn else None,  # documents they are on in, at least
        }


class SelectedLatents(NamedTuple):
    """The latents that are looked at."""

    latents: list[int]
    rows: dict[str, list[Any]]  # selected_features.csv: the pool, and what passes


def as_tensor(latents: list[int]) -> "Tensor":
    """Return latents as an index."""
    import torch

    return torch.tensor(latents, dtype=torch.int64)


def tables(
    folder: Path,
    store: "LatentStore",
    curves: "Curves",
    peaks: "DocPeaks",
    selected: SelectedLatents,
    kind: str,
) -> None:
    """Write the latents, the peaks, their traces and the curves."""
    import numpy as np

    from saekit.analysis.traces import traces
    from saekit.core.files import replace_with
    from saekit.core.result import Table
    from saekit.data.table_files import write

    write(Table(columns=selected.rows), folder / "selected_features", kind)
    examples = Table(
        columns={
            "feature_id": peaks.latent.tolist(),
            "doc_id": peaks.doc.tolist(),
            "peak_position": peaks.doc_pos.tolist(),
            "peak_value": peaks.value.tolist(),
            "rank": peaks.rank.tolist(),
        },
        units={"peak_position": "tokens", "peak_value": "act units"},
    )
    write(examples, folder / "top_examples", kind)
    rows = traces(store, peaks, RADIUS)
    data = io.BytesIO()
    arrays = {f"f{a}": rows[peaks.latent == a].numpy() for a in selected.latents}
    np.savez_compressed(data, **arrays)  # pyright: ignore[reportArgumentType]
    replace_with(folder / "activation_traces.npz", data.getvalue())
    wanted = as_tensor(selected.latents)
    part = curves._replace(acts=curves.acts[wanted], on=curves.on[wanted])
    table = part.table()
    names = [selected.latents[i] for i in table.columns.pop("latent")]
    table = Table(columns={"feature_id": names, **table.columns}, units=table.units)
    write(table, folder / "autocorr_curves", kind)


def contexts(
    folder: Path, lm: "LanguageModel", store: "LatentStore", peaks: "DocPeaks", most: int = 3
) -> None:
    """Write the strongest contexts of each latent, for a reader to check that they are sane."""
    from saekit.core.files import write_text
    from saekit.studies.locality.events.base import from_store

    best = peaks.only(peaks.rank < most)
    lines = ["# Strongest contexts, one a document"]
    for event in from_store(store, best.latent, best.place, best.value, n_ctx=24):
        if event.rank == 0:
            lines += ["", f"## latent {event.latent}", ""]
        pieces = [p.replace("\n", " ").replace("`", "'") for p in lm.tokenizer.pieces(event.ids)]
        text = f"{''.join(pieces[:-1])}[[{pieces[-1]}]]"
        lines.append(f"- {event.value:.3g}, document {event.doc}: `{text}`")
    write_text(folder / "sanity_contexts.md", "\n".join(lines) + "\n")


def summary(
    folder: Path, curves: "Curves", selected: SelectedLatents, H: dict[int, list[float]], kind: str
) -> dict[str, list[int]]:
    """Write feature_summary and the corners; none where too few latents have both."""
    import torch

    from saekit.core.errors import DataError
    from saekit.core.files import write_json
    from saekit.core.result import Table
    from saekit.core.stats import plain
    from saekit.data.table_files import write
    from saekit.studies.locality.latents.corners import corners

    lengths = curves.lengths()
    each = [H.get(a, []) for a in selected.latents]
    mean = [plain.mean(h) for h in each]
    columns = {
        "feature_id": selected.latents,
        "mean_H_pos": mean,
        "std_H_pos": [plain.deviation(h, sample=True) for h in each],
        "n_targets": [len(h) for h in each],
    }
    columns |= {
        name: [values[a] for a in selected.latents]
        for name, values in lengths.columns.items()
        if name != "latent"
    }
    table = Table(columns=columns, units=lengths.units | {"mean_H_pos": "bits"})
    write(table, folder / "feature_summary", kind)
    if not H:
        return {}
    try:
        found = corners(
            as_tensor(selected.latents),
            torch.tensor(mean, dtype=torch.float64),
            torch.tensor(columns["tau_1e"], dtype=torch.float64),
        )
    except DataError:
        return {}
    write_json(folder / "corner_categories.json", found)
    return found


def draw(
    folder: Path, curves: "Curves", selected: SelectedLatents, H: dict[int, list[float]]
) -> list[Path]:
    """Draw the curves; lengths and densities against entropies where there are any."""
    from saekit.studies.locality.figures import autocorrelation, corners, h_pos_frequency

    drawn = [folder / "figures" / "autocorrelation.png"]
    autocorrelation.draw(curves, selected.latents, drawn[0])
    if H:
        drawn.append(folder / "figures" / "corners.png")
        tau = curves.lengths().columns["tau_1e"]
        corners.draw({a: (h, tau[a]) for a, h in H.items()}, drawn[1])
        drawn.append(folder / "figures" / "h_pos_vs_frequency.png")
        share = curves.lengths().columns["density"]
        h_pos_frequency.draw({a: (h, share[a]) for a, h in H.items()}, drawn[2])
    return drawn


def corner_cards(
    folder: Path,
    store: "LatentStore",
    lm: "LanguageModel",
    scored: "EventScores",
    peaks: "DocPeaks",
    corner: dict[str, list[int]],
    most: int = 6,
) -> Path:
    """Write cards of corner latents: scored texts, and the mean trace around peaks."""
    from saekit.analysis.traces import mean_trace
    from saekit.studies.locality.figures import case_studies

    cards = []
    for name, latents in corner.items():
        for latent in latents[:most]:
            mine = peaks.of(as_tensor([latent]))
            trace = mean_trace(store, mine, RADIUS)
            which = [
                i
                for i, e in enumerate(scored.events)
                if e.latent == latent and scored.status[i] == "ok"
            ]
            shown = []
            for i in which[:5]:
                event, n = scored.events[i], min(16, int(scored.n_positions[i]))
                shown.append(
                    case_studies.CardEvent(
                        lm.tokenizer.pieces(event.ids)[-n:],
                        event.ids[-n:],
                        scored.J[i, -n:].tolist(),
                        event.value,
                        float(scored.H[i]),
                        int(scored.n_positions[i]),
                    )
                )
            H = [float(scored.H[i]) for i in which]
            cards.append(case_studies.Card(latent, "", H, shown, (name.replace("_", ", "),), trace))
    return case_studies.write(
        folder / "corner_features.html",
        cards,
        n_ctx=scored.n_ctx,
        title="Corner latents",
        facts={
            "model": lm.name,
            "latents": len(cards),
            "trace": f"mean of f / f(peak) over documents, {RADIUS} tokens to each side",
            "texts": "drawn at random where the latent is on",
        },
    )


def neuronpedia_cards(
    folder: Path,
    records: "Mapping[int, Record]",
    H: dict[int, list[float]],
    n_ctx: int,
    corner: dict[str, list[int]],
    most: int = 6,
) -> Path | None:
    """Write cards of corner latents with Neuronpedia's texts, tinted by its activations.

    None where it has no text of any.
    """
    from saekit.studies.locality.events.neuronpedia_events import SENTENCE_PIECE
    from saekit.studies.locality.figures import case_studies

    cards = []
    for name, latents in corner.items():
        for latent in [a for a in latents if a in records][:most]:
            record, shown = records[latent], []
            for text in sorted(record.activations, key=lambda a: -abs(a.value))[:5]:
                if text.values:
                    first, end = max(0, text.peak - 15), text.peak + 1
                    shown.append(
                        case_studies.CardEvent(
                            [t.replace(SENTENCE_PIECE, " ") for t in text.tokens[first:end]],
                            (),
                            text.values[first:end],
                            text.value,
                            float("nan"),
                            end - first,
                        )
                    )
            cards.append(
                case_studies.Card(
                    latent, record.description, H.get(latent, []), shown, (name.replace("_", ", "),)
                )
            )
    if not cards:
        return None
    facts = {
        "latents": len(cards),
        "texts": "Neuronpedia's, the strongest",
        "H_pos": "ours, of texts drawn at random where the latent is on",
    }
    return case_studies.write(
        folder / "corner_features_neuronpedia.html",
        cards,
        n_ctx=n_ctx,
        facts=facts,
        title="Corner latents on Neuronpedia's texts",
        tint="activation",
    )


def manifest(
    folder: Path,
    record: dict[str, Any],
    store: "LatentStore",
    question: Any,
    request: Request,
    lm: "LanguageModel",
) -> None:
    """Write how the run was made."""
    from saekit.core import provenance
    from saekit.core.files import write_json

    write_json(
        folder / "run_config.json",
        record
        | {
            "experiment": "feature_activation_autocorr",
            "preset": lm.name,
            "question": question.to_dict(),
            "documents": store.meta.get("documents"),
            "corpus": request.corpus,
            "split": request.split,
            "seed": request.seed,
            "provenance": provenance.collect(request.seed),
        },
    )


def corpus_meta(
    folder: Path, store: "LatentStore", n_tokens: int, lm: "LanguageModel", request: Request
) -> None:
    """Write what the text was: that of a name, or, without one, that of the SAE's run.

    Args:
        folder: of the run.
        store: the codes of the text.
        n_tokens: that count.
        lm: the model.
        request: names the corpus, where text was read for this run.
    """
    from saekit.activations.text_axis import texts
    from saekit.core.files import write_json
    from saekit.data.open import open_corpus

    corpus = request.corpus if request.tokens else None
    run = (store.meta.get("card") or {}).get("run", {})
    dataset = open_corpus(corpus).to_dict() if corpus else run.get("corpus")
    described = dataset or {}
    n_docs = 0
    for text in texts(store):
        n_docs = int(text.stretch[-1]) + 1
    write_json(
        folder / "corpus_meta.json",
        {
            "dataset": dataset,
            "split": store.meta.get("split"),
            "n_docs": n_docs,
            "n_tokens": n_tokens,
            "documents": store.meta.get("documents"),
            "config": described.get("config"),
            "revision": described.get("revision"),
            "filters": {
                "least_doc_tokens": (store.meta.get("documents") or {}).get("least_doc_tokens")
            },
            "seed": request.seed,
            "tokenizer": lm.tokenizer.digest,
        },
    )
