#!/usr/bin/env bash
# Every kernel family on the adapter at hand, in at most eight minutes: what to run when a GPU is there for a while.
# usage: scripts/gpu-bench.sh [--device N]       Raw rows: benches/results/<adapter>-<date>.json
# Build first, where time on the GPU is counted: `cargo bench --bench gpu --no-run`; then this only runs what is there.
set -euo pipefail
cd "$(dirname "$0")/.."
deadline=${WARPWEFT_BENCH_SECONDS:-420}
cargo bench --quiet --bench gpu --no-run
date=$(date -u +%Y-%m-%d)
timeout $((deadline + 60)) cargo bench --quiet --bench gpu -- --seconds "$deadline" --date "$date" "$@"
# Peers on the same device, where they are installed: PyTorch's own products.
if command -v python3 > /dev/null && python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2> /dev/null; then
    timeout 60 python3 benches/peers/torch_gpu.py > "benches/results/torch-$date.json"
fi
