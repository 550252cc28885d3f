"""Payloads of the pages with text that no page may take for markup, and a small server of them."""

import json
import math
import random
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from saekit.report.bundle import web_file, web_files

ATTACK = "</script><img src=x onerror=window.attacked=1>"
NASTY = [
    ATTACK,
    "<img onerror=alert(1)>",
    "\x00",
    "Привет",
    " мир",
    "日本語",
    "العربية",
    " עברית",
    "\u200b",
    "\u202e",
    "\ufeff",
    "\u2028",
    "&amp;",
    "",
    "\n",
    "\t",
    "x" * 10_000,
    "👨\u200d👩\u200d👧",
    "\ud800",
]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "dog", "had", "its"]
SITES = [f"L{i}.resid_post" for i in range(30)]
D_SAE = 96
LARGE = 131_072
COLUMNS = [
    {"name": "density", "label": "density", "unit": "of tokens", "about": "Share of tokens on."},
    {"name": "max", "label": "max", "unit": "activation", "about": "Its largest activation."},
    {"name": "mean", "label": "mean", "unit": "activation", "about": "Its mean when on."},
    {"name": "first_share", "label": "first tokens", "unit": "share", "about": "On first tokens."},
    {
        "name": "logit_std",
        "label": "logit spread",
        "unit": "logits",
        "about": "Over the vocabulary.",
    },
    {"name": "best_set", "label": "best set", "unit": "", "about": "Its tokens.", "kind": "text"},
]
BANDS = {
    "top": {"title": "strongest", "about": "The strongest, one a row."},
    "q4": {"title": "upper quarter", "about": "Of its activations."},
    "q1": {"title": "lower quarter", "about": "Of its activations."},
    "random": {"title": "random", "about": "Drawn at random."},
    "boundary": {"title": "weakest", "about": "Barely on."},
    "negative": {"title": "off on the same token", "about": "Its trigger, where it is off."},
}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>saekit</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/web/app.css">
<script type="module" src="/web/main.js"></script></head><body></body></html>"""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


def score(value: float | None, label: str, unit: str, better: str = "lower") -> dict[str, Any]:
    ends = (None, None) if value is None else (value * 0.93, value * 1.08)
    return {
        "value": value,
        "low": ends[0],
        "high": ends[1],
        "n": 48,
        "unit": unit,
        "better": better,
        "label": label,
        "reason": "" if value is not None else "no rise of loss",
        "about": f"What {label} is, in one sentence.",
        "source": "eval/core.json (saekit eval demo)",
    }


SCORES = [
    score(0.2134, "variance unexplained (FVU)", "ratio"),
    score(31.97, "latents per token (L0)", "latents"),
    score(None, "CE recovered (zero)", "ratio", "higher"),
    score(0.0817, "KL clean to spliced", "nats"),
    score(0.031, "dead latents", "ratio"),
    score(0.912, "cosine", "cosine", "higher"),
]


def card(name: str, state: str = "ok", **more: Any) -> dict[str, Any]:
    reasons = {"stale": "The index is of other weights.", "missing": "", "damaged": "", "ok": ""}
    return {
        "id": name,
        "title": f"{name} <b>of</b> tiny",
        "model": "HuggingFaceTB/SmolLM2-135M",
        "site": "L0.resid_post",
        "sites": ["L0.resid_post"],
        "architecture": "topk",
        "d_sae": D_SAE,
        "scores": {"fvu": {**SCORES[0], "short": "FVU"}, "l0": {**SCORES[1], "short": "L0"}},
        "index": {
            "state": state,
            "tokens": 200_000,
            "command": f"saekit index {name}",
            "reason": reasons[state],
        },
        "verify": {"verdict": "fits", "at": "2026-11-29", "against": []} if state == "ok" else None,
        "labels": 2,
        "run": name,
        "neuronpedia": None,
        **more,
    }


CARDS = [
    card("demo"),
    card("large", d_sae=LARGE),
    card("folded", site="30 sites", sites=SITES, architecture="multi-layer topk"),
    card("new", "missing"),
    card("old", "stale"),
]


def overview(name: str) -> dict[str, Any]:
    found = next(c for c in CARDS if c["id"] == name)
    index = found["index"]
    gone = {"text": index["reason"], "command": index["command"]}
    return {
        "card": found,
        "facts": [["model", found["model"]], ["site", found["site"]], ["latents", 96]],
        "scores": SCORES,
        "notes": [f"A note of the card: {ATTACK}", "The decoder is not normalised."],
        "columns": COLUMNS,
        "bands": BANDS,
        "histogram": {
            "edges": [-5 + 0.25 * i for i in range(21)],
            "counts": [int(40 * math.exp(-((i - 9) ** 2) / 14)) for i in range(20)],
        },
        "missing": {} if index["state"] == "ok" else {"latents": gone},
        "settings": {"sae": {"name": "topk", "k": 32}, "tokens": 200_000, "note": ATTACK},
        "provenance": {"Index": {"commit": "c0ffee", "corpus": {"name": "english"}}},
        "definitions": {"density": "Share of the indexed tokens on which a latent is on."},
        "siblings": [],
    }


def record(latent: int, n_examples: int = 6) -> dict[str, Any]:
    chance = random.Random(latent)
    strings = [f" {w}" for w in WORDS] + NASTY
    dead = latent == 7
    most = 0 if dead else round(chance.uniform(2, 20), 3)

    def example(band: str) -> dict[str, Any]:
        n = chance.randint(30, 90)
        tokens = [chance.randrange(len(strings)) for _ in range(n)]
        peak = chance.randrange(n)
        if band == "negative":
            return {"tokens": tokens, "at": [], "acts": [], "peak": None, "value": 0.0} | place(
                peak
            )
        at = sorted({peak, *chance.choices(range(n), k=5)})
        share = {"top": 1.0, "q4": 0.8, "q1": 0.2, "random": 0.5, "boundary": 0.02}[band]
        acts = [round(most * share * (1 if j == peak else chance.random() * 0.6), 3) for j in at]
        value = acts[at.index(peak)]
        return {"tokens": tokens, "at": at, "acts": acts, "peak": peak, "value": value} | place(
            peak
        )

    def place(token: int) -> dict[str, int]:
        return {
            "token": token,
            "row": chance.randrange(1000),
            "start": 0,
            "doc": chance.randrange(400),
        }

    pairs = [[chance.randrange(len(strings)), round(chance.uniform(0, 3), 3)] for _ in range(10)]
    down = [[chance.randrange(len(strings)), round(-chance.uniform(0, 3), 3)] for _ in range(10)]
    bells = [int(9000 * math.exp(-((i - 10) ** 2) / 9)) for i in range(20)]
    others = [i for i in range(12) if i != latent]
    layers = [round(math.exp(-(((i - latent % 30) / 6) ** 2)), 4) for i in range(30)]
    return {
        "latent": latent,
        "values": {
            "density": 0 if dead else 0.0123,
            "max": None if dead else most,
            "mean": None if dead else most / 3,
            "first_share": 0.02,
            "logit_std": 0.31,
            "best_set": "leading space",
        },
        "strings": strings,
        "examples": {b: [] if dead else [example(b) for _ in range(n_examples)] for b in BANDS},
        "histogram": None
        if dead
        else {
            "edges": [most * i / 24 for i in range(25)],
            "counts": [int(4000 / (1 + i) ** 2) for i in range(24)],
        },
        "logits": {
            "promoted": sorted(pairs, key=lambda p: -p[1]),
            "suppressed": sorted(down, key=lambda p: p[1]),
            "mean": 0.01,
            "std": 0.31,
            "histogram": {"edges": [-3 + 0.3 * i for i in range(21)], "counts": bells},
            "sets": [["leading space", 12.3, 0.4, 30123], ["digits", -4.1, -0.3, 1110]],
        },
        "neighbours": {
            "decoder": [[i, round(chance.random(), 3)] for i in others[:8]],
            "cofiring": [] if dead else [[i, round(chance.random(), 3), 40] for i in others[:8]],
        },
        "tokens": {
            "on": [] if dead else [[i, 40 - i, 0.5] for i in range(6)] + [[20, 3, 0.001]],
            "first_share": 0.02,
            "last_share": 0.01,
            "documents": 0 if dead else 17,
        },
        "layers": {"sites": SITES, "density": layers, "mean": layers, "max": layers},
    }


def table(name: str) -> dict[str, list[Any]]:
    n = LARGE if name == "large" else D_SAE
    chance = random.Random(1)
    density = [10 ** chance.gauss(-3, 0.8) for _ in range(n)]
    most = [abs(chance.gauss(4, 1.5)) * (d / 1e-3) ** 0.2 for d in density]
    return {
        "latent": list(range(n)),
        "density": [float(f"{d:.4g}") for d in density],
        "max": [None if i == 7 else float(f"{m:.4g}") for i, m in enumerate(most)],
        "mean": [None if i == 7 else float(f"{m / 3:.4g}") for i, m in enumerate(most)],
        "first_share": [0.01 * (i % 9) for i in range(n)],
        "logit_std": [0.3 + 0.001 * (i % 100) for i in range(n)],
        "best_set": ["digits" if i % 3 else ATTACK for i in range(n)],
    }


BLOCKS = [
    {"kind": "facts", "facts": [["H_pos", 1.23, {"unit": "bits", "low": 1.1, "high": 1.4}]]},
    {"kind": "text", "text": f"A text with {ATTACK}"},
    {"kind": "missing", "text": "There is no sensitivity yet.", "command": "saekit sensitivity R"},
    {
        "kind": "table",
        "title": "Twins",
        "columns": [{"name": "latent"}, {"name": "cosine", "unit": "cos"}, {"name": "seed"}],
        "rows": [[3, 0.91, ATTACK], [5, 0.42, "b"], [8, None, "c"]],
        "links": {"latent": "latent"},
    },
    {
        "kind": "lines",
        "title": "Autocorrelation",
        "x": {"label": "lag"},
        "y": {"label": "correlation"},
        "series": [
            {
                "name": "J",
                "x": list(range(12)),
                "y": [0.9**i for i in range(12)],
                "low": [0.8**i for i in range(12)],
                "high": [0.95**i for i in range(12)],
            },
            {"name": "control", "x": list(range(12)), "y": [0.5**i for i in range(12)]},
        ],
        "source": "locality/curve.csv (saekit locality run)",
    },
    {
        "kind": "bars",
        "title": "Layers",
        "labels": ["L0", ATTACK, "c"],
        "values": [1, -2, 3],
        "unit": "x",
    },
    {
        "kind": "dots",
        "title": "core: fvu",
        "labels": ["a", ATTACK, "c"],
        "values": [0.2, 0.3, None],
        "low": [0.1, None, None],
        "high": [0.3, None, None],
        "marks": [{"name": ATTACK, "values": [0.8, None, 0.7]}],
        "unit": "ratio",
    },
    {
        "kind": "histogram",
        "title": "H_pos",
        "edges": [0, 1, 2, 3],
        "counts": [4, 9, 1],
        "unit": "bits",
    },
    {
        "kind": "scatter",
        "title": "Twins",
        "x": {"label": "cosine"},
        "y": {"label": "density", "log": True},
        "points": [[i / 40, 10 ** (-i / 10), i] for i in range(40)],
    },
    {
        "kind": "heatmap",
        "title": "Seeds",
        "x": ["a", "b", "c"],
        "y": ["L0", "L1"],
        "values": [[1, -0.5, None], [0.2, 0, 0.9]],
        "unit": "cosine",
        "signed": True,
    },
    {
        "kind": "strip",
        "title": "J over tokens",
        "strings": [" the", " cat", ATTACK, "日本"],
        "tokens": [0, 1, 2, 3, 0],
        "peak": 3,
        "channels": [
            {"name": "J", "unit": "share", "at": [1, 2, 3], "values": [0.2, 0.3, 0.5]},
            {"name": "change", "unit": "nats", "at": [0, 2], "values": [-0.2, 0.4], "signed": True},
        ],
    },
    {
        "kind": "texts",
        "texts": [{"text": ATTACK, "mark": "hit", "note": "3.1"}, {"text": "no", "mark": "miss"}],
    },
    {"kind": "novel"},
]


def curves(n: int = 80) -> dict[str, Any]:
    steps = range(1, n + 1)
    return {
        "every": 1,
        "tokens": [i * 4096 for i in steps],
        "loss": [1 / math.sqrt(i) for i in steps],
        "fvu": [0.2 + 0.8 / i for i in steps],
        "l0": [32.0] * n,
        "lr": [1e-3 * min(1, i / 10) for i in steps],
        "terms": {"mse": [0.9 / math.sqrt(i) for i in steps], "aux": [0.1 / i for i in steps]},
    }


def prompt(sae: str, text: str) -> dict[str, Any]:
    sites = SITES if sae.startswith("folded") else SITES[:1]
    pieces = ["<|bos|>", *[c + " " for c in text.split()], *NASTY][:100]
    pieces += [" word"] * (100 - len(pieces)) if "long" in text else []
    chance = random.Random(len(text))
    entries = {}
    for number, site in enumerate(sites):
        rows = [
            (pos, latent, round(chance.uniform(0.1, 9) * (1 + 0.05 * number), 3))
            for pos in range(1, len(pieces))
            for latent in sorted(chance.sample(range(D_SAE), 16))
        ]
        entries[site] = [list(column) for column in zip(*rows, strict=True)]
    counts = [int(80 / (1 + i)) for i in range(32)]
    return {
        "tokens": [
            {"id": i, "text": t, "pos": i, "counts": 0 if i == 0 else len(sites)}
            for i, t in enumerate(pieces)
        ],
        "sites": sites,
        "numbers": list(range(len(sites))),
        "d_sae": D_SAE,
        "entries": entries,
        "histograms": {
            "edges": [i * 0.5 for i in range(33)],
            "counts": dict.fromkeys(sites, counts),
        },
        "metrics": [{"site": s, "tokens": 20, "fvu": 0.2, "l0": 16.0} for s in sites],
    }


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """Return what a job gives."""
    kind = body["kind"]
    three = [[[ATTACK, 3.2, 0.4], [" cat", 2.2, 0.1]], [["日本", 1.1], [" a", 0.3]]]
    if kind == "prompt":
        return prompt(body["sae"], body["text"])
    if kind == "logits":
        one = {"top": three[0], "up": three[1], "down": [[" x", -0.7]]}
        return {"input": three[0], "recon": one, "steered": one if body.get("factor") else None}
    if kind == "activate":
        strings = [" the", " cat", ATTACK]
        one = {"strings": strings, "tokens": [0, 1, 2], "at": [1], "acts": [3.2], "max": 3.2}
        return {"texts": [one for _ in body["texts"]]}
    if kind == "steer":
        alone = {
            "add": 0.0,
            "texts": ["The cat sat on the mat."],
            "loss": 2.1,
            "act": 0.1,
            "kl": 0.0,
        }
        alone |= {"promoted": [], "suppressed": []}
        moved = {"texts": [f"The cat sat {ATTACK}"], "promoted": [[ATTACK, 2.1]], "kl": 0.4}
        doses = [alone | moved | {"add": 2.0 * x} for x in body.get("scale") or body["add"]]
        return {"latent": body["latent"], "prompt": "x", "alone": alone, "doses": doses}
    if kind == "ablate":
        return {
            "strings": [" the", " cat", ATTACK],
            "tokens": [0, 1, 2],
            "at": [1],
            "acts": [3.0],
            "loss": [3.0, 2.0, 1.0],
            "change": [0.0, -0.2, 0.7],
        }
    return {"share_over": {"0.5": 0.8, "0.7": 0.5}, "pairs": [[1, 2, 0.93], [0, 4, 0.8]]}


class Mock(BaseHTTPRequestHandler):
    """The API of the pages over the payloads above, with the policy of the real server."""

    labels: dict[str, str] = {}  # noqa: RUF012 - one server a test
    polls = 0
    tables: dict[str, Any] = {}  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012
    jobs: list[dict[str, Any]] = []  # noqa: RUF012

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def reply(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def json(self, value: Any, status: int = 200) -> None:
        kind = "application/json" if status < 400 else "application/problem+json"
        self.reply(status, json.dumps(value).encode(), kind)

    def problem(self, status: int, detail: str, remedy: str = "") -> None:
        self.json(
            {"title": "Not found", "status": status, "detail": detail, "remedy": remedy}, status
        )

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        Mock.asked.append(self.path)
        if url.path.startswith("/api/v1/"):
            parts = [unquote(p) for p in url.path.removeprefix("/api/v1/").split("/")]
            self.api(parts, {k: v[0] for k, v in parse_qs(url.query).items()})
            return
        if url.path == "/":
            self.reply(200, PAGE.encode(), "text/html; charset=utf-8")
            return
        name = url.path.removeprefix("/web/")
        if name not in web_files():
            self.problem(404, f"no {name}")
            return
        ending = name.rpartition(".")[2]
        kind = {"js": "text/javascript", "css": "text/css", "html": "text/html"}[ending]
        self.reply(200, web_file(name).encode(), f"{kind}; charset=utf-8")

    def api(self, parts: list[str], query: dict[str, str]) -> None:
        if parts == ["meta"]:
            self.json({"version": "1", "folder": "/runs", "read_only": False, "kinds": []})
        elif parts == ["library"]:
            runs = [
                {"id": "demo", "title": "demo", "status": "running", "fraction": 0.4, "steps": 80}
            ]
            studies = [
                {"id": "loc", "kind": "locality", "title": "Locality", "about": "J over tokens"}
            ]
            self.json({"saes": CARDS, "runs": runs, "studies": studies})
        elif parts[0] == "saes":
            self.sae(parts[1].split("~")[0], parts[2:], query)
        elif parts[0] == "runs":
            Mock.polls += 1
            status = "running" if Mock.polls < 3 else "finished"
            run = {"id": "demo", "title": "demo", "status": status, "fraction": 0.4}
            run |= {"settings": {"a": {"b": 1}}, "curves": curves(80 + 5 * Mock.polls)}
            run |= {
                "checkpoints": [{"step": 40, "tokens": 163_840}],
                "command": "saekit train --resume demo",
            }
            self.json(run)
        elif parts[0] == "studies":
            self.json({"id": "loc", "title": "Locality", "kind": "locality", "blocks": BLOCKS})
        elif parts == ["jobs"]:
            self.json(Mock.jobs)
        elif parts[0] == "jobs":
            self.json(Mock.jobs[int(parts[1])])
        else:
            self.problem(404, "There is nothing at this address.")

    def sae(self, name: str, rest: list[str], query: dict[str, str]) -> None:
        if name not in {c["id"] for c in CARDS}:
            self.problem(404, f"There is no SAE {name!r}.", "saekit serve FOLDER")
        elif not rest:
            self.json(overview(name))
        elif rest == ["columns"]:
            names = query["names"].split(",")
            self.json({"names": names, "values": [self.table(name)[n] for n in names]})
        elif rest == ["search"]:
            self.json({"total": 2, "rows": [3, 5]})
        elif rest == ["latents"]:
            self.latents(name, query)
        elif rest == ["previews"]:
            found = [record(int(i)) for i in query["latents"].split(",")]
            peaks = [
                [one["strings"][e["tokens"][e["peak"]]] for e in one["examples"].get("top", [])][:5]
                for one in found
            ]
            self.json({"peaks": peaks, "promotes": [[] for _ in found]})
        elif len(rest) == 2:
            self.latent(name, rest[1])
        else:
            self.label(f"{name}/{rest[1]}")

    def latent(self, name: str, given: str) -> None:
        if not given.isdigit() or int(given) >= D_SAE:
            self.problem(404, f"There is no latent {given}; there are 0 to {D_SAE - 1}.")
            return
        at = int(given)
        text = Mock.labels.get(f"{name}/{at}")
        label = {"text": text, "by": "me", "time": "now"} if text else None
        more = {"label": label, "previous": at - 1 if at else None, "next": at + 1}
        panel = {"name": "locality", "title": "Locality", "about": "Of J.", "blocks": BLOCKS}
        self.json(record(at) | more | {"links": {}, "panels": {"locality": panel}})

    def label(self, key: str) -> None:
        if key not in Mock.labels:
            self.problem(404, "no label")
            return
        self.json({"text": Mock.labels[key], "by": "me", "time": "now"})

    def table(self, name: str) -> dict[str, list[Any]]:
        if name not in Mock.tables:
            Mock.tables[name] = table(name)
        return Mock.tables[name]

    def latents(self, name: str, query: dict[str, str]) -> None:
        where, columns = query.get("where", ""), self.table(name)
        if "wrong" in where:
            self.problem(422, "At character 1: there is no column wrong; the nearest is max.")
            return
        keep = list(columns["latent"])
        if "density<" in where:  # one comparison is enough for a mock
            most = float(where.split("density<")[1].split()[0].lstrip("="))
            keep = [i for i in keep if columns["density"][i] < most]
        if "nothing" in where:
            keep = []
        start, limit = int(query.get("cursor", 0)), int(query.get("limit", 50))
        names = list(columns)
        rows = [[columns[n][i] for n in names] for i in keep[start : start + limit]]
        more = start + limit < len(keep)
        found = {"total": len(keep), "columns": names, "rows": rows}
        found |= {"cursor": str(start + limit) if more else None}
        found |= {"before": str(start - limit) if start > limit else None}
        self.json(found | {"last": str((len(keep) - 1) // limit * limit) if more else None})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["X-Saekit"] != "1":
            self.problem(403, "needs X-Saekit")
        elif self.path.endswith("/session"):
            self.json({})
        else:
            job = {"id": str(len(Mock.jobs)), "kind": body["kind"], "state": "done", "error": None}
            job |= {"sae": body.get("sae"), "progress": {"text": "", "fraction": 1.0}}
            if body.get("text") == "fail":
                job |= {
                    "state": "failed",
                    "error": {"detail": "out of memory", "remedy": "saekit serve"},
                }
            Mock.jobs.append(job | {"result": None if job["state"] == "failed" else answer(body)})
            self.json({"id": job["id"]}, 202)

    def do_DELETE(self) -> None:
        _, _, _, kind, name, *rest = self.path.split("/")
        if kind == "saes":
            Mock.labels.pop(f"{name}/{rest[1]}", None)
        self.reply(204, b"", "application/json")

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        _, _, _, _, name, _, latent, _ = self.path.split("/")
        Mock.labels[f"{name}/{latent}"] = body["text"]
        self.json({"text": body["text"], "by": "me", "time": "now"})


@contextmanager
def mock_server(port: int = 0):
    """Serve the mock on the loopback and give its address."""
    Mock.labels, Mock.polls, Mock.jobs, Mock.asked = {}, 0, [], []
    server = ThreadingHTTPServer(("127.0.0.1", port), Mock)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
