#!/usr/bin/env bash
# Runs every test, on a device and on real models; installs or fetches what a fresh machine lacks for that.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '== %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }

say "building"
cargo build --release --all-targets

# The loader complains on stderr where no session set this.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$(mktemp -d)}"
if ! target/release/warpweft devices | grep -q '^0:'; then
    say "no adapter: installing software Vulkan"
    if command -v apt-get >/dev/null; then
        as_root apt-get update
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1
    else
        echo "install a Vulkan driver (Mesa's lavapipe will do) and run this again" >&2
        exit 1
    fi
fi
target/release/warpweft devices

say "fetching the models of the tests (once)"
target/release/warpweft pull smollm2-135m
target/release/warpweft pull minilm

say "testing: a skipped device or model test is a failure"
export WARPWEFT_REQUIRE_DEVICE=1 WARPWEFT_REQUIRE_MODELS=1
cargo test --release
