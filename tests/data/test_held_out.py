"""Text for SAEs: nothing that any of them was trained on is measured."""

import json

import pytest

from saekit.core.config import override
from saekit.core.errors import ConfigError, DataError
from saekit.data.base import Shares, as_held_out, as_split
from saekit.data.corpora.files import Files
from saekit.data.corpora.mixture import Mixture
from saekit.data.held_out import kept_from, kept_from_all, shares_of
from saekit.data.split import fingerprint
from saekit.data.tokenise import TokenStream
from saekit.models.tiny import tiny

OLD = {
    "name": "files",
    "paths": ["text.jsonl"],
    "text_column": "text",
    "separator": None,
    "join_chars": 0,
    "test_share": 0.1,
}  # as a run.json of 0.2.0 has it


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"number {i}"}) + "\n" for i in range(400)))
    return Files(paths=(str(path),))


def seen(corpus, split):
    return {d.text for d in corpus.documents(split)}


@pytest.mark.parametrize("shares", [Shares(0.0, 0.1), Shares(0.05, 0.02), Shares(0.2, 0.4)])
@pytest.mark.parametrize("mixed", [False, True])
def test_another_text_is_split_as_that_of_training(text, shares, mixed):
    trained_on = text.with_shares(shares)
    other = Mixture(parts=(text,), weights=(1.0,)) if mixed else text
    assert seen(other, "test") & seen(trained_on, "train") or shares.held_out > 0.2
    kept = kept_from(other, trained_on.to_dict())
    for split in ("validation", "test"):
        assert seen(kept, split) == seen(trained_on, split)
    in_parts = Mixture(parts=(trained_on,), weights=(1.0,)).to_dict()
    assert kept_from(other, in_parts) == kept and kept_from(other, None) is other


def test_what_is_stored_says_how_it_was_split():
    assert shares_of(OLD) == Shares(0.0, 0.1)
    assert shares_of(OLD | {"validation_share": 0.2}) == Shares(0.2, 0.1)
    assert shares_of({"name": "of_the_user"}) is None and shares_of(None) is None


def test_several_read_what_all_of_them_kept(text):
    """Regions of the test, [0.1, 0.4) and [0.2, 0.5), meet in [0.2, 0.4)."""
    one, other = Shares(0.1, 0.3), Shares(0.2, 0.3)
    trained = [(n, text.with_shares(s).to_dict()) for n, s in (("a", one), ("b", other))]
    both = seen(text.with_shares(one), "test") & seen(text.with_shares(other), "test")
    place = {t: fingerprint(t) / 2**64 for t in both}
    assert both and all(0.2 <= p < 0.4 for p in place.values())
    assert seen(kept_from_all(text, trained, "test"), "test") == both
    validation = kept_from_all(text, trained, "validation")
    assert seen(validation, "validation") == seen(text.with_shares(one), "validation")
    assert kept_from_all(text, trained[:1] * 2, "test") == text.with_shares(one)
    assert kept_from_all(text, [("published", None)], "test") is text
    assert kept_from_all(text, [*trained[:1], ("published", None)], "test").shares == one


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_old_run_and_a_new_one_have_no_held_out_text_in_common(text, split):
    """The one was trained on what is test text of the other, and has none for validation."""
    trained = [("old", OLD), ("new", text.to_dict())]
    old = text.with_shares(Shares(0.0, 0.1))
    assert seen(text, "test") <= seen(old, "train")
    with pytest.raises(ConfigError, match=r"old validation_share 0, .*one by one.*same shares"):
        kept_from_all(text, trained, split)


def test_a_split_that_no_text_is_kept_for_says_so(text):
    rows = TokenStream(text.with_shares(Shares(0.0, 0.1)), "validation", tiny().tokenizer, n_ctx=8)
    with pytest.raises(DataError, match="keeps no validation text: `validation_share` is 0"):
        next(rows.rows(1))


def test_names_of_splits():
    assert as_split("validation") == as_held_out("validation") == "validation"
    with pytest.raises(ConfigError, match="must be one of train, validation, test; got half"):
        as_held_out("half")
    with pytest.raises(ConfigError, match="not trained on.*got train"):
        as_held_out("train")


def test_a_share_that_is_not_stored_can_be_set(text):
    kept = text.with_shares(Shares(0.0, 0.1))
    assert "validation_share" not in kept.to_dict()
    assert override(kept, ["validation_share=0.1"]) == text
    mixed = Mixture(parts=(kept,), weights=(1.0,))
    with pytest.raises(ConfigError, match="no setting `validation_share`"):
        override(mixed, ["validation_share=0.1"])
