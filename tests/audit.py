"""`make audit`: are vulnerabilities known of what constraints.txt pins? pip-audit asks OSV.

Where the database cannot be reached, one line says that nothing was checked, and that is no
failure: a build without a network stays possible.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
OSV_URL = "https://api.osv.dev/v1/query"
TOOL = "pip-audit==2.10.1"
TIMEOUT_S = 10.0

Run = Callable[[Sequence[str]], int]


def is_reached(url: str) -> bool:
    """Whether anything answers there, be it that the question was wrong."""
    try:
        urllib.request.urlopen(url, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True


def audit(url: str, folder: Path, run: Run = subprocess.call) -> int:
    """Print what is known; -> exit status. folder: for the tool, no part of the project."""
    if not is_reached(url):
        print(f"audit: NOT RUN, nothing was checked: {url} cannot be reached from here")
        return 0
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    if code := run([str(python), "-m", "pip", "install", "--quiet", TOOL]):
        return code
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off"]
    pins = ["-r", str(ROOT / "constraints.txt")]
    return run([str(python), "-m", "pip_audit", *pins, *options, "-s", "osv", "--osv-url", url])


def main() -> None:
    """Parse the command line and audit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--osv-url", default=OSV_URL, help="another copy of the database")
    options = parser.parse_args()
    sys.exit(audit(options.osv_url, ROOT / ".venv" / "audit"))


if __name__ == "__main__":
    main()
