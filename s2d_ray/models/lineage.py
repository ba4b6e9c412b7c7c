"""Where things are from: hashes of weights and files."""

from __future__ import annotations

import hashlib
from pathlib import Path


def hash_of_weights(folder: Path) -> str:
    """One hash over a checkpoint's weight files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name} {hash_of_file(path)}\n".encode())
    return digest.hexdigest()


def hash_of_file(path: Path) -> str:
    """Its sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
