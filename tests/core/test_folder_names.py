"""Names of folders: short, and no two alike."""

import pytest

from saekit.core.errors import ConfigError
from saekit.core.folder_names import distinct_names


def test_folders_are_called_by_what_tells_them_apart(tmp_path):
    a, b, c = (tmp_path / name for name in ("a/seed0", "b/seed0", "b/seed1"))
    assert distinct_names([a, c]) == ["seed0", "seed1"]
    assert distinct_names([a, b, c]) == ["a/seed0", "b/seed0", "seed1"]  # the third is told already
    assert distinct_names([c, b, a]) == ["seed1", "b/seed0", "a/seed0"]
    deep = [tmp_path / "x/a/seed0", tmp_path / "y/a/seed0", a]
    assert distinct_names(deep) == ["x/a/seed0", "y/a/seed0", f"{tmp_path.name}/a/seed0"]
    assert distinct_names([tmp_path / "n", tmp_path / "n" / "n"]) == [f"{tmp_path.name}/n", "n/n"]
    assert distinct_names([]) == []


def test_what_lies_in_no_folder_is_called_by_its_place(tmp_path):
    assert distinct_names([None, tmp_path / "a", None]) == ["SAE 1", "a", "SAE 3"]
    taken = tmp_path / "SAE 1"
    assert distinct_names([None, taken]) == ["SAE 1", f"{tmp_path.name}/SAE 1"]


def test_a_folder_that_comes_twice_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is named twice"):
        distinct_names([tmp_path / "a", tmp_path / "b" / ".." / "a"])
