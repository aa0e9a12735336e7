#!/usr/bin/env bash
# Tests the browser package and its page in a headless Chromium on a software WebGPU adapter, and every kernel with Tint.
# It installs what is missing, once: the wasm toolchain (see wasm.sh), Chromium, playwright-core and Dawn from npm.
# Names of tests/web/*.test.mjs (tint tensors models threads files faults page catalogue) choose some of them.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/web.sh

chosen=()
for name in "${@:-tint tensors models threads files faults page catalogue}"; do
    # shellcheck disable=SC2086
    for one in $name; do
        [ -f "tests/web/$one.test.mjs" ] || need "there is no tests/web/$one.test.mjs"
        chosen+=("tests/web/$one.test.mjs")
    done
done

chromium_browser
npm_tools playwright-core webgpu
scripts/wasm.sh

say "the server, and what the browser is compared with"
# The features that test.sh has built with: nothing is built twice.
read -ra features <<< "${WARPWEFT_FEATURES:-}"
[ -n "${WARPWEFT_BUILT:-}" ] || cargo build --release --bin warpweft "${features[@]}"
cargo test --release "${features[@]}" --test translate --test web
target/release/warpweft pull smollm2-135m

say "testing in $("$CHROMIUM" --version 2>/dev/null || echo Chromium)"
export WARPWEFT_TOOLS="$TOOLS"
node tests/web/run.mjs "${chosen[@]}"
say "pictures of every tab are in target/web/shots"
