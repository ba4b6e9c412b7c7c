"""Where things are from: hashes of weights and files."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def hash_of_weights(folder: Path) -> str:
    """One hash over a checkpoint's weight files, which are read beside each other."""
    digest = hashlib.sha256()
    paths = sorted(folder.glob("*.safetensors"))
    with ThreadPoolExecutor() as pool:
        for path, weights in zip(paths, pool.map(hash_of_file, paths), strict=True):
            digest.update(f"{path.name} {weights}\n".encode())
    return digest.hexdigest()


def hash_of_file(path: Path) -> str:
    """Its sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
