#!/usr/bin/env bash
# Tests the browser package and its page in a headless Chromium on a software WebGPU adapter, and every kernel with Tint.
# It installs what is missing, once: the wasm toolchain (see wasm.sh), Chromium, playwright-core and Dawn from npm.
# --long adds SmolLM2 itself, on WebGPU and on the CPU, against the figures of tests/figures.
# Names of tests/web/*.test.mjs (tensors models faults page tint) choose some of them.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/web.sh

long="" chosen=()
for arg in "$@"; do
    case "$arg" in
        --long) long=1 ;;
        *) [ -f "tests/web/$arg.test.mjs" ] || need "there is no tests/web/$arg.test.mjs"; chosen+=("tests/web/$arg.test.mjs") ;;
    esac
done
if [ ${#chosen[@]} = 0 ]; then
    chosen=(tests/web/{tint,tensors,models,faults,page}.test.mjs)
    [ -z "$long" ] || chosen+=(tests/web/smollm.test.mjs)
fi

chromium_browser
npm_tools playwright-core webgpu
scripts/wasm.sh

say "the server, and what the browser is compared with"
# The features that test.sh has built with: nothing is built twice.
read -ra features <<< "${WARPWEFT_FEATURES:-}"
cargo build --release --bin warpweft "${features[@]}"
cargo test --release "${features[@]}" --test translate --test web
target/release/warpweft pull smollm2-135m

say "testing in $("$CHROMIUM" --version 2>/dev/null || echo Chromium)"
export WARPWEFT_TOOLS="$TOOLS"
node --test --test-timeout=900000 --test-concurrency=1 --test-reporter=spec "${chosen[@]}"
say "pictures of every tab are in target/web/shots"
