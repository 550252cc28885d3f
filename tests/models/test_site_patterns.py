import pytest

from saekit.core.errors import UnknownNameError
from saekit.models.site_patterns import expand_sites
from saekit.models.tiny import tiny


@pytest.fixture(scope="module")
def lm():
    return tiny(n_layers=4)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["L*.resid_post"], ["L0.resid_post", "L1.resid_post", "L2.resid_post", "L3.resid_post"]),
        (["L0-1.mlp_out"], ["L0.mlp_out", "L1.mlp_out"]),
        (["L3,0.resid_pre"], ["L3.resid_pre", "L0.resid_pre"]),
        (
            ["L0,2-3.resid_post", "L2.resid_post"],
            ["L0.resid_post", "L2.resid_post", "L3.resid_post"],
        ),
        (["embed", "L0.resid_post"], ["embed", "L0.resid_post"]),
        (["L0.resid_post"], ["L0.resid_post"]),
    ],
)
def test_patterns_are_written_out(lm, names, wanted):
    assert expand_sites(names, lm) == wanted


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("L4.resid_post", "layers 0..3"),
        ("L2-9.resid_post", "no site `L4.resid_post`"),
        ("L*.resid_pots", "not a site"),
        ("L3-1.resid_post", "`3-1` is neither"),
        ("L,1.resid_post", "`` is neither"),
        ("layers", "not a site"),
    ],
)
def test_what_there_is_not_is_refused(lm, name, message):
    with pytest.raises(UnknownNameError, match=message):
        expand_sites([name], lm)
