"""One HTML file of a prompt: tokens, latents at every layer, examples, logits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saekit.core.files import replace_with
from saekit.report.bare_page import escaped as _e
from saekit.report.page import document
from saekit.report.payload import short, to_script
from saekit.studies.layers.prompt import PromptReading, Steering, example_records
from saekit.studies.layers.survey import Survey

N_LOGITS = 8  # tokens a list
N_BINS = 64
STRONGEST = 3  # latents of each token and layer whose examples are in the page
N_EXAMPLES = 3
STEER_FACTOR = 1.0  # mean norms, where the reader asked for none


def write_prompt_page(
    reading: PromptReading,
    out: Path,
    *,
    steered: Sequence[Steering] | None = None,
    survey: Survey | None = None,
) -> Path:
    """Write one self-contained HTML page of a prompt and return its path.

    It asks the network for nothing, and text is never markup in it.

    Args:
        reading: of the prompt.
        out: the file to write; replaced where it exists.
        steered: what to add to the residual stream, each shown beside the model's own logits;
            the strongest latent of the first, middle and last layer where None.
        survey: of a corpus with the same SAE, for examples; None: no examples.

    Raises:
        ConfigError: a steering names a layer, latent or position that there is not.
    """
    sites = [str(s) for s in reading.codes]
    if steered is None:
        ends = dict.fromkeys([sites[0], sites[len(sites) // 2], sites[-1]])
        strongest = dict(reversed(reading.strongest(len(sites))))
        steered = [Steering(s, strongest[s], STEER_FACTOR) for s in ends if s in strongest]
    pieces: dict[int, str] = {}
    data = {
        "sites": sites,
        "numbers": reading.shared.numbers,
        "d_sae": reading.shared.d_sae,
        "tokens": [[t["id"], t["token"], t["layers"]] for t in reading.token_list()],
        "entries": _columns(reading.entries()),
        "histograms": reading.histograms(N_BINS),
        "input": _logits(reading.logits_input(N_LOGITS), pieces),
        "recon": {s: _three(reading.logits_reconstructed(s, N_LOGITS), pieces) for s in sites},
        "steered": [
            {**one._asdict(), **_three(reading.logits_steered(one, N_LOGITS), pieces)}
            for one in steered
        ],
        "examples": _examples(reading, survey),
        "pieces": pieces,
    }
    body = "\n".join([_head(reading), _views(survey is not None), _metrics(reading)])
    body = f"<main>\n{body}\n</main>"
    page = document("Prompt: " + reading.prompt[:60], body, to_script(data), entry="prompt_page.js")
    replace_with(out, page.encode("utf-8", "backslashreplace"))
    return out


def _columns(entries: dict[str, list[list[float]]]) -> dict[str, list[list[Any]]]:
    """Return position, latent and strength as columns: a third of the text of rows."""
    return {
        site: [[row[i] if i < 2 else short(row[i]) for row in rows] for i in range(3)]
        for site, rows in entries.items()
    }


def _logits(found: list[list[dict[str, Any]]], pieces: dict[int, str]) -> list[list[Any]]:
    for line in found:
        pieces.update({cell["id"]: cell["token"] for cell in line})
    return [
        [[c["id"], short(c["logit"])] + ([short(c["prob"])] if "prob" in c else []) for c in line]
        for line in found
    ]


def _three(found: dict[str, Any], pieces: dict[int, str]) -> dict[str, Any]:
    return {name: _logits(found[name], pieces) for name in ("top", "up", "down")}


def _examples(reading: PromptReading, survey: Survey | None) -> dict[str, Any]:
    """Return examples of the strongest latents of each token and layer, by ``SITE/latent``."""
    if survey is None:
        return {}
    found: dict[str, Any] = {}
    for site, codes in reading.codes.items():
        if str(site) not in survey.sites:
            continue
        index = survey.sites.index(str(site))
        order = codes.strength.argsort(descending=True).tolist()
        taken: dict[int, int] = {}
        for i in order:
            pos, latent = int(codes.place[i]), int(codes.latent[i])
            key = f"{site}/{latent}"
            if taken.get(pos, 0) >= STRONGEST or key in found:
                taken[pos] = taken.get(pos, 0) + (key in found)
                continue
            taken[pos] = taken.get(pos, 0) + 1
            records = example_records(
                survey.examples.of(index, latent)[:N_EXAMPLES], reading.lm.tokenizer.pieces
            )
            found[key] = [
                [r["tokens"], [short(s) for s in r["strengths"]], r["peak"], short(r["strength"])]
                for r in records
            ]
    return found


def _head(reading: PromptReading) -> str:
    facts = {
        "model": reading.lm.name,
        "architecture": reading.shared.sae.cfg.name,
        "latents": f"{reading.shared.d_sae:,}",
        "layers": str(len(reading.codes)),
        "tokens": str(len(reading.ids)),
    }
    listed = "".join(f"<span><b>{_e(k)}</b> {_e(v)}</span>" for k, v in facts.items())
    return (
        f'<header><h1>A prompt at every layer</h1><p class="facts">{listed}</p>'
        f'<blockquote class="prompt">{_e(reading.prompt)}</blockquote></header>'
    )


def _views(examples: bool) -> str:
    note = (
        f"Examples are kept for the {STRONGEST} strongest latents of each token and layer."
        if examples
        else "No examples here: make an analysis first (saekit layers analyse) and write the page "
        "again."
    )
    return (
        f'<p class="about">{_e(note)} \u2423 is a space, \u21b5 a line break, \u21e5 a tab.</p>'
        f'<div id="views"></div>'
    )


def _metrics(reading: PromptReading) -> str:
    head = ("layer", "tokens", "FVU", "MSE", "L0", "L1 (strength)")
    rows = []
    for row in reading.metrics():
        cells = [row["fvu"], row["mse"], row["l0"], row["l1"]]
        text = ["–" if c is None else f"{c:.4g}" for c in cells]
        rows.append([_e(row["site"]), str(row["tokens"]), *text])
    top = "".join(f"<th>{_e(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return (
        f'<section id="metrics"><h2>Reconstruction of this prompt</h2><p>Over the tokens that '
        f"count at each layer; of one prompt FVU says little.</p>"
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
        f"</section>"
    )
