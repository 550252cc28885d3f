import threading

import pytest
import torch

from saekit.core.errors import (
    ConfigError,
    FormatError,
    MissingExtraError,
    ResourceError,
    ShapeError,
    UnknownNameError,
)
from saekit.models import hf
from saekit.models.hf import load
from saekit.models.sites import EMBED, Site
from saekit.models.tiny import save_tiny, tiny
from tests.world import FAMILIES

LAYOUTS = ["llama", "gpt2", "gpt_neox", "gemma3"]  # one of each kind of block
TOKENS = torch.randint(0, 256, (2, 11), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_read_equals_the_hidden_states_of_transformers(family: str) -> None:
    model = tiny(family, n_layers=3)
    with torch.no_grad():
        want = model.module(input_ids=TOKENS, output_hidden_states=True).hidden_states
    got = model.read(TOKENS, [Site(i, "resid_pre") for i in range(3)])
    for i in range(3):
        assert torch.equal(got[Site(i, "resid_pre")], want[i])
    post = model.read(TOKENS, [Site(0, "resid_post"), Site(1, "resid_post")])
    assert torch.equal(post[Site(1, "resid_post")], want[2])


def test_nothing_runs_after_the_last_site_read() -> None:
    model = tiny("llama", n_layers=4)
    ran: list[str] = []
    for name, module in model.module.named_modules():
        module.register_forward_pre_hook(lambda _m, _a, name=name: ran.append(name))
    model.read(TOKENS, [Site(1, "attn_out"), Site(0, "mlp_in")])
    assert "model.layers.1.self_attn" in ran
    assert "model.layers.1.mlp" not in ran
    assert not any(n.startswith(("model.layers.2", "model.norm", "lm_head")) for n in ran)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_some_positions_are_those_of_the_whole(family: str) -> None:
    """Final norm, bias, soft cap: whatever follows the blocks of a family is done in both."""
    model = tiny(family)
    with torch.no_grad():
        model.module.get_output_embeddings().weight.mul_(400)  # so that a soft cap is felt
    site = Site(0, "resid_post")
    for replace in (None, {site: lambda x: x * 0.5 + 1}):
        whole = model.logits(TOKENS, replace)
        final = model.final(TOKENS, replace)
        some = torch.tensor([[1, 3], [0, 7]])
        got = model.unembed(final[some[:, 0], some[:, 1]])
        torch.testing.assert_close(got, whole[some[:, 0], some[:, 1]], rtol=1e-5, atol=1e-5)
    assert torch.equal(model.logits(TOKENS), model.logits(TOKENS))  # the decoder is itself again
    assert "forward" not in vars(model.module.get_decoder())
    if family == "gemma2":
        assert 20 < whole.abs().max() <= 30  # the cap was there to be felt


def test_read_gives_sites_in_the_order_asked_and_no_copies() -> None:
    model = tiny()
    sites = [Site(1, "resid_pre"), EMBED, Site(0, "resid_post")]
    got = model.read(TOKENS, [*sites, EMBED])
    assert list(got) == sites
    assert got[sites[0]].data_ptr() == got[sites[2]].data_ptr()
    assert model.read(TOKENS, []) == {}


def test_no_hook_is_left_after_a_pass_or_a_failure() -> None:
    model = tiny()
    plain = model.logits(TOKENS)
    model.read(TOKENS, model.sites())
    with pytest.raises(ZeroDivisionError):
        model.logits(TOKENS, {Site(0, "mlp_out"): lambda x: x / (1 // 0)})
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in model.module.modules()]
    assert not any(hooks)
    assert torch.equal(model.logits(TOKENS), plain)


@pytest.mark.parametrize("family", LAYOUTS)
def test_what_replaces_a_site_is_what_the_rest_reads(family: str) -> None:
    model = tiny(family)
    plain = model.logits(TOKENS)
    for site in model.sites():
        value = model.read(TOKENS, [site])[site]
        seen: dict[str, torch.Tensor] = {}

        def spy(x: torch.Tensor, site: Site = site, seen=seen) -> torch.Tensor:
            seen[str(site)] = x
            return x

        changed = model.logits(TOKENS, {site: lambda x: x * 0.5 + 1})
        assert not torch.allclose(changed, plain), site
        back = model.logits(TOKENS, {site: lambda x, value=value: value.clone()})
        if site.point == "mlp_normalized":  # is multiplied and added to anew
            torch.testing.assert_close(back, plain, rtol=1e-3, atol=1e-4)
        else:
            assert torch.equal(back, plain), site
        model.logits(TOKENS, {site: spy})
        assert torch.equal(seen[str(site)], value), site


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_replacing_the_middle_of_the_stream_replaces_its_residual_branch(family: str) -> None:
    model = tiny(family)
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str):
        def change(x: torch.Tensor) -> torch.Tensor:
            seen[name] = x.clone()
            return x

        return change

    model.logits(
        TOKENS,
        {
            Site(1, "resid_mid"): torch.zeros_like,
            Site(1, "mlp_out"): keep("mlp"),
            Site(1, "resid_post"): keep("post"),
        },
    )
    assert torch.equal(seen["post"], seen["mlp"])


def test_replacements_meet_in_the_order_of_the_pass() -> None:
    model = tiny()
    first, second = Site(0, "resid_post"), Site(1, "resid_pre")
    got = {}

    def double(x: torch.Tensor) -> torch.Tensor:
        got["second"] = x
        return x

    model.logits(TOKENS, {second: double, first: lambda x: torch.full_like(x, 2.0)})
    assert (got["second"] == 2).all()


def test_a_replacement_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"L0.mlp_out.*\(2, 11, 32\).*\(2, 11, 31\)"):
        tiny().logits(TOKENS, {Site(0, "mlp_out"): lambda x: x[..., 1:]})


def test_a_replacement_in_another_dtype_is_brought_to_the_models() -> None:
    model = tiny(dtype=torch.bfloat16)
    logits = model.logits(TOKENS, {Site(0, "resid_mid"): lambda x: x.double()})
    assert torch.equal(logits, model.logits(TOKENS))


def test_a_replacement_may_not_run_the_model() -> None:
    model = tiny()
    with pytest.raises(RuntimeError, match="may not run the model"):
        model.logits(TOKENS, {EMBED: lambda x: x + model.logits(TOKENS).sum()})
    assert model.logits(TOKENS).shape == (2, 11, 258)


def test_two_threads_do_not_see_each_others_activations() -> None:
    model = tiny()
    batches = [TOKENS[:1], TOKENS[1:]]
    site = Site(1, "resid_post")
    want = [model.read(b, [site])[site] for b in batches]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(
            i for _ in range(30) if not torch.equal(model.read(batches[i], [site])[site], want[i])
        )

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_activations_have_no_graph_unless_asked_and_can_enter_one() -> None:
    x = tiny().read(TOKENS, [EMBED])[EMBED]
    assert not x.requires_grad
    weight = torch.ones(32, requires_grad=True)
    (x * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("family", LAYOUTS)
def test_grad_reaches_the_embedding_and_matches_a_difference(family: str) -> None:
    model = tiny(family, dtype=torch.float64)
    site = Site(1, "mlp_out")
    acts = model.read(TOKENS, [EMBED, site], grad=True)
    (grad,) = torch.autograd.grad(acts[site].sum(), acts[EMBED])
    step = grad / grad.norm()

    def moved(size: float) -> float:
        total = []
        model.logits(
            TOKENS, {EMBED: lambda x: x + size * step, site: lambda x: total.append(x.sum()) or x}
        )
        return float(total[0])

    # Norms work in float32 whatever the dtype, so the step cannot be very small.
    numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2
    assert numeric == pytest.approx(float(grad.norm()), rel=1e-2)


def test_grad_flows_through_a_replacement_in_the_middle_of_a_block() -> None:
    model = tiny(dtype=torch.float64)
    gain = torch.ones(32, dtype=torch.float64, requires_grad=True)
    logits = model.logits(TOKENS, {Site(0, "resid_mid"): lambda x: x * gain}, grad=True)
    (grad,) = torch.autograd.grad(logits[0, -1, 7], gain)

    def at(size: float) -> float:
        new = {Site(0, "resid_mid"): lambda x: x * (1 + size * torch.eye(32).double()[5])}
        return float(model.logits(TOKENS, new)[0, -1, 7])

    assert float(grad[5]) == pytest.approx((at(1e-2) - at(-1e-2)) / 2e-2, rel=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_logit_effects_are_what_a_direction_adds_at_a_fixed_norm(family: str) -> None:
    model = tiny(family, dtype=torch.float64)
    site = Site(1, "resid_post")
    x = torch.randn(1, 11, 32, generator=torch.Generator().manual_seed(2)).double()
    # A direction orthogonal to x and to the ones leaves mean and, to first order, norm.
    d = torch.randn(32, generator=torch.Generator().manual_seed(3)).double()
    basis = torch.linalg.qr(torch.stack([x[0, 0], torch.ones(32).double()], 1)).Q
    d -= basis @ (basis.T @ d)
    size = 0.05
    low = model.logits(TOKENS[:1], {site: lambda _: x - size * d})[0, 0]
    high = model.logits(TOKENS[:1], {site: lambda _: x + size * d})[0, 0]
    if family == "gemma2":  # undo the soft cap, which the effects leave out
        cap = model.module.config.final_logit_softcapping
        low, high = cap * torch.atanh(low / cap), cap * torch.atanh(high / cap)
    centred = x[0, 0] - x[0, 0].mean() if family in ("gpt2", "gpt_neox") else x[0, 0]
    want = (high - low) / (2 * size) * centred.square().mean().sqrt()
    got = model.logit_effects(d.float()[None])[0]
    assert torch.allclose(got.double(), want, rtol=2e-3, atol=2e-3)


def test_logit_effects_ignore_the_mean_of_a_direction_before_a_layer_norm() -> None:
    ones = torch.ones(1, 32)
    assert tiny("gpt2").logit_effects(ones).abs().max() < 1e-4
    assert tiny("llama").logit_effects(ones).abs().max() > 0.1


def test_sites_that_are_not_there_are_named() -> None:
    assert Site(0, "resid_mid") not in tiny("gpt_neox").sites()
    with pytest.raises(UnknownNameError, match="L0.resid_mid"):
        tiny("gpt_neox").read(TOKENS, [Site(0, "resid_mid")])
    with pytest.raises(UnknownNameError, match="layers 0..1"):
        tiny().logits(TOKENS, {Site(9, "resid_pre"): lambda x: x})


def test_rows_longer_than_the_model_reads_are_refused() -> None:
    with pytest.raises(ShapeError, match="at most 256 tokens; got 257"):
        tiny("gpt2").read(torch.zeros(1, 257, dtype=torch.int64), [EMBED])


def test_sequential_gpt_neox_has_a_middle_and_gemma_1_is_laid_out_as_llama() -> None:
    from saekit.models.families.gemma import Gemma
    from saekit.models.families.gpt_neox import GPTNeoX
    from saekit.models.selfcheck import check
    from saekit.models.tiny import ByteTokenizer

    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 258,
        "max_position_embeddings": 64,
        "pad_token_id": None,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    neox = hf.new_module("gpt_neox", sizes | {"use_parallel_residual": False})
    gemma = hf.new_module("gemma", sizes | {"head_dim": 8, "num_key_value_heads": 2})
    for module, family in ((neox, GPTNeoX), (gemma, Gemma)):
        for weight in module.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        model = hf.HFModel(module, ByteTokenizer(), name=family.name, revision="")
        assert Site(0, "resid_mid") in model.sites()
        check(model)


def test_load_says_what_it_loaded(tmp_path) -> None:
    folder = save_tiny(tmp_path, "llama")
    model = load(str(folder), dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert model.name == str(folder)
    assert len(model.revision) == 64
    assert load(str(save_tiny(tmp_path / "b", "llama", 1))).revision != model.revision
    assert load(str(folder), dtype="auto").dtype in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("name", ["smollm2-135", "./nowhere", "/no/such/folder", "a/b/c"])
def test_unknown_names_are_refused_without_asking_the_network(name: str) -> None:
    with pytest.raises(UnknownNameError, match="smollm2-135m"):
        load(name)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"device": "cuda:99"}, ResourceError, "--device cpu"),
        ({"device": "tpu"}, ConfigError, "cpu, cuda"),
        ({"dtype": "int8"}, ConfigError, "bfloat16"),
        ({"revision": "main"}, ConfigError, "Leave it out"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, error, says) -> None:
    with pytest.raises(error, match=says):
        load(str(save_tiny(tmp_path)), **settings)


def test_damaged_folders_are_told_apart(tmp_path) -> None:
    with pytest.raises(FormatError, match="no config.json"):
        load(str(tmp_path))
    folder = save_tiny(tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match="could not be loaded"):
        load(str(folder))
    weights.write_bytes(whole)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(FormatError, match="could not be loaded"):
        load(str(folder))


def test_a_model_of_another_or_an_unknown_type_is_refused(tmp_path) -> None:
    folder = save_tiny(tmp_path)
    config = folder / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"llama"', '"no_such_kind"'))
    with pytest.raises(UnknownNameError, match=r"type `no_such_kind`, which transformers \d"):
        load(str(folder))
    config.write_text(text.replace('"llama"', '"stablelm"'))
    with pytest.raises(FormatError, match="not those of a StableLm"):
        load(str(folder))
    config.write_text(text.replace('"llama"', '"t5"'))
    with pytest.raises(UnknownNameError, match="type `t5` is no causal language model"):
        load(str(folder))


def test_a_missing_library_is_named(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"saekit\[lm\]"):
        load("gpt2")
