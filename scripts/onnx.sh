#!/usr/bin/env bash
# ONNX's own node suite against the engine: writes its cases into a folder outside of the repository (once), and runs them.
# Beside the gate, for it takes minutes. Environment: WARPWEFT_ONNX=folder (default: target/onnx).
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.23.2
export WARPWEFT_ONNX="${WARPWEFT_ONNX:-$PWD/target/onnx/$version}"
if [ ! -e "$WARPWEFT_ONNX/done" ]; then
    echo "== writing the cases of onnx $version into $WARPWEFT_ONNX"
    python3 -m venv target/onnx/venv
    target/onnx/venv/bin/pip install --quiet "onnx==$version"
    target/onnx/venv/bin/python scripts/lib/onnx_cases.py "$WARPWEFT_ONNX"
    touch "$WARPWEFT_ONNX/done"
fi
cargo test --release --test onnx -- --nocapture
