#!/usr/bin/env bash
# Checks and measures mserve on one GPU, in under nine minutes; writes bench/results/gpu.json.
#
#   bench/gpu.sh [FOLDER]
#
# FOLDER (default: wheels) holds what this machine lacks: wheels of flashinfer-python, its needs,
# msgspec, xxhash, llguidance and pytest, and, so that nothing has to be compiled here, kernels/ as
# bench/gpu_kernels.py makes it. Needs Python with torch for CUDA and transformers; no network.
# Every step has its own time limit and fails alone; the exit code counts those that did.
set -uo pipefail
cd "$(dirname "$0")/.."

wheels=$(realpath "${1:-wheels}")
results=${OUT:-bench/results}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$results"
failed=0
begin=$SECONDS

step() { # step NAME SECONDS COMMAND...
  local name=$1 limit=$2 code began=$SECONDS
  shift 2
  echo "== $name (at most $limit s)"
  timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$work/$name.log"
  code=${PIPESTATUS[0]}
  echo "$name $code $((SECONDS - began))" >>"$work/steps"
  if [ "$code" -ne 0 ]; then
    echo "== $name failed with $code"
    failed=$((failed + 1))
  fi
}

# Beside what the machine has, whose own torch stays in place.
step install 40 python3 -m pip install --no-index --no-deps --quiet --target "$work/site" \
  "$wheels"/*.whl

python=python3
export PYTHONPATH=$PWD/src:$work/site:$wheels/kernels PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
pytest=("$python" -m pytest -c /dev/null --rootdir . --import-mode=importlib -q -p no:cacheprovider)

step machine 20 "$python" -c "
import torch, flashinfer
print(torch.cuda.get_device_name(), torch.__version__, 'FlashInfer', flashinfer.__version__)"
step kernels 110 "${pytest[@]}" tests/gpu/test_kernels.py --junit-xml "$work/kernels.xml"
step runner 90 "${pytest[@]}" tests/gpu/test_runner.py --junit-xml "$work/runner.xml"
step decode 120 "$python" bench/gpu_speed.py decode --json "$work/decode.json"
step prefill 60 "$python" bench/gpu_speed.py prefill --json "$work/prefill.json"
step engine 60 "$python" bench/engine.py --device cuda --dtype bfloat16 --rounds 3 --no-gaps \
  --json "$work/engine.json"

step report 20 "$python" bench/gpu_report.py "$work" --json "$results/gpu.json"
echo "== $((SECONDS - begin)) s, $failed steps failed"
exit "$failed"
