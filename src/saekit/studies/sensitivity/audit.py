"""Audit: every example, prompt, reply, verdict and hit of a run, on one page that people read."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.errors import FormatError, UnknownNameError
from saekit.core.files import read_object
from saekit.core.result import Result, Score
from saekit.data import table_files
from saekit.generators.base import Reply, Request
from saekit.report.bare_page import escaped as _e
from saekit.report.bare_page import write_page
from saekit.studies.sensitivity.examples import LatentExamples
from saekit.studies.sensitivity.parsing import Text
from saekit.studies.sensitivity.statistics import ON, TextActs

FILE = "audit.json"
KINDS = {
    "shown": "Examples that the writer was shown",
    "held_out": "Examples that it was not shown",
    "negatives": "Texts of the same documents on which the latent was off",
}
STEPS = 4  # shades of a token
RATES = (
    "generated_sensitivity",
    "original_sensitivity",
    "heldout_sensitivity",
    "specificity",
    "random_rate",
    "excess",
    "auroc_matched",
)
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1b1b1b;background:#fff}
table{border-collapse:collapse;font-size:.9em}td,th{padding:.2rem .7rem;text-align:left;
border-bottom:1px solid #ddd;vertical-align:top}.n{white-space:nowrap}
.wide{overflow-x:auto}details{margin:.5rem 0}summary{cursor:pointer}
.text,pre{white-space:pre-wrap;overflow-wrap:anywhere}pre{background:#f5f5f5;padding:.6rem;
font-size:.85em}.hit{color:#00633f}.miss{color:#a33b00}.out{color:#5c5c5c}
mark{background:#fde9c4;color:inherit}mark.s1{background:#fbd48a}mark.s2{background:#f7b74a}
mark.s3{background:#f09a1a}
@media(prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}pre{background:#222}
td,th{border-color:#3a3a3a}.hit{color:#5fd0a0}.miss{color:#ff9d6b}.out{color:#a8a8a8}
mark{background:#4d3a10}mark.s1{background:#6b4e0c}mark.s2{background:#8a6208}
mark.s3{background:#a87505}}
"""


class Asked(NamedTuple):
    """A request about a latent, its reply (None: there was none), and the texts in that."""

    latent: int
    request: Request
    reply: Reply | None
    texts: list[Text]


def record(
    examples: Mapping[int, LatentExamples],
    asked: Sequence[Asked],
    acts: Mapping[int, TextActs],
    pieces: Callable[[Sequence[int]], list[str]],
) -> dict[str, Any]:
    """Return all that was shown, asked, answered and measured, by latent, JSON-ready.

    Args:
        examples: by latent.
        asked: every request.
        acts: largest activations on the texts of each kind.
        pieces: the strings of token ids, as `Tokenizer.pieces`.
    """
    found: dict[str, Any] = {}
    for latent, one in examples.items():
        of = acts[latent]
        alone = {"shown": of.original, "held_out": of.held_out, "negatives": of.matched}
        here: dict[str, Any] = {
            kind: [
                {"pieces": pieces(s.tokens), "acts": s.acts, "alone": float(act)}
                for s, act in zip(getattr(one, kind), alone[kind], strict=True)
            ]
            for kind in KINDS
        }
        measured = iter(of.generated.tolist())
        here["asked"] = [
            {
                "messages": [list(m) for m in r.messages] or [["text", r.text]],
                "reply": None if reply is None else reply.text,
                "texts": [
                    [t.text, t.verdict, next(measured) if t.verdict == "usable" else None]
                    for t in texts
                ],
            }
            for number, r, reply, texts in asked
            if number == latent
        ]
        found[str(latent)] = here
    return found


def write_audit(folder: Path, out: Path, latents: Sequence[int] = ()) -> Path:
    """Write one self-contained page of a run and return its path.

    It asks the network for nothing, and no text is markup in it, whoever wrote that.

    Args:
        folder: of the run.
        out: the file; replaced where it exists.
        latents: only these; (): every one.

    Raises:
        FormatError: the folder holds no finished run.
        UnknownNameError: a latent is not in it.
    """
    if not (folder / FILE).is_file():
        raise FormatError(
            f"{folder} holds no finished run: it has no {FILE}. Make one with "
            f"`saekit sensitivity run`; an old run is finished again by the same command."
        )
    every = read_object(folder / FILE)
    if lacking := [i for i in latents if str(i) not in every]:
        raise UnknownNameError(
            f"Latent {lacking[0]} is not in {folder}, which has {', '.join(every)}."
        )
    result = Result.read(folder / "result.json")
    rows = {row["feature_index"]: row for row in table_files.rows(folder / "feature_stats.csv")}
    shown = [str(i) for i in latents] or list(every)
    parts = [
        "<h1>Sensitivity: every text of a run</h1>",
        f"<p>Written by {_e(_writer(result))}. A text fires the latent where its activation is "
        f"over {ON:g} on any token. Tokens are shaded by the activation they had in the corpus; "
        f"the numbers are of each text read alone.</p>",
        _scores(result),
        _listed(shown, rows),
        *(_latent(name, every[name], rows[name]) for name in shown),
    ]
    return write_page(out, f"Sensitivity: {folder.name}", "\n".join(parts), STYLE)


