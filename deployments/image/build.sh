#!/usr/bin/env bash
# Makes the image's content, as root in a bare Debian 12: `build.sh [INDEX OF TORCH'S CPU BUILDS]`.
# The checkout it belongs to lies where it will stay; no model is fetched.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

# KubeRay asks by wget whether a pod is well.
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv wget
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin

# The user of the chart's pods, and the folders that its volumes cover.
groupadd --gid 1000 s2d
useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash s2d
install --directory --owner=s2d --group=s2d /models /etc/s2d-ray

export PIP_NO_CACHE_DIR=1
python3 "$root/s2d_ray/install.py" --venv "$root/.venv" --torch-index "${1:-}"

# A pod cannot write bytecode: its file system is read-only.
"$root/.venv/bin/python" -m compileall -q "$root/s2d_ray"
# A login shell knows no other path.
ln -s "$root/.venv/bin/s2d" "$root/.venv/bin/ray" /usr/local/bin/
