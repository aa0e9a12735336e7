#!/usr/bin/env bash
# Long runs beside the tests: 100,000 tokens of one conversation whose older half is forgotten whenever its context is full, and a
# thousand times opening and closing; memory may not grow by more than a hundredth. scripts/soak.sh [DEVICE], the CPU by default.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -eq 0 ] || export WARPWEFT_SOAK_DEVICE="$1"
cargo test --release --test soak -- --ignored --nocapture --test-threads=1
