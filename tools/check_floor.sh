#!/usr/bin/env bash
# Run the tests with the oldest supported Python and the oldest version of every package in pyproject.toml.
#
#     tools/check_floor.sh [ARGUMENTS OF PYTEST]      default: -m "not slow"
#
# Needs uv (pip install uv) and Python 3.10, which uv finds or downloads. Installs the CUDA build of the oldest torch,
# about 3 GB. SPARSEDIS_FLOOR: a folder in which to keep the environment; by default it is temporary.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v uv >/dev/null || { echo "check_floor.sh needs uv: pip install uv" >&2; exit 2; }
oldest=$(sed -n 's/^requires-python = ">=\(.*\)"/\1/p' pyproject.toml)
environment=${SPARSEDIS_FLOOR:-$(mktemp -d)}
[ -n "${SPARSEDIS_FLOOR:-}" ] || trap 'rm -rf "$environment"' EXIT

uv venv --quiet --allow-existing --python "$oldest" "$environment"
. "$environment/bin/activate"
SPARSEDIS_BUILD=cpu uv pip install --quiet --resolution lowest-direct -e '.[test]'
uv pip list 2>/dev/null | grep -E '^(numpy|torch|triton|pillow|tyro|rich|matplotlib|safetensors|scipy|pytest) '
if [ $# -eq 0 ]; then set -- -m "not slow"; fi
pytest "$@"
