#!/usr/bin/env bash
# Builds the browser package: scripts/wasm.sh [FOLDER], target/web/package where none is given.
# It fetches what is missing, once, into the user's cache folder: the wasm target (rustup, else Debian's web compiler),
# wasm-bindgen of the version in Cargo.lock, esbuild and TypeScript from npm.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-target/web/package}"
source scripts/lib/web.sh

# One core compiles the tool while the other begins with the engine.
found=$(mktemp)
wasm_bindgen > "$found" &
binding=$!
npm_tools esbuild typescript

say "compiling the engine to WebAssembly"
target=wasm32-unknown-unknown
flags="-Ctarget-feature=+simd128"
args=(rustc --lib --crate-type cdylib --release --no-default-features --features text --locked --target $target --target-dir target/wasm)
if wasm_target; then
    RUSTFLAGS="$flags" cargo "${args[@]}"
else
    # No target from rustup: Debian's web compiler builds the standard library with the rest.
    debian_compiler
    env -u RUSTUP_HOME -u RUSTUP_TOOLCHAIN PATH=/usr/bin:/bin RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
        RUSTFLAGS="$flags -Clinker=$(command -v wasm-ld-22 || echo wasm-ld) -Clinker-flavor=wasm-ld" \
        /usr/bin/cargo "${args[@]}" -Zbuild-std=std,panic_abort
fi

wait "$binding" || need "wasm-bindgen could not be built"
bindgen=$(cat "$found") && rm -f "$found"
say "binding"
work=target/web/work
rm -rf "$work" target/web/types && mkdir -p "$work"
"$bindgen" target/wasm/$target/release/warpweft.wasm "$work"
cp src/web/*.js src/web/tsconfig.json "$work/"

say "bundling"
"$TOOLS/npm/node_modules/.bin/tsc" -p "$work/tsconfig.json"
rm -rf "$out" && mkdir -p "$out/types"
"$TOOLS/npm/node_modules/.bin/esbuild" "$work/index.js" --bundle --format=esm --minify --target=es2022 --log-level=warning --outfile="$out/warpweft.js"
cp "$work/engine_bg.wasm" "$out/warpweft.wasm"
cp target/web/types/{index,api,errors,link,source,tensors}.d.ts "$out/types/"
cp src/web/README.md LICENSE-MIT LICENSE-APACHE "$out/"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
sed "s/\"version\": \"0.0.0\"/\"version\": \"$version\"/" src/web/package.json > "$out/package.json"

gz() { gzip -9c "$1" | wc -c; }
wasm=$(gz "$out/warpweft.wasm") js=$(gz "$out/warpweft.js")
say "$out: warpweft.wasm $(wc -c < "$out/warpweft.wasm") bytes ($wasm gzipped), warpweft.js $(wc -c < "$out/warpweft.js") ($js); together $((wasm + js)) gzipped"
if [ $((wasm + js)) -gt 3500000 ]; then
    echo "the package is over 3.5 MB gzipped" >&2
    exit 1
fi
