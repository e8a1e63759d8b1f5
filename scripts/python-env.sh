#!/usr/bin/env bash
# Makes the Python environment that the golden files and reference timings come from: a folder that git ignores
# (default .venv; LORICA_PYTHON_ENV chooses another), with exactly the versions of scripts/python-requirements.txt.
# The product and its tests never need it. Idempotent: a second run with the same requirements does nothing.
# Prints the path of the python binary as its only line on stdout.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
requirements="$root/scripts/python-requirements.txt"
environment=${LORICA_PYTHON_ENV:-"$root/.venv"}
stamp="$environment/.lorica-requirements"
if ! cmp -s "$requirements" "$stamp"; then
  "${PYTHON:-python3}" -m venv "$environment" >&2
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2
  cp "$requirements" "$stamp"
fi
echo "$environment/bin/python"
