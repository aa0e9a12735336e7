#!/usr/bin/env bash
# Documents the library without a warning, and compares its public surface with tests/snapshots/surface.txt.
# Environment: WARPWEFT_BLESS=1 takes the surface as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
RUSTDOC="$PWD/scripts/lib/rustdoc-json" RUSTDOCFLAGS="-D warnings" \
    cargo rustdoc --release --lib --quiet -- -Z unstable-options --output-format json
WARPWEFT_SURFACE="$PWD/target/doc/warpweft.json" cargo test --release --quiet --test surface "$@"
