#!/usr/bin/env bash
# Build the sdist and a wheel from it, install the wheel without a compiler, and check that it solves with its kernels.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/build"
"$work/build/bin/pip" install --quiet build
"$work/build/bin/python" -m build --sdist --outdir "$work/dist" . >/dev/null
SPARSEDIS_BUILD=cpu "$work/build/bin/pip" wheel --quiet --no-deps --wheel-dir "$work/dist" "$work"/dist/*.tar.gz
ls "$work/dist"

python3 -m venv "$work/user"
"$work/user/bin/pip" install --quiet --no-compile torch==2.13.0 numpy
# PATH contains only this environment, so that there is no compiler.
cd "$work"
PATH="$work/user/bin" "$work/user/bin/pip" install --quiet --no-index --find-links "$work/dist" --no-deps sparsedis
PATH="$work/user/bin" "$work/user/bin/python" "$repository/tools/solve_with_wheel.py"
