#!/usr/bin/env bash
# Everything that only a machine with a GPU can tell, in one call of at most nine minutes; goes on after failures, and
# prints a short table last.
#
#     bash tools/device_check.sh                from the project's root; results under $OUT, by default /tmp/out
#     DEVICE=cpu bash tools/device_check.sh     a rehearsal without a GPU: the CUDA kernels are emulated
#
# On a machine without a package index: put wheels of what is missing there (for Python 3.12: tyro docstring-parser
# typeguard cmeel cmeel-eigen setuptools pybind11 ninja scipy moreau) into .device/wheels before.
#
#     python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#         --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
#         -d .device/wheels tyro docstring-parser typeguard cmeel cmeel-eigen setuptools pybind11 ninja scipy moreau
set -u
cd "$(dirname "$0")/.."
out=${OUT:-/tmp/out}
mkdir -p "$out"
python=${PYTHON:-python3}
table=$out/table.txt
: >"$table"

step() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 begin code
  shift 2
  begin=$(date +%s)
  timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
  code=$?
  printf '%-18s rc %-3s %4s s  %s\n' "$name" "$code" "$(($(date +%s) - begin))" \
    "$(grep -v '^$' "$out/$name.log" | tail -n 1 | cut -c1-130)" | tee -a "$table"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | tee -a "$table"
if compgen -G ".device/wheels/*.whl" >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target /tmp/site .device/wheels/*.whl
fi
export PYTHONPATH=$PWD:/tmp/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PATH=/tmp/site/bin:$PATH
export SPARSEDIS_CACHE=/tmp/sparsedis-device-check
device=${DEVICE:-cuda}
unset SPARSEDIS_CUDA_EMULATION TRITON_INTERPRET
batches="8 64 1024 4096"
if [[ $device == cpu ]]; then
  export SPARSEDIS_CUDA_EMULATION=1
  batches=8
fi

# The kernels of the CPU, which the others are compared with, compile beside those of the GPU.
SPARSEDIS_BUILD=cpu timeout 150 "$python" setup.py -q build_ext --inplace >"$out/build-cpp.log" 2>&1 &
build=$!
step warm 120 "$python" -c "from sparsedis import info; info.warm((3, 5))"
wait $build
printf 'build-cpp rc %s\n' $? | tee -a "$table"
step info 30 "$python" -m sparsedis.info
step driver 60 "$python" tools/device_driver.py --device "$device"
# shellcheck disable=SC2086 # several batches
step speed 130 "$python" tools/device_speed.py --device "$device" --batches $batches --seconds 90 --json "$out/speed.json"
step gpu-tests 110 "$python" -m pytest -q -m gpu --maxfail=8 -p no:cacheprovider tests
for tool in memcheck racecheck initcheck synccheck; do
  step "$tool" 40 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" tools/device_driver.py --device "$device" --shape 3 3 40 2
done
for shape in "5 5 640 8" "5 15 1600 132" "5 5 16000 8"; do
  # shellcheck disable=SC2086 # four arguments
  step "ncu-${shape// /-}" 25 ncu --kernel-name 'regex:solve_in|adjoint' --launch-count 3 --set basic \
    "$python" tools/device_driver.py --device "$device" --shape $shape
done
grep -hE "contender=|encoder=" "$out/speed.log" | cut -c1-190 | tee -a "$table"
grep -hE "^(FAILED|ERROR)" "$out/gpu-tests.log" | cut -c1-190 | tee -a "$table"
grep -hE "========= (ERROR|Error|.*hazard)" "$out"/*check.log | sort | uniq -c | head -n 20 | tee -a "$table"
tar czf "$out/logs.tgz" -C "$out" --exclude logs.tgz . 2>/dev/null
echo "---- in short"
cat "$table"
