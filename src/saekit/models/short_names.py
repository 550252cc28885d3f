"""TransformerLens' short names of models, by which many SAEs name theirs, as names on the hub.

Source:
    The table of names of TransformerLens (supported_models.py), without models that are no
    causal language models of transformers: see `UNREADABLE`.
"""

# Names with nothing in common with the repository's own.
_EXACT = {
    "gpt2": "openai-community/gpt2",
    "gpt2-small": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    **dict.fromkeys(
        ("distilgpt2", "distillgpt2", "distill-gpt2", "distil-gpt2", "gpt2-xs"),
        "distilbert/distilgpt2",
    ),
    **dict.fromkeys(("gpt-j", "gptj"), "EleutherAI/gpt-j-6B"),
    **dict.fromkeys(("neo", "neo-small", "gpt-neo-small"), "EleutherAI/gpt-neo-125M"),
    **dict.fromkeys(("neo-medium", "gpt-neo-medium"), "EleutherAI/gpt-neo-1.3B"),
    **dict.fromkeys(("neo-large", "gpt-neo-large"), "EleutherAI/gpt-neo-2.7B"),
    **dict.fromkeys(("neox", "gpt-neox"), "EleutherAI/gpt-neox-20b"),
    "pythia": "EleutherAI/pythia-70m",
    "pythia-v0": "EleutherAI/pythia-70m-v0",
    **dict.fromkeys(("opt", "opt-small"), "facebook/opt-125m"),
    "opt-medium": "facebook/opt-1.3b",
    "opt-large": "facebook/opt-2.7b",
    "opt-xl": "facebook/opt-6.7b",
    "opt-xxl": "facebook/opt-13b",
    "opt-xxxl": "facebook/opt-30b",
    "opt-xxxxl": "facebook/opt-66b",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "mistral-7b-instruct": "mistralai/Mistral-7B-Instruct-v0.1",
    **dict.fromkeys(("mixtral", "mixtral-8x7b"), "mistralai/Mixtral-8x7B-v0.1"),
    **dict.fromkeys(
        ("mixtral-instruct", "mixtral-8x7b-instruct"), "mistralai/Mixtral-8x7B-Instruct-v0.1"
    ),
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-3-70b": "meta-llama/Meta-Llama-3-70B",
    "meta-llama-2-70b-chat-hf": "meta-llama/Llama-2-70b-chat-hf",
    "codellamallama-2-7b": "codellama/CodeLlama-7b-hf",
    "codellama-7b-python": "codellama/CodeLlama-7b-Python-hf",
    "codellama-7b-instruct": "codellama/CodeLlama-7b-Instruct-hf",
    "phi-3": "microsoft/Phi-3-mini-4k-instruct",
    "qwen-32b-preview": "Qwen/QwQ-32B-Preview",
    "stablelm-2-1.6b": "stabilityai/stablelm-2-1_6b",
    "stablelm-2-zephyr-1.6b": "stabilityai/stablelm-2-zephyr-1_6b",
    "stablelm-3b": "stabilityai/stablelm-3b-4e1t",
    "tiny-stories-1l-21m": "roneneldan/TinyStories-1Layer-21M",
    "tiny-stories-2l-33m": "roneneldan/TinyStories-2Layers-33M",
    "tiny-stories-instruct-1l-21m": "roneneldan/TinyStories-Instuct-1Layer-21M",
    "tiny-stories-instruct-2l-33m": "roneneldan/TinyStories-Instruct-2Layers-33M",
}
# Names that are the repository's own, whatever the case.
_LISTED = {
    "01-ai": ["Yi-6B", "Yi-6B-Chat", "Yi-34B", "Yi-34B-Chat"],
    "ai-forever": ["mGPT"],
    "bigscience": [f"bloom-{size}" for size in ("560m", "1b1", "1b7", "3b", "7b1")],
    "EleutherAI": [
        "gpt-j-6B",
        "gpt-neox-20b",
        *(f"gpt-neo-{size}" for size in ("125M", "1.3B", "2.7B")),
        *(f"pythia-160m-seed{seed}" for seed in (1, 2, 3)),
        *(
            f"pythia-{size}{kind}"
            for size in ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
            for kind in ("", "-deduped", "-v0", "-deduped-v0")
        ),
    ],
    "facebook": [f"opt-{n}" for n in ("125m", "1.3b", "2.7b", "6.7b", "13b", "30b", "66b")],
    "google": [
        *(f"gemma-{size}{kind}" for size in ("2b", "7b") for kind in ("", "-it")),
        *(f"gemma-2-{size}{kind}" for size in ("2b", "9b", "27b") for kind in ("", "-it")),
        *(f"gemma-3-{size}-{kind}" for size in ("1b", "4b", "12b", "27b") for kind in ("pt", "it")),
        "gemma-3-270m",
        "gemma-3-270m-it",
        "medgemma-4b-pt",
        "medgemma-4b-it",
        "medgemma-27b-it",
        "medgemma-27b-text-it",
    ],
    "meta-llama": [
        *(f"Meta-Llama-3-{size}{kind}" for size in ("8B", "70B") for kind in ("", "-Instruct")),
        *(f"Llama-3.1-{size}{kind}" for size in ("8B", "70B") for kind in ("", "-Instruct")),
        *(f"Llama-3.2-{size}{kind}" for size in ("1B", "3B") for kind in ("", "-Instruct")),
        *(f"Llama-3.3-{size}{kind}" for size in ("70B",) for kind in ("", "-Instruct")),
    ],
    "microsoft": ["phi-1", "phi-1_5", "phi-2", "Phi-3-mini-4k-instruct", "phi-4"],
    "mistralai": [
        "Mistral-7B-v0.1",
        "Mistral-7B-Instruct-v0.1",
        "Mistral-7B-Instruct-v0.2",
        "Mistral-7B-v0.3",
        "Mistral-7B-Instruct-v0.3",
        "Mistral-Nemo-Base-2407",
        "Mistral-Small-24B-Base-2501",
        "Mixtral-8x7B-v0.1",
        "Mixtral-8x7B-Instruct-v0.1",
    ],
    "Qwen": [
        *(
            f"Qwen1.5-{size}{kind}"
            for size in ("0.5B", "1.8B", "4B", "7B", "14B")
            for kind in ("", "-Chat")
        ),
        *(f"Qwen2-{size}{kind}" for size in ("0.5B", "1.5B", "7B") for kind in ("", "-Instruct")),
        *(
            f"Qwen2.5-{size}{kind}"
            for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B")
            for kind in ("", "-Instruct")
        ),
        *(
            f"Qwen3-{size}{kind}"
            for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B")
            for kind in ("", "-Base")
        ),
        "QwQ-32B-Preview",
    ],
    "HuggingFaceTB": [
        f"SmolLM{gen}-{size}{kind}"
        for gen in ("", "2")
        for size in ("135M", "360M", "1.7B")
        for kind in ("", "-Instruct")
    ],
    "stabilityai": [
        "stablelm-3b-4e1t",
        "stablelm-zephyr-3b",
        "stable-code-3b",
        "stable-code-instruct-3b",
        *(f"stablelm-{kind}-alpha-{n}b" for kind in ("base", "tuned") for n in (3, 7)),
    ],
}
# Owner, the start of the repository's name, and the endings that the short name shares with it.
_ENDINGS = [
    (
        "meta-llama",
        "Llama-2-{}-hf",
        "llama-2-{}",
        ("7b", "7b-chat", "13b", "13b-chat", "70b", "70b-chat"),
    ),
    (
        "roneneldan",
        "TinyStories-{}",
        "tiny-stories-{}",
        (
            "1M",
            "3M",
            "8M",
            "28M",
            "33M",
            "Instruct-1M",
            "Instruct-3M",
            "Instruct-8M",
            "Instruct-28M",
            "Instruct-33M",
        ),
    ),
]
_DISTILLED = {"Qwen": ("1.5B", "7B", "14B", "32B"), "Llama": ("8B", "70B")}
_CRFM = {  # its five seeds of two sizes of GPT-2
    "small": (
        "alias-{}-x21",
        "battlestar-{}-x49",
        "caprica-{}-x81",
        "darkmatter-{}-x343",
        "expanse-{}-x777",
    ),
    "medium": (
        "arwen-{}-x21",
        "beren-{}-x49",
        "celebrimbor-{}-x81",
        "durin-{}-x343",
        "eowyn-{}-x777",
    ),
}
# Sizes of Pythia as they were called before its authors counted otherwise.
_OLD_PYTHIA = {
    "19m": "70m",
    "125m": "160m",
    "350m": "410m",
    "800m": "1b",
    "1.3b": "1.4b",
    "2.7b": "2.8b",
    "6.7b": "6.9b",
    "13b": "12b",
}
# Models of TransformerLens' own table that transformers cannot read, and why.
UNREADABLE = (
    dict.fromkeys(
        [
            *(
                f"{kind}-{n}l{end}"
                for kind in ("gelu", "attn-only", "solu")
                for n in (1, 2, 3, 4)
                for end in ("", "-new", "-c4-code")
            ),
            *(f"solu-{n}l{end}" for n in (6, 8, 10, 12) for end in ("", "-new", "-c4-code")),
            *(f"solu-{n}l-{end}" for n in (1, 2, 4, 6, 8, 10, 12) for end in ("pile", "old")),
            *(f"solu-{n}l-{end}" for n in (1, 4) for end in ("wiki", "wiki-finetune", "finetune")),
            "attn-only-demo",
            "attn-only-2l-demo",
            "attn-only-2l-induction-demo",
            "attn-only-2l-shortformer-6b-big-lr",
            "redwood_attn_2l",
            "othello-gpt",
        ],
        "its weights are TransformerLens' own and no model of transformers",
    )
    | dict.fromkeys(
        ["llama-7b", "llama-13b", "llama-30b", "llama-65b"],
        "its weights are on no hub; give the folder that holds them",
    )
    | dict.fromkeys(
        [
            "santacoder",
            *(f"qwen-{n}{kind}" for n in ("1.8b", "7b", "14b") for kind in ("", "-chat")),
        ],
        "it needs code of its own to run",
    )
    | dict.fromkeys(
        [
            "bert-base-cased",
            "bert-base-uncased",
            "bert-large-cased",
            "bert-large-uncased",
            "t5-small",
            "t5-base",
            "t5-large",
        ],
        "it is no causal language model",
    )
)


def _all() -> dict[str, str]:
    return _by_pattern() | _of_crfm() | _EXACT


def _of_crfm() -> dict[str, str]:
    found: dict[str, str] = {}
    for size, names in _CRFM.items():
        for letter, name in zip("abcde", names, strict=True):
            full = name.format(f"gpt2-{size}")
            other = "gpt2-mistral-small" if size == "small" else "gpt2-medium-small"
            starts = (f"stanford-gpt2-{size}", f"gpt2-stanford-{size}", other)
            short = (full, *(f"{start}-{letter}" for start in starts))
            found |= dict.fromkeys(short, f"stanford-crfm/{full}")
    return found


def _by_pattern() -> dict[str, str]:
    found = {n.lower(): f"{owner}/{n}" for owner, names in _LISTED.items() for n in names}
    for owner, full, short, endings in _ENDINGS:
        found |= {short.format(e).lower(): f"{owner}/{full.format(e)}" for e in endings}
    for base, sizes in _DISTILLED.items():
        for size in sizes:
            name = f"DeepSeek-R1-Distill-{base}-{size}"
            found |= dict.fromkeys((name.lower(), f"{name.lower()}-chat"), f"deepseek-ai/{name}")
    for kind in ("base", "tuned"):
        for n in (3, 7):
            found[f"stablelm-{kind}-{n}b"] = f"stabilityai/stablelm-{kind}-alpha-{n}b"
    for old, new in _OLD_PYTHIA.items():
        seeds = ("-seed1", "-seed2", "-seed3") if new == "160m" else ()
        for kind in ("", "-deduped", "-v0", "-deduped-v0", *seeds):
            full = f"EleutherAI/pythia-{new}{kind}"
            found |= dict.fromkeys((f"pythia-{old}{kind}", f"eleutherai/pythia-{old}{kind}"), full)
    return found


SHORT_NAMES: dict[str, str] = _all()


def full_name(name: str) -> str:
    """Return the name on the hub that a short name stands for; any other name as it came."""
    return SHORT_NAMES.get(name.lower(), name)
