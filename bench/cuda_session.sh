#!/usr/bin/env bash
# All that is measured on a GPU, in one go: conformance, the sweep that the plan's rule is set by,
# the table of RESULTS.md and the baselines of other kernels beside it.
#
#   bench/cuda_session.sh BIN_DIR OUT_DIR [SECONDS_OF_BASELINES]
#
# BIN_DIR holds cuda_conformance, cuda_speed and libturboquant_cuda.so; where it does not, they are
# built (nvcc, CMake; compute capability 9.0). Each step has a time limit; the first that fails
# decides the exit code, later ones still run.
set -uo pipefail
bin=${1:?usage: cuda_session.sh BIN_DIR OUT_DIR [SECONDS]}
out=${2:?usage: cuda_session.sh BIN_DIR OUT_DIR [SECONDS]}
seconds=${3:-100}
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$out"

if ! LD_LIBRARY_PATH="$bin" "$bin/cuda_conformance" --list >/dev/null 2>&1; then
  echo "building in $bin-build"
  cmake -S "$root" -B "$bin-build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DTURBOQUANT_CUDA=ON \
    -DTURBOQUANT_BUILD_BENCH=ON >"$out/configure.log" 2>&1 || { tail -20 "$out/configure.log"; exit 2; }
  cmake --build "$bin-build" --target cuda_speed cuda_conformance >"$out/build.log" 2>&1 ||
    { tail -20 "$out/build.log"; exit 2; }
  mkdir -p "$bin"
  cp "$bin-build/bench/cuda_speed" "$bin-build/tests/cuda/cuda_conformance" \
    "$bin-build/src/kernels/cuda/libturboquant_cuda.so" "$bin/"
fi
export LD_LIBRARY_PATH="$bin${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
nvidia-smi --query-gpu=name,clocks.sm,clocks.mem,driver_version --format=csv,noheader

status=0
step() {
  local name=$1 limit=$2
  shift 2
  local begin=$SECONDS
  timeout "$limit" "$@" >"$out/$name.txt" 2>&1
  local rc=$?
  echo "== $name: exit $rc, $((SECONDS - begin)) s"
  [ "$rc" -eq 0 ] || [ "$status" -ne 0 ] || status=$rc
}
step conformance 60 "$bin/cuda_conformance"
grep -E "FAILED|passed|failed" "$out/conformance.txt" | tail -8
step encode 30 "$bin/cuda_speed" --only encode "$out/encode.json"
cat "$out/encode.txt"
step sweep 150 "$bin/cuda_speed" --quick --only sweep "$out/sweep.json"
grep -v "^  best" "$out/sweep.txt" | tail -90
step attention 60 "$bin/cuda_speed" --only attention "$out/attention.json"
step baselines "$((seconds + 40))" python3 "$root/bench/cuda_baselines.py" "$out/base.json" "$seconds"
tail -12 "$out/baselines.txt"
exit "$status"
