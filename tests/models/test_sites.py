"""Names of sites are read and written, and none is read as another place."""

import pytest

from saekit.core.errors import UnknownNameError
from saekit.models.sites import EMBED, POINTS, Site, parse_site, transformer_lens_name


@pytest.mark.parametrize("point", POINTS)
def test_our_names_round_trip(point):
    site = Site(12, point)
    assert parse_site(str(site)) == site


@pytest.mark.parametrize("point", [p for p in POINTS if p != "mlp_in"])
def test_transformer_lens_names_round_trip(point):
    assert parse_site(transformer_lens_name(Site(3, point))) == Site(3, point)


def test_the_embedding_has_two_names():
    assert parse_site("embed") == parse_site(transformer_lens_name(EMBED)) == EMBED


def test_what_is_taken_before_the_norm_is_not_what_the_mlp_reads():
    with pytest.raises(UnknownNameError, match=r"not L3\.mlp_in"):
        parse_site("blocks.3.hook_mlp_in")
    with pytest.raises(UnknownNameError, match="no name for L3.mlp_in"):
        transformer_lens_name(Site(3, "mlp_in"))
    assert parse_site("blocks.3.ln2.hook_normalized") == Site(3, "mlp_normalized")


def test_one_head_of_z_is_a_site_and_of_no_other_point():
    site = Site(2, "z", head=0)
    assert str(site) == "L2.z.h0" and parse_site("L2.z.h0") == site
    assert parse_site("L2.z") == parse_site("blocks.2.attn.hook_z") != site
    assert parse_site("base:L2.z.h11") == Site(2, "z", "base", 11)
    with pytest.raises(UnknownNameError, match="all heads"):
        transformer_lens_name(site)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "L1",
        "L1.resid",
        "blocks.1",
        "blocks.1.hook_resid",
        "L-1.embed",
        "L1.mlp_out.h0",
        "L1.z.h",
    ],
)
def test_no_site(name):
    with pytest.raises(UnknownNameError, match="is not a site"):
        parse_site(name)
