"""The codes of an index that did not keep them, made anew from its text."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from saekit.activations.latents import LatentStore, is_store
from saekit.analysis.coding import STORE, Coder, code
from saekit.analysis.index_folder import Index
from saekit.core.errors import ConfigError, FormatError
from saekit.core.lock import claimed_file, made_whole
from saekit.core.parts import remove
from saekit.data.base import Corpus
from saekit.data.tokenise import TokenStream
from saekit.hub.card import Card
from saekit.hub.index_manifest import CODES, INSIDE, command
from saekit.hub.names import is_name
from saekit.hub.native import load
from saekit.hub.opening import complete, model_of
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.models.base import LanguageModel


def make_codes(
    index: Index,
    loaded: TrainedSAE | None = None,
    lm: LanguageModel | None = None,
    *,
    shown: bool = True,
) -> LatentStore:
    """Encode the text of an index again and keep every code in it, as codes=True would have.

    It goes on where it was broken off.

    Args:
        index: the index.
        loaded: the SAE that it was made of; None: it is read from where it was then.
        lm: its language model; None: the one that the SAE's card names.
        shown: say so on stderr, with progress.

    Raises:
        ConfigError: nobody knows where the SAE is.
        FormatError: SAE, model or text are not those that the index was made of.
    """
    if shown:
        sys.stderr.write(
            f"index     {index.folder} does not keep every code: encoding its "
            f"{index.n_tokens:,} tokens again, once\n"
        )
    made_of = _sae_of(index) if loaded is None else loaded
    index.check_weights(weights_digest(made_of.sae))
    model = lm or model_of(made_of, "auto")
    manifest = index.manifest
    corpus = Corpus.from_dict(manifest["corpus"]["corpus"])
    made_of = complete(made_of, model, corpus)
    bos = manifest["corpus"]["bos_id"] is not None
    stream = TokenStream(
        corpus, manifest["split"], model.tokenizer, n_ctx=index.n_ctx, bos_each_row=bos
    )
    if stream.digest != manifest["corpus"]["digest"]:
        raise FormatError(
            f"The text that {index.folder} was made of is now another. Make it again: "
            f"{command(index.folder)}"
        )
    place, tokens = index.folder / CODES, manifest["settings"]["tokens"]
    work = index.folder.with_name(f".{index.folder.name}.codes.work")
    with claimed_file(index.folder, "saekit analyse", "The codes so far are kept."):
        coder = Coder(made_of, index.weights, model, stream, tokens=tokens, work=work)
        code([coder], model, shown=shown)
        store = coder.store
        assert store is not None  # it was coded
        if store.n_tokens != index.n_tokens:
            remove(work)
            raise FormatError(
                f"{index.folder} was made of {index.n_tokens:,} tokens, and its text now gives "
                f"{store.n_tokens:,}. Make it again: {command(index.folder)}"
            )
        with made_whole(place, "saekit analyse", replaces=is_store) as part:
            shutil.copytree(work / STORE, part, dirs_exist_ok=True)
        remove(work)
    return LatentStore.open(place)


def _sae_of(index: Index) -> TrainedSAE:
    """Return the SAE that an index was made of, from the run it lies in or from where it was.

    A published one is read by its name; what its files leave out stands in the index.
    """
    folder = index.folder.absolute()
    inside = {folder.name: folder.parent, folder.parent.name: folder.parent.parent}.get(INSIDE)
    card = Card.from_dict(index.manifest["card"])
    published = (card.provenance.get("published") or {}).get("name")
    if published is not None and is_name(published):
        return replace(load(published, site=index.manifest["at"]), card=card)
    recorded = index.manifest["sae"]
    there = next((p for p in (inside, recorded) if p is not None and _is_there(p)), None)
    if there is None:
        raise ConfigError(
            f"{index.folder} does not keep every code, and the SAE that would make them is not "
            f"known. Make the index with its codes: {command(index.folder)} --codes"
        )
    return load(there, site=index.manifest["at"])


def _is_there(place: Path | str) -> bool:
    return is_name(place) or (Path(place).exists() and Path(place).name != "")
