"""The numbers of sae-lens' and SAEBench's own evaluations next to ours: one SAE, one text.

Their functions are given the tiny model behind the few methods that they call, so that what is
compared is how numbers are made, not how a model is loaded. Some rows have special tokens and some
have none: without them ours and theirs are of the same tokens, with them only `saebench_core` is.
"""

import dataclasses
import json
import types

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule, TokenRule
from saekit.data.tokenise import Rows
from saekit.evals.base import Subject, Tools
from saekit.evals.core import Core
from saekit.evals.saebench import custom_sae, write
from saekit.evals.saebench_core import SAEBenchCore
from saekit.hub.trained import TrainedSAE
from saekit.models.sites import parse_site
from saekit.models.tiny import tiny
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.topk import TopK
from tests.evals.world import text
from tests.hub.test_native import card as a_card
from tests.parity.mapping import peer

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4
N_ROWS, N_CTX, BATCH = 12, 24, 4
KINDS = {"topk": TopK(d_in=32, d_out=32, d_sae=96, k=5)}
KINDS |= {"batch_topk": BatchTopK(d_in=32, d_out=32, d_sae=96, k=5)}
KINDS |= {"jumprelu": JumpReLU(d_in=32, d_out=32, d_sae=96)}
SPECIAL = (256, 257)


class Hooked:
    """The tiny model as a HookedTransformer is called."""

    def __init__(self, lm):
        self.lm = lm

    def _losses(self, tokens, logits):
        logp = logits[:, :-1].float().log_softmax(-1)
        return -logp.gather(2, tokens[:, 1:, None])[..., 0]

    def __call__(self, tokens, return_type, loss_per_token):
        logits = self.lm.logits(tokens)
        return logits, self._losses(tokens, logits)

    def run_with_hooks(self, tokens, return_type, fwd_hooks, loss_per_token):
        ((name, hook),) = fwd_hooks
        logits = self.lm.logits(tokens, {parse_site(name): lambda acts: hook(acts, hook=None)})
        return logits, self._losses(tokens, logits)

    def run_with_cache(self, tokens, prepend_bos, names_filter, stop_at_layer):
        return None, {name: self.lm.read(tokens, parse_site(name)) for name in names_filter}


class Store:
    """Rows of tokens as an ActivationsStore gives them."""

    context_size = N_CTX
    store_batch_size_prompts = BATCH

    def __init__(self, tokens):
        self.tokens = tokens
        self.reset_input_dataset()

    def reset_input_dataset(self):
        self.at = 0

    def get_batch_tokens(self, n):
        self.at += n
        return self.tokens[self.at - n : self.at]


