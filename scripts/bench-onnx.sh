#!/usr/bin/env bash
# Times sentence embeddings on the CPU in turn with onnxruntime: scripts/bench-onnx.sh [ROUNDS]. Its packages go to the user's cache.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/warpweft"
peer="$cache/peers/onnx"
mkdir -p "$peer"
if [ ! -e "$peer/minilm.onnx" ]; then
  python3 -m venv "$peer/venv"
  "$peer/venv/bin/pip" install --quiet onnxruntime onnx onnxscript torch transformers safetensors
  cargo run --release --bin warpweft -- pull minilm
  "$peer/venv/bin/python" benches/peers/onnx_minilm.py export "$cache/models/minilm" "$peer/minilm.onnx"
fi
bench="$(cargo bench --bench cpu --no-run 2>&1 | sed -n 's/.*(\(target[^)]*\)).*/\1/p' | tail -1)"
for threads in 1 2; do
  "$peer/venv/bin/python" benches/peers/onnx_minilm.py time "$peer/minilm.onnx" "$bench" "$threads" "${1:-3}"
done
