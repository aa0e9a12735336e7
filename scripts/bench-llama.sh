#!/usr/bin/env bash
# Fetches llama.cpp's sources through pip, builds llama-bench outside of the repository, and runs it in turn with this
# engine on the CPU: scripts/bench-llama.sh MODEL.gguf [PROMPT TOKENS] [ROUNDS]
#
# Needs python3 with pip and venv, a C++ compiler, cargo. WARPWEFT_PEERS names the folder to build in (default: a folder under
# the user's cache); what was built there is used again.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.3.36
peers=${WARPWEFT_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/warpweft-peers}
bench=$peers/llama-$version/build/bin/llama-bench

build() {
    mkdir -p "$peers/llama-$version"
    (
        cd "$peers/llama-$version"
        python3 -m venv venv
        venv/bin/pip install -q cmake ninja
        venv/bin/pip download -q "llama-cpp-python==$version" --no-deps --no-binary :all: -d .
        tar xzf llama_cpp_python-*.tar.gz
        export PATH="$PWD/venv/bin:$PATH"
        cmake -S llama_cpp_python-*/vendor/llama.cpp -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF \
            -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DGGML_NATIVE=ON >build.log
        nice cmake --build build --target llama-bench >>build.log
    )
}

[ -x "$bench" ] || build
model=${1:?a .gguf file}
prompt=${2:-128}
rounds=${3:-5}
cargo build --release --bench engine
for threads in 1 "$(nproc)"; do
    for round in $(seq "$rounds"); do
        echo "== $threads threads, round $round"
        "$bench" -m "$model" -t "$threads" -p "$prompt" -n 0 -r 2 -o md | grep pp
        "$bench" -m "$model" -t "$threads" -p 0 -n 32 -d "$prompt" -r 2 -o md | grep tg
        cargo bench --bench engine -- cpu "$model" "$threads" "$prompt"
    done
done
