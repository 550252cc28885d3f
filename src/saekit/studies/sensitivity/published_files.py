"""The tables that the published pipeline leaves, by its names and columns."""

from collections.abc import Callable, Mapping, Sequence

from saekit.core.result import Table
from saekit.studies.sensitivity.audit import Asked
from saekit.studies.sensitivity.examples import LatentExamples, Snippet
from saekit.studies.sensitivity.parsing import Text
from saekit.studies.sensitivity.prompts import MARKS, marked
from saekit.studies.sensitivity.statistics import TextActs

Pieces = Callable[[Sequence[int]], list[str]]


def tables(
    examples: Mapping[int, LatentExamples],
    texts: Mapping[int, Sequence[Text]],
    acts: Mapping[int, TextActs],
    pieces: Pieces,
) -> dict[str, Table]:
    """Return the tables of examples and of new texts, without and with activations.

    Args:
        examples: by latent.
        texts: new ones by latent; usable ones are listed.
        acts: the largest activations on these, in the same order.
        pieces: the strings of token ids, as `Tokenizer.pieces`.

    Source:
        nathanhu0/sae-sensitivity, README: feature_examples, generated_samples,
        original_examples_with_activations, generated_samples_with_activations.
        Differs: runs of tokens are marked together; line breaks stay; no lists in cells.
    """
    shown = [(latent, s) for latent, one in examples.items() for s in one.shown]
    usable = {k: [t.text for t in some if t.verdict == "usable"] for k, some in texts.items()}
    found = {
        "feature_examples": Table(
            columns={
                "feature_index": [latent for latent, _ in shown],
                "Top_act": [s.largest for _, s in shown],
                "Sequence": [_marked(s, pieces) for _, s in shown],
            },
            units={"Top_act": "act units"},
        )
    }
    again = [float(a) for latent in examples for a in acts[latent].original]
    found["original_examples_with_activations"] = Table(
        columns={
            "feature_index": [latent for latent, _ in shown],
            "Top_act": [s.largest for _, s in shown],
            "text_annotated": [_marked(s, pieces) for _, s in shown],
            "text_clean": ["".join(pieces(s.tokens)) for _, s in shown],
            "max_activation": again,
        },
        units={"Top_act": "act units", "max_activation": "act units"},
    )
    lines = [(latent, i, t) for latent, some in usable.items() for i, t in enumerate(some)]
    samples = {
        "feature_index": [latent for latent, _, _ in lines],
        "sample_index": [i for _, i, _ in lines],
        "text": [text for _, _, text in lines],
    }
    found["generated_samples"] = Table(columns=dict(samples))
    samples["max_activation"] = [float(a) for latent in usable for a in acts[latent].generated]
    found["generated_samples_with_activations"] = Table(
        columns=samples, units={"max_activation": "act units"}
    )
    return found


def queries(asked: Sequence[Asked], name: str) -> Table:
    """Return every prompt and reply: generation_queries_with_responses.

    Args:
        asked: requests with their replies.
        name: of the SAE.
    """
    lines = []
    for latent, request, reply, _ in asked:
        by_role = dict(request.messages)
        lines.append(
            {
                "sae_name": name,
                "feature_index": latent,
                "system_prompt": by_role.get("system", ""),
                "user_prompt": by_role.get("user", request.text),
                "llm_response": "" if reply is None else reply.text,
                "status": "Failed" if reply is None else f"Success with {reply.model}",
            }
        )
    return Table(columns={key: [line[key] for line in lines] for key in lines[0]} if lines else {})


def _marked(snippet: Snippet, pieces: Pieces) -> str:
    least = 0.01 * snippet.largest
    return marked(snippet, pieces(snippet.tokens), MARKS[0], least)
