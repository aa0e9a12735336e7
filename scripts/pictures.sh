#!/usr/bin/env bash
# Makes the README's pictures anew, by the project's own commands: the server's page in a headless Chromium, and what ranks of a mesh do, when.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/web.sh

program=target/release/warpweft
[ -x "$program" ] || cargo build --release
npm_tools playwright-core
command -v "${CHROMIUM:-chromium}" >/dev/null || packages chromium
mkdir -p docs/images
"$program" run smollm2-135m -p "What is the capital of France?" --raw -n 3 --mesh tp=2 --timeline docs/images/ranks.svg >/dev/null
node scripts/lib/picture.mjs docs/images/serve.png
ls -l docs/images
