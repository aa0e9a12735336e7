#!/usr/bin/env bash
# Licences, advisories, sources and doubled versions of all dependencies, by cargo-deny (deny.toml); installs it where it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
cargo deny check "$@"
