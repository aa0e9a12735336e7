#!/usr/bin/env bash
# Real clients drive the server: openai, anthropic, ollama, langchain-openai from PyPI, and `ai` from npm, all in the user's cache.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '== %s\n' "$*"; }
cache="${WARPWEFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/warpweft}"
clients="$cache/clients"
program="${WARPWEFT_PROGRAM:-target/release/warpweft}"
[ -x "$program" ] || cargo build --release
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$(mktemp -d)}"

mkdir -p "$clients"
if ! "$clients/venv/bin/python" -c 'import openai, anthropic, ollama, langchain_openai' 2>/dev/null; then
    say "fetching the Python clients (once)"
    python3 -m venv "$clients/venv"
    "$clients/venv/bin/pip" install --quiet --only-binary=:all: openai anthropic ollama langchain-openai
fi
if command -v npm >/dev/null && [ ! -d "$clients/node/node_modules/ai" ]; then
    say "fetching the npm clients (once)"
    mkdir -p "$clients/node"
    echo '{ "private": true, "type": "module" }' > "$clients/node/package.json"
    (cd "$clients/node" && npm install --silent --no-audit --no-fund ai @ai-sdk/openai-compatible zod)
fi

log="$(mktemp)"
"$program" serve smollm2-135m minilm --port 0 ${WARPWEFT_DEVICE:+--device "$WARPWEFT_DEVICE"} > "$log" 2> "$log.err" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -f "$log" "$log.err"' EXIT
for _ in $(seq 600); do
    base="$(sed -n 's#^\(http://[^/]*\)/$#\1#p' "$log")"
    if [ -n "$base" ] && curl -sf "$base/health" >/dev/null; then break; fi
    kill -0 "$server" || { cat "$log.err" >&2; exit 1; }
    sleep 0.2
done
curl -sf "$base/health" >/dev/null || { echo "the server is not ready: $(cat "$log.err")" >&2; exit 1; }
say "the server is ready at $base"

run() { say "$1"; "$clients/venv/bin/python" "tests/serve/clients/$1" "$base" smollm2-135m "${@:2}"; }
run openai_client.py minilm
run anthropic_client.py
run ollama_client.py minilm
run langchain_client.py minilm
if command -v node >/dev/null; then
    say "ai.mjs"
    node tests/serve/clients/ai.mjs "$base" smollm2-135m minilm "$clients/node"
else
    say "no Node.js: the npm clients are not tested"
fi
kill -INT "$server"
wait "$server" || { echo "the server ended with $?: $(cat "$log.err")" >&2; exit 1; }
say "all clients were answered"