def an_sae(kind):
    sae = KINDS[kind].build(torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        if kind == "jumprelu":  # codes are of another unit there
            sae.W_dec.mul_(torch.linspace(0.5, 2, 96)[:, None])
        sae.b_dec.add_(0.1)
    card = dataclasses.replace(a_card(), pair=Pair(read=("L0.resid_post",)))
    return TrainedSAE(sae, card)


def rows(special):
    """Return rows that the model said itself, so that it has something to lose."""
    said = text(40)
    if special:
        return said[:N_ROWS, :N_CTX]
    return said[[i for i in range(40) if i % 5], 1 : N_CTX + 1][:N_ROWS]


def ours(config, trained, tokens):
    rule = FittedRule(TokenRule(max_norm=None), SPECIAL, float("inf"))
    site = parse_site("L0.resid_post")
    subject = Subject(trained.sae, tiny(), site, site, rule, "s")

    def read(n):
        for first in range(0, len(tokens), n):
            part = tokens[first : first + n]
            docs = torch.arange(first, first + len(part))[:, None].expand_as(part)
            yield Rows(part, docs, first)

    n = tokens.numel()
    return config(n_tokens=n, ce_tokens=n, batch_rows=BATCH).run(subject, Tools(rows=read))


def by_sae_lens(trained, tokens):
    """Return the numbers of sae-lens' evaluation."""
    evals, scaler = peer("sae_lens.evals"), peer("sae_lens.training.activation_scaler")
    sae, store = custom_sae(trained), Store(tokens)
    sae.cfg.metadata = types.SimpleNamespace(
        hook_name=sae.cfg.hook_name, hook_head_index=None, exclude_special_tokens=None
    )
    how = {
        "n_batches": N_ROWS // BATCH,
        "eval_batch_size_prompts": BATCH,
        "ignore_tokens": list(SPECIAL),
    }
    found, _ = evals.get_sparsity_and_variance_metrics(
        sae,
        Hooked(tiny()),
        store,
        scaler.ActivationScaler(),
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        model_kwargs={},
        **how,
    )
    store.reset_input_dataset()
    losses = evals.get_downstream_reconstruction_metrics(
        sae,
        Hooked(tiny()),
        store,
        scaler.ActivationScaler(),
        compute_kl=True,
        compute_ce_loss=True,
        **how,
    )
    return found | losses


def by_sae_bench(trained, tokens):
    """Return the numbers of SAEBench's core evaluation, by category, and of latents."""
    core, utils = peer("sae_bench.evals.core.main"), peer("sae_bench.sae_bench_utils.general_utils")
    _, sae, _ = utils.load_and_format_sae("ours", custom_sae(trained), "cpu")
    sae = sae.to(device="cpu", dtype=torch.float32)
    config = core.CoreEvalConfig(
        batch_size_prompts=BATCH,
        n_eval_reconstruction_batches=N_ROWS // BATCH,
        n_eval_sparsity_variance_batches=N_ROWS // BATCH,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
    )
    return core, core.run_evals(
        sae, Store(tokens), Hooked(tiny()), config, ignore_tokens={*SPECIAL}
    )


def close(found, wanted):
    assert found is not None
    assert found == pytest.approx(wanted, rel=TOLERANCE, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_core_has_the_numbers_of_sae_lens_that_are_right(kind):
    trained, tokens = an_sae(kind), rows(special=False)
    theirs = by_sae_lens(trained, tokens)
    mine = {k: s.value for k, s in ours(Core, trained, tokens).scores.items()}
    close(1 - mine["fvu"], theirs["explained_variance"])
    close(32 * mine["mse"], theirs["mse"])
    for name, other in {
        "cosine": "cossim",
        "l0": "l0",
        "ce_clean": "ce_loss_without_sae",
        "ce_spliced": "ce_loss_with_sae",
        "ce_recovered_zero": "ce_loss_score",
    }.items():
        close(mine[name], theirs[other])
    lengths = trained.sae.W_dec.detach().norm(dim=1)
    x = tiny().read(tokens, trained.site).flatten(0, 1)
    close(float((trained.encode(x).dense() * lengths).abs().sum(1).mean()), theirs["l1"])


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_saebench_core_has_the_numbers_of_saebench(kind, special, tmp_path):
    trained, tokens = an_sae(kind), rows(special)
    core, (theirs, features) = by_sae_bench(trained, tokens)
    theirs = theirs | {"misc_metrics": core.calculate_misc_metrics(features)}
    del theirs["token_stats"]  # theirs are of all positions, special ones too
    unit = TrainedSAE(_with_unit_rows(trained.sae), trained.card)
    result = ours(SAEBenchCore, unit, tokens)
    mine = json.loads(write(result, tmp_path).read_text())["eval_result_metrics"]
    compared = 0
    for category, fields in theirs.items():
        for name, value in fields.items():
            close(mine[category][name], float(value))
            compared += 1
    assert compared == 24


def _with_unit_rows(sae):
    """Return an SAE that does the same with directions of length 1, as SAEBench sees it."""
    if not isinstance(sae.cfg, JumpReLU):
        return sae
    lengths = sae.W_dec.detach().norm(dim=1)
    same = sae.cfg.build(torch.Generator().manual_seed(1)).eval()
    state = {k: v.clone() for k, v in sae.state_dict().items()}
    state["W_dec"] /= lengths[:, None]
    longer = {k: state[k] * lengths for k in ("W_enc", "b_enc", "threshold")}
    same.load_state_dict(state | longer)
    return same


OUTPUTS = {  # module of SAEBench, its type
    "core": ("core", "CoreEvalOutput"),
    "sparse_probing": ("sparse_probing", "SparseProbingEvalOutput"),
    "tpp": ("scr_and_tpp", "TppEvalOutput"),
    "scr": ("scr_and_tpp", "ScrEvalOutput"),
}


def accepted(path):
    """Return what SAEBench's own type of a file says against it."""
    raw = json.loads(path.read_text())
    module, name = OUTPUTS[raw["eval_type_id"]]
    kind = getattr(peer(f"sae_bench.evals.{module}.eval_output"), name)
    pydantic = peer("pydantic")
    try:
        pydantic.TypeAdapter(kind).validate_python(raw)
    except pydantic.ValidationError as error:
        return {".".join(map(str, e["loc"])): e["type"] for e in error.errors()}
    return {}


def test_saebench_takes_our_files(tmp_path):
    from tests.evals.test_saebench import result

    trained, tokens = an_sae("topk"), rows(special=True)
    assert accepted(write(ours(SAEBenchCore, trained, tokens), tmp_path)) == {}
    others = [
        result(
            "probing", {"a/sae_accuracy": 0.8, "a/sae_5_accuracy": 0.6, "a/baseline_accuracy": 1}
        ),
        result("tpp", {"a/tpp_2": 0.1, "a/tpp_20": None}),
        result("scr", {"a/first_scr_2": 0.1, "a/second_scr_500": -0.3}),
    ]
    for one in others:
        assert accepted(write(one, tmp_path)) == {}, one.name
    # What `core` does not measure is missing: SAEBench's type has no word for "not measured".
    lacking = accepted(write(ours(Core, trained, tokens), tmp_path))
    assert set(lacking.values()) == {"missing"} and len(lacking) == 10
    assert not any("ce_loss" in place or place.endswith("explained_variance") for place in lacking)
