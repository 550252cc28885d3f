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


@pytest.mark.parametrize("name", ["blocks.3.hook_mlp_in", "blocks.3.ln2.hook_normalized"])
def test_what_is_taken_before_the_norm_is_not_what_the_mlp_reads(name):
    with pytest.raises(UnknownNameError, match=r"not L3\.mlp_in"):
        parse_site(name)
    with pytest.raises(UnknownNameError, match="no name for L3.mlp_in"):
        transformer_lens_name(Site(3, "mlp_in"))


@pytest.mark.parametrize(
    "name", ["", "L1", "L1.resid", "blocks.1", "blocks.1.hook_resid", "L-1.embed"]
)
def test_no_site(name):
    with pytest.raises(UnknownNameError, match="is not a site"):
        parse_site(name)
