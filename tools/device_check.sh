#!/usr/bin/env bash
# All checks that need a GPU, in one call of at most nine minutes. Continues after failures and ends with a short table.
#
#     bash tools/device_check.sh                from the project's root; results under $OUT, by default /tmp/out
#     DEVICE=cpu bash tools/device_check.sh     a rehearsal without a GPU: the CUDA kernels are emulated
#
# For a machine without a package index, first put the wheels that it lacks (for Python 3.12) into .device/wheels:
#
#     python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#         --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
#         -d .device/wheels tyro docstring-parser typeguard cmeel cmeel-eigen moreau
#
# and kernels compiled by the same version of NVRTC into .device/cache:
#
#     for feature in float double Half BFloat16; do for classes in 2 5 20 33; do
#       SPARSEDIS_CACHE=.device/cache python tools/cuda_report.py --keep --arch sm_90 --feature $feature --classes $classes
#     done; done
set -u
cd "$(dirname "$0")/.."
end=$(($(date +%s) + ${SECONDS_ALLOWED:-530}))
out=${OUT:-/tmp/out} logs=$(mktemp -d)
mkdir -p "$out"
python=${PYTHON:-python3}
table=$out/table.txt
: >"$table"

say() { printf '%s\n' "$*" | tee -a "$table"; }

step() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 begin code left
  shift 2
  begin=$(date +%s)
  left=$((end - begin))
  if ((left < 15)); then
    say "$name skipped: no time left"
    return
  fi
  timeout -k 5 $((limit < left ? limit : left)) "$@" >"$logs/$name.log" 2>&1
  code=$?
  say "$(printf '%-18s rc %-3s %4s s  %s' "$name" "$code" "$(($(date +%s) - begin))" \
    "$(grep -v '^$' "$logs/$name.log" | tail -n 1 | cut -c1-130)")"
  # After every step, because the call may be terminated at any time.
  tar czf "$out/.logs.$BASHPID" -C "$logs" . 2>/dev/null
  mv "$out/.logs.$BASHPID" "$out/logs.tgz"
}

say "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | head -n 1)"
if compgen -G ".device/wheels/*.whl" >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target /tmp/site .device/wheels/*.whl
fi
export PYTHONPATH=$PWD:/tmp/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PATH=/tmp/site/bin:$PATH
if [[ -d .device/cache ]]; then SPARSEDIS_CACHE=${SPARSEDIS_CACHE:-$PWD/.device/cache}; fi
export SPARSEDIS_CACHE=${SPARSEDIS_CACHE:-/tmp/sparsedis-device-check}
device=${DEVICE:-cuda} batches="8 1024 4096 64" seconds=${SPEED_SECONDS:-100}
unset SPARSEDIS_CUDA_EMULATION TRITON_INTERPRET
if [[ $device == cpu ]]; then
  export SPARSEDIS_CUDA_EMULATION=1
  batches=8
fi
tests=("$python" -m pytest -q -m gpu --maxfail=8 -p no:cacheprovider tests/ops/test_svm_gpu.py)
driver() { echo "$python" tools/device_driver.py --device "$device" "$@"; }

# The CPU kernels, for the comparison of times, compile concurrently with those of the GPU.
SPARSEDIS_BUILD=cpu timeout 150 "$python" setup.py -q build_ext --inplace >"$logs/build-cpp.log" 2>&1 &
step warm 150 "$python" -c "from sparsedis import info; info.warm((5, 3, 20))"
step info 30 "$python" -m sparsedis.info
watched=(--kernel-name kns=solve_in --kernel-name kns=adjoint)
# Steps that are not timed run concurrently.
# shellcheck disable=SC2046,SC2086 # words
{
  step driver 90 $(driver) &
  step cuda-tests 120 "${tests[@]}" -k cuda &
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 step memcheck 100 compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 \
    "${watched[@]}" $(driver) &
  for tool in racecheck synccheck; do
    step "$tool" 90 compute-sanitizer --tool "$tool" --error-exitcode 9 "${watched[@]}" $(driver --shape 3 3 40 2) &
  done
  step initcheck 90 compute-sanitizer --tool initcheck --error-exitcode 9 $(driver --shape 3 3 40 2) &
  step triton-tests 120 "${tests[@]}" -k "not cuda" &
  wait
}
say "build-cpp $(find sparsedis/ops -name '_cpp*.so' | wc -l) modules"
# shellcheck disable=SC2046,SC2086 # words
{
  step speed $((seconds + 50)) "$python" tools/device_speed.py --device "$device" --batches $batches \
    --seconds "$seconds" --json "$out/speed.json"
  for shape in "5 5 640 8" "5 15 1600 16" "5 15 16000 8"; do
    step "profile-${shape// /-}" 45 "$python" tools/device_profile.py --shape $shape
  done
}
grep -hE "contender=|encoder=" "$logs/speed.log" 2>/dev/null | cut -c1-190 | tee -a "$table"
grep -hE "^(FAILED|ERROR)" "$logs"/*tests.log 2>/dev/null | cut -c1-190 | tee -a "$table"
grep -hE "========= .*(ERROR|Error|hazard|Invalid|Uninitialized|Barrier error|Race reported)" "$logs"/*check.log 2>/dev/null |
  sort | uniq -c | head -n 20 | tee -a "$table"
echo "---- in short"
cat "$table"
