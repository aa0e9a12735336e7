# What the browser scripts share: tools into the user's cache folder. To be sourced from the repository's root.

TOOLS="${XDG_CACHE_HOME:-$HOME/.cache}/warpweft/tools"
mkdir -p "$TOOLS"

say() { printf '== %s\n' "$*" >&2; }
need() { echo "$*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Debian and Ubuntu packages, installed where they are missing.
packages() {
    command -v apt-get >/dev/null || need "please install: $*"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# Whether the default toolchain compiles for wasm; rustup is asked for the target once.
wasm_target() {
    local lib
    lib="$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown/lib"
    [ -d "$lib" ] && return 0
    command -v rustup >/dev/null || return 1
    say "rustup: adding the wasm32-unknown-unknown target"
    timeout 300 rustup target add wasm32-unknown-unknown >&2 && [ -d "$lib" ]
}

debian_compiler() {
    if [ ! -x /usr/bin/rustc ] || [ ! -d /usr/lib/rustlib/src ] || ! command -v wasm-ld-22 >/dev/null; then
        say "no wasm target from rustup: installing Debian's web compiler"
        packages rustc-web cargo-web rust-web-src lld-22
    fi
}

# The path of a program that runs wasm-bindgen of exactly the version that the crate is built with.
wasm_bindgen() {
    local version folder
    version=$(awk '/^name = "wasm-bindgen"$/ { getline; gsub(/[" ]/, ""); sub("version=", ""); print; exit }' Cargo.lock)
    folder="$TOOLS/bindgen-$version"
    if [ ! -x "$folder/bindgen" ]; then
        say "building wasm-bindgen $version (once, about two minutes)"
        mkdir -p "$folder/src"
        cp scripts/bindgen/main.rs "$folder/src/"
        sed "s/VERSION/$version/" scripts/bindgen/Cargo.toml.in > "$folder/Cargo.toml"
        (cd "$folder" && cargo build --release --quiet --target-dir build >&2 && cp build/release/bindgen bindgen && rm -rf build)
    fi
    echo "$folder/bindgen"
}

# npm packages, pinned here, into one folder of tools.
npm_tools() {
    if ! { command -v node && command -v npm; } >/dev/null; then
        say "installing Node.js and npm"
        packages nodejs npm
    fi
    [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 18 ] || need "Node.js is older than 18: install a newer one"
    local missing=() name
    for name in "$@"; do [ -d "$TOOLS/npm/node_modules/$name" ] || missing+=("$(pinned "$name")"); done
    if [ ${#missing[@]} -gt 0 ]; then
        say "npm: ${missing[*]}"
        mkdir -p "$TOOLS/npm"
        npm install --prefix "$TOOLS/npm" --no-audit --no-fund --loglevel=error "${missing[@]}" >&2
    fi
}

pinned() {
    case "$1" in
        esbuild) echo esbuild@0.28 ;;
        @biomejs/biome) echo @biomejs/biome@2.6.8 ;;
        typescript) echo typescript@7 ;;
        playwright-core) echo playwright-core@1 ;;
        webgpu) echo webgpu@0.6 ;;
        onnxruntime-web) echo onnxruntime-web@1.30 ;;
        @tensorflow/*) echo "$1@4.22" ;;
        @wllama/wllama) echo @wllama/wllama@3.13 ;;
        *) echo "$1" ;;
    esac
}

# A Chromium, its path in CHROMIUM.
chromium_browser() {
    CHROMIUM="${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}"
    if [ -z "$CHROMIUM" ]; then
        say "installing Chromium"
        packages chromium
        CHROMIUM=$(command -v chromium)
    fi
    export CHROMIUM
}
