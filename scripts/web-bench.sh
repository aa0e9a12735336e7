#!/usr/bin/env bash
# Measures the browser package beside its peers from npm in one headless Chromium: scripts/web-bench.sh [operations] [models] [threads].
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/web.sh

chromium_browser
npm_tools playwright-core onnxruntime-web @tensorflow/tfjs-core @tensorflow/tfjs-backend-webgpu @wllama/wllama
scripts/wasm.sh
cargo build --release --bin warpweft
target/release/warpweft pull smollm2-135m
WARPWEFT_TOOLS="$TOOLS" node benches/web/run.mjs "$@"
