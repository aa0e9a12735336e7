#!/usr/bin/env bash
# Checks that each feature compiles alone, and the public names without the rooms behind them: scripts/features.sh [FEATURE…].
# "none" and "all" are what most people build; scripts/test.sh checks those two.
set -euo pipefail
cd "$(dirname "$0")/.."
chosen=("$@")
[ $# -gt 0 ] || chosen=(none text media fetch simulate cli serve mpi internals all)
for feature in "${chosen[@]}"; do
    case "$feature" in
        none) options=(--no-default-features) ;;
        # mpi needs an MPI library, gl nothing that the others lack.
        all) options=(--no-default-features --features "cli serve") ;;
        *) options=(--no-default-features --features "$feature") ;;
    esac
    printf '== %s\n' "$feature"
    RUSTFLAGS="-D warnings" cargo check --release --lib --locked "${options[@]}"
done
