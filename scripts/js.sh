#!/usr/bin/env bash
# Holds JavaScript to biome's format and lints (biome.json): scripts/js.sh, or scripts/js.sh --write to correct what it can.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/web.sh
npm_tools @biomejs/biome
biome="$TOOLS/npm/node_modules/.bin/biome"
if [ "${1:-}" = --write ]; then "$biome" check --write; else "$biome" ci --error-on-warnings; fi
