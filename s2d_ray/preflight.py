"""Checks the machine before anything is installed: one line for what is wrong, with its fix.

Runs as a script, with the standard library only, on any Python since 3.6: it is what tells a
newcomer that Python is too old, so it may use nothing newer itself.
"""

import argparse
import os
import shutil
import socket
import sys
from typing import Callable, List, Optional, Tuple

GIB = 2**30
OLDEST_PYTHON = (3, 11)
VENV_BYTES = 6 * GIB
CACHE_BYTES = 2 * GIB
SPARE_BYTES = GIB
MEMORY_BYTES = 6 * GIB
SHARED_MEMORY_BYTES = GIB // 2


class Problem(Exception):
    """What is wrong and how to mend it, in one line."""


def check_python(version: Tuple[int, ...]) -> None:
    """Raise Problem unless `version`, major and minor, is new enough."""
    if version < OLDEST_PYTHON:
        raise Problem(
            "Python {}.{} is too old, 3.11 or newer is needed; "
            "name one: make serve PYTHON=python3.11".format(*version)
        )


def check_venv(can_import: Callable[[str], bool]) -> None:
    """Raise Problem unless `can_import(module)` finds what makes virtual environments."""
    for module in ("venv", "ensurepip"):
        if not can_import(module):
            raise Problem("Python's {} module is missing; apt install python3-venv".format(module))


def existing_parent(folder: str) -> str:
    """The folder itself or the nearest one above it that exists."""
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def check_disk(folder: str, needed_bytes: int, free_bytes: int) -> None:
    """Raise Problem if fewer than `needed_bytes` are free where `folder` is or will be."""
    if free_bytes < needed_bytes:
        raise Problem(
            "{} has {:.1f} GiB free, {:.0f} GiB are needed; free some disk space".format(
                folder, free_bytes / GIB, needed_bytes / GIB
            )
        )


def check_memory(available_bytes: Optional[int]) -> None:
    """Raise Problem if memory is short. None means that this system does not tell."""
    if available_bytes is not None and available_bytes < MEMORY_BYTES:
        raise Problem(
            "{:.1f} GiB of memory are available, {:.0f} GiB are needed; "
            "close other programs or take a larger machine".format(
                available_bytes / GIB, MEMORY_BYTES / GIB
            )
        )


def check_shared_memory(free_bytes: Optional[int]) -> None:
    """Raise Problem if /dev/shm is small. None means that this system has none."""
    if free_bytes is not None and free_bytes < SHARED_MEMORY_BYTES:
        raise Problem(
            "/dev/shm has {:.0f} MiB free, {:.0f} MiB are needed; "
            "mount -o remount,size=1G /dev/shm (docker run --shm-size=1g)".format(
                free_bytes / 2**20, SHARED_MEMORY_BYTES / 2**20
            )
        )


def bind_alone(host: str, port: int) -> None:
    """Bind a port once, to see that nobody else has it. Raises OSError.

    A server that sets SO_REUSEPORT would start beside another one and share its traffic in
    silence, so this binds without that option. SO_REUSEADDR passes over closed connections only.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        probe.listen(1)


def check_port(host: str, port: int) -> None:
    """Raise Problem unless `port` can be used by a new server alone."""
    try:
        bind_alone(host, port)
    except OSError as error:
        raise Problem(
            "port {} of {} cannot be used ({}); end an earlier run with `make stop`, "
            "or choose another: make serve PORT={}".format(port, host, error.strerror, port + 1)
        ) from None


def memory_available() -> Optional[int]:
    """Bytes of memory this process may still take, None where the system does not tell."""
    amounts = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            amounts.append(int(line.split()[1]) * 1024)
    limit = _lines("/sys/fs/cgroup/memory.max")
    used = _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0] != "max":
        amounts.append(int(limit[0]) - int(used[0]))
    return min(amounts) if amounts else None


def shared_memory_free() -> Optional[int]:
    """Free bytes in /dev/shm, None where there is none."""
    return shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None


def _lines(path: str) -> List[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def _can_import(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def check_all(venv: str, cache: str, port: Optional[int]) -> None:
    """Run every check against this machine. A `port` of None skips the port."""
    check_python(sys.version_info[:2])
    check_venv(_can_import)
    if port is not None:
        check_port("127.0.0.1", port)
    installed = os.path.exists(os.path.join(venv, "installed.json"))
    for folder, needed_bytes in (
        (venv, SPARE_BYTES if installed else VENV_BYTES),
        (cache, CACHE_BYTES),
    ):
        place = existing_parent(folder)
        check_disk(place, needed_bytes, shutil.disk_usage(place).free)
    check_memory(memory_available())
    check_shared_memory(shared_memory_free())


def main(arguments: List[str]) -> int:
    """Run the checks. Returns the exit status: 0 if all is well, 1 after one line of trouble."""
    parser = argparse.ArgumentParser(description="Check that this machine can run s2d-ray.")
    parser.add_argument("--venv", default=".venv", help="folder of the virtual environment")
    parser.add_argument("--port", type=int, help="port that must be free")
    options = parser.parse_args(arguments)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        check_all(options.venv, cache, options.port)
    except Problem as problem:
        print("s2d: {}".format(problem), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
