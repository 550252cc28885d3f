"""Several processes compute what one does: losses, gradients, codes, choices; and send little."""

import pytest

from saekit.saes.base import registry
from tests.training.parallel.spawn import result, spawn

pytestmark = pytest.mark.slow  # processes that import torch and wait for each other
SHARED = ("topk", "batch_topk", "jumprelu")
MORE = ("jumprelu step", "jumprelu tanh", "topk wide")
CLOSE = 1e-5


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return result(2, "checks", tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return result(4, "equal", tmp_path_factory.mktemp("four"))


def assert_close(seen, name):
    # The slope of the p-norm grows without bound towards 0: last bits of a weight are seen there.
    limits = {"gradients": 1e-4, "weights": 1e-3} if name == "p_anneal" else {}
    for key in ("loss", "codes", "gradients"):
        assert seen[key] < limits.get(key, CLOSE), (key, seen)
    assert seen["counters"] == 0
    assert seen["entries"] > 0
    if name == "temporal":
        return  # biases of keys have no gradient but rounding, which Adam enlarges
    assert seen["weights"] < limits.get("weights", CLOSE)


@pytest.mark.parametrize("name", registry.names())
def test_rows_dealt_over_processes_are_one_batch(two, name):
    assert_close(two["equal"][f"2x1 {name}"], name)


@pytest.mark.parametrize("name", [*SHARED, *MORE])
def test_latents_dealt_over_processes_are_one_dictionary(two, name):
    assert_close(two["equal"][f"1x2 {name}"], name)


def test_dead_latents_learnt_in_the_comparison(two):
    assert two["equal"]["1x2 topk"]["dead"] > 0 and two["equal"]["2x1 topk"]["dead"] > 0


@pytest.mark.parametrize("mesh", ["1x4", "2x2", "4x1"])
@pytest.mark.parametrize("name", SHARED)
def test_four_processes(four, mesh, name):
    assert_close(four[f"{mesh} {name}"], name)


def test_exactly_k_are_kept_of_equal_numbers(two):
    for k in (1, 3, 8, 13):
        assert two["ties"][str(k)] == [k] * 5
    assert two["ties"]["batch"] == 7


def test_a_step_sends_no_array_of_all_latents(two):
    """d_sae is 4096, rows 96, d 16: with latents dealt, no message is of the size of d_sae."""
    calls = {
        "topk": {"gather": 3, "sum": 4},
        "batch_topk": {"gather": 4, "sum": 5},
        "jumprelu": {"gather": 0, "sum": 5},
    }
    for name in SHARED:
        seen = two["traffic"][f"1x2 {name}"]
        assert seen["calls"] == {k: n for k, n in calls[name].items() if n}, name
        assert max(seen["largest"].values()) <= 96 * 16


def test_rows_dealt_send_each_gradient_once(two):
    seen = two["traffic"]["2x1 topk"]
    # Four gradients, the loss, what fired, and the ratio of the auxiliary loss.
    assert seen["calls"] == {"sum": 7}
    assert seen["largest"]["sum"] == 4096 * 16


def test_nan_on_one_process_stops_all_before_the_step(two):
    for said, unchanged in two["nan"]["said"]:
        assert "step 2" in said and unchanged


def test_no_more_than_a_share_is_built(two):
    seen = two["large"]
    assert seen["share_bytes"] == 4 * (2**20 * (2 * 16 + 1) + 16)
    assert seen["grown_bytes"] < 1.7 * seen["share_bytes"]


def test_a_process_that_fails_ends_the_others_with_its_words(tmp_path):
    codes, errors = spawn(2, "stuck", tmp_path / "out.json")
    assert codes == [1, 1]
    assert "process 1: ValueError: the disk of process 1 is on fire" in errors[0]
