#!/usr/bin/env bash
# Times the CPU back end in turn with llama.cpp, on the same files: scripts/bench-llama.sh [ROUNDS] [FILE.gguf …]
# llama.cpp is fetched as llama-cpp-python's source and built once, in the user's cache, outside of this repository.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/warpweft"
peer="$cache/peers/llama"
mkdir -p "$peer"

if [ ! -x "$peer/build/bin/llama-bench" ]; then
  python3 -m venv "$peer/venv"
  "$peer/venv/bin/pip" install --quiet --only-binary=:all: cmake ninja
  export PATH="$peer/venv/bin:$PATH"
  if [ ! -d "$peer/src" ]; then
    # Only this package comes as source: what builds it comes as wheels.
    pip download --quiet --no-deps --no-binary llama-cpp-python -d "$peer" llama-cpp-python==0.3.36
    mkdir "$peer/src"
    tar -xzf "$peer"/llama_cpp_python-*.tar.gz -C "$peer/src" --strip-components=1
  fi
  nice -n 10 cmake -S "$peer/src/vendor/llama.cpp" -B "$peer/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF
  nice -n 10 ninja -C "$peer/build" -j"${JOBS:-1}" llama-bench
fi
cc -O3 -march=native -pthread benches/peers/probe.c -o "$peer/probe"

bin="${WARPWEFT:-target/release/warpweft}"
[ -n "${WARPWEFT:-}" ] || cargo build --release --bin warpweft
rounds="${1:-3}"
shift || true
if [ $# = 0 ]; then
  "$bin" pull smollm2-135m >&2
  set -- "$cache"/models/smollm2-135m/*.gguf
  for more in "$cache"/*.gguf; do [ -e "$more" ] && set -- "$@" "$more"; done
fi
exec python3 benches/peers/llama.py --warpweft "$bin" --llama "$peer/build/bin/llama-bench" --probe "$peer/probe" \
  --rounds "$rounds" ${THREADS:+--threads "$THREADS"} "$@"
