"""A Parquet file that another process cuts while it is open: an error, not the end of this one."""

import subprocess
import sys

import pytest

pytest.importorskip("pyarrow")
CUT = """
import os, sys
from pathlib import Path
import numpy as np
from saekit.core.errors import FormatError
from saekit.data import parquet

path = Path(sys.argv[1])
noise = np.random.default_rng(0).random(300_000)
parquet.write(path, {"value": noise})
file = parquet.ParquetFile(path)
os.truncate(path, 1000)
try:
    file.group(0)
except FormatError as error:
    print(error)
"""


def test_a_file_that_is_cut_while_it_is_open_is_an_error(tmp_path):
    path = tmp_path / "values.parquet"
    done = subprocess.run(
        [sys.executable, "-c", CUT, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert str(path) in done.stdout
