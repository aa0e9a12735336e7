#!/usr/bin/env bash
# Runs each fuzz target for a time: scripts/fuzz.sh [SECONDS] [TARGET…]     (default: 60 seconds, all targets)
# Inputs grow in fuzz/found/TARGET, from the corpora of the tests on; what crashes, hangs or takes more than 2 GiB is kept in fuzz/found/TARGET-crashes.
# libFuzzer's coverage is a switch of the compiler that stable toolchains hide; nothing else here needs a nightly one.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-60}"
shift || true
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(sed -n 's/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml | grep -v '^warpweft-fuzz$')

host="$(rustc -vV | sed -n 's/^host: //p')"
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
bins=()
for t in "${targets[@]}"; do bins+=(--bin "$t"); done
cargo build --release --manifest-path fuzz/Cargo.toml --target "$host" "${bins[@]}"

failed=()
for t in "${targets[@]}"; do
    mkdir -p "fuzz/found/$t" "fuzz/found/$t-crashes"
    printf '== %s, %s s\n' "$t" "$seconds"
    "fuzz/target/$host/release/$t" "fuzz/found/$t" "tests/corpora/$t" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -max_len=65536 -print_final_stats=1 -artifact_prefix="fuzz/found/$t-crashes/" 2>&1 | grep -E 'cov:|ERROR|SUMMARY|stat::|panicked|Test unit' | tail -n 12 || true
    [ -z "$(ls -A "fuzz/found/$t-crashes")" ] || failed+=("$t")
done
[ ${#failed[@]} -eq 0 ] || { echo "findings: ${failed[*]} (fuzz/found/…-crashes)" >&2; exit 1; }