def _writer(result: Result) -> str:
    made = result.config.get("generator", {})
    return " ".join(str(made[k]) for k in ("name", "model", "base_url") if made.get(k))


def _scores(result: Result) -> str:
    arms = {"this SAE": {k: s.text() for k, s in result.scores.items()}}
    unmeasured = []
    for name, one in result.details["floors"].items():
        said = name.replace("_", " ")
        if one["reason"]:
            unmeasured.append(f"<p>Floor {_e(said)}: {_e(one['reason'])}</p>")
            continue
        arms[said] = {k: Score(**one[k]).text() for k in result.scores if k in one}
    lines = [
        [
            _e(score.label or key),
            *(f'<span class="n">{_e(arm.get(key, "–"))}</span>' for arm in arms.values()),
        ]
        for key, score in result.scores.items()
    ]
    return _table(["score", *(_e(name) for name in arms)], lines) + "".join(unmeasured)


def _listed(shown: Sequence[str], rows: Mapping[str, Mapping[str, str]]) -> str:
    lines = [
        [
            f'<a href="#l{_e(name)}">{_e(name)}</a>',
            *(_number(rows[name].get(k)) for k in RATES),
            _e(rows[name]["status"]),
        ]
        for name in shown
    ]
    return "<h2>Latents</h2>" + _table(
        ["latent", *(_e(k.replace("_", " ")) for k in RATES), "status"], lines
    )


def _latent(name: str, one: Mapping[str, Any], row: Mapping[str, str]) -> str:
    parts = [f'<h2 id="l{_e(name)}">Latent {_e(name)}</h2>']
    texts = [t for asked in one["asked"] for t in asked["texts"]]
    lines = [[_verdict(t), f'<span class="text">{_e(t[0])}</span>'] for t in texts]
    on = sum(1 for t in texts if t[2] is not None and t[2] > ON)
    usable = sum(1 for t in texts if t[2] is not None)
    parts.append(
        f"<p>Fires on {on} of {usable} usable new texts; largest in the corpus "
        f"{_number(row.get('largest'))}, on at {_e(row.get('count'))} tokens.</p>"
    )
    for kind, title in KINDS.items():
        listed = [[_act(s["alone"]), _tokens(s)] for s in one[kind]]
        is_open = " open" if kind == "shown" else ""
        parts.append(
            f"<details{is_open}><summary>{title} ({len(listed)})</summary>"
            f"{_table(['alone', 'text'], listed)}</details>"
        )
    parts.append("<h3>New texts</h3>" + _table(["verdict", "text"], lines))
    asked = []
    last = None
    for number, request in enumerate(one["asked"], 1):
        if request["messages"] != last:  # several requests in a row have the same words
            last = request["messages"]
            said = "\n\n".join(f"[{role}]\n{words}" for role, words in last)
            asked.append(f"<details><summary>Prompt from request {number}</summary>")
            asked.append(f"<pre>{_e(said)}</pre></details>")
        reply = request["reply"]
        asked.append(
            f"<p>Reply {number}{'' if reply is not None else ': none came'}</p>"
            + (f"<pre>{_e(reply)}</pre>" if reply is not None else "")
        )
    parts.append(
        f"<details><summary>Prompts and replies ({len(one['asked'])})</summary>"
        f"{''.join(asked)}</details>"
    )
    return f"<section>{''.join(parts)}</section>"


def _verdict(text: Sequence[Any]) -> str:
    _, verdict, act = text
    if act is None:
        return f'<span class="out">{_e(verdict)}</span>'
    return _act(act)


def _act(act: float) -> str:
    return (
        f'<span class="{"hit" if act > ON else "miss"}">{"hit" if act > ON else "miss"}, '
        f"{act:.3g}</span>"
    )


def _tokens(sample: Mapping[str, Any]) -> str:
    most = max(sample["acts"], default=0.0)
    out = []
    for piece, act in zip(sample["pieces"], sample["acts"], strict=True):
        text = _e(piece)
        if act > ON and most:
            step = min(int(STEPS * act / most), STEPS - 1)
            text = f'<mark class="s{step}" title="{act:.4g}">{text}</mark>'
        out.append(text)
    return f'<span class="text">{"".join(out)}</span>'


def _number(cell: str | None) -> str:
    try:
        return f"{float(cell or ''):.3g}"
    except ValueError:
        return "–"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in line)}</tr>" for line in lines)
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )
