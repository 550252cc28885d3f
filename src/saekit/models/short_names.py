"""TransformerLens' short names of models, by which many SAEs name theirs, as names on the hub."""

_EXACT = {
    "gpt2": "openai-community/gpt2",
    "gpt2-small": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
    "distillgpt2": "distilbert/distilgpt2",
    "gemma-2b": "google/gemma-2b",
    "gemma-2b-it": "google/gemma-2b-it",
    "gemma-7b": "google/gemma-7b",
    "gemma-7b-it": "google/gemma-7b-it",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "mistral-7b-instruct": "mistralai/Mistral-7B-Instruct-v0.1",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-2-7b-chat": "meta-llama/Llama-2-7b-chat-hf",
    "llama-2-13b": "meta-llama/Llama-2-13b-hf",
    "llama-2-13b-chat": "meta-llama/Llama-2-13b-chat-hf",
    "llama-2-70b-chat": "meta-llama/Llama-2-70b-chat-hf",
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-3-70b": "meta-llama/Meta-Llama-3-70B",
    "tiny-stories-33m": "roneneldan/TinyStories-33M",
}
# Names whose rest is the repository's own, lower case: the start of the name, owner, and the
# repository with its sizes in the hub's spelling.
_LISTED = {
    "EleutherAI": [
        f"pythia-{size}{kind}"
        for size in (
            "14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b",
        )
        for kind in ("", "-deduped", "-v0", "-deduped-v0")
    ],
    "google": [
        *(f"gemma-2-{size}{kind}" for size in ("2b", "9b", "27b") for kind in ("", "-it")),
        *(f"gemma-3-{size}-{kind}" for size in ("270m", "1b", "4b", "12b", "27b")
          for kind in ("pt", "it")),
    ],
    "meta-llama": [
        *(f"Meta-Llama-3-{size}{kind}" for size in ("8B", "70B") for kind in ("", "-Instruct")),
        *(f"Llama-3.1-{size}{kind}" for size in ("8B", "70B") for kind in ("", "-Instruct")),
        *(f"Llama-3.2-{size}{kind}" for size in ("1B", "3B") for kind in ("", "-Instruct")),
        *(f"Llama-3.3-{size}{kind}" for size in ("70B",) for kind in ("", "-Instruct")),
    ],
    "mistralai": [
        "Mistral-7B-v0.1", "Mistral-7B-Instruct-v0.1", "Mistral-7B-Instruct-v0.2",
        "Mistral-7B-v0.3", "Mistral-7B-Instruct-v0.3",
    ],
    "Qwen": [
        *(f"Qwen1.5-{size}{kind}" for size in ("0.5B", "1.8B", "4B", "7B", "14B")
          for kind in ("", "-Chat")),
        *(f"Qwen2-{size}{kind}" for size in ("0.5B", "1.5B", "7B") for kind in ("", "-Instruct")),
        *(f"Qwen2.5-{size}{kind}" for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B")
          for kind in ("", "-Instruct")),
        *(f"Qwen3-{size}{kind}" for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B")
          for kind in ("", "-Base")),
    ],
    "HuggingFaceTB": [
        f"SmolLM{gen}-{size}{kind}"
        for gen in ("", "2") for size in ("135M", "360M", "1.7B") for kind in ("", "-Instruct")
    ],
    "deepseek-ai": [
        "DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distill-Qwen-7B",
        "DeepSeek-R1-Distill-Llama-8B",
    ],
    "microsoft": ["phi-1", "phi-1_5", "phi-2", "Phi-3-mini-4k-instruct", "phi-4"],
}  # fmt: skip
SHORT_NAMES: dict[str, str] = {
    name.lower(): f"{owner}/{name}" for owner, names in _LISTED.items() for name in names
} | _EXACT


def full_name(name: str) -> str:
    """Return the name on the hub that a short name stands for; any other name as it came."""
    return SHORT_NAMES.get(name.lower(), name) if "/" not in name else name
