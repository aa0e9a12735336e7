#!/usr/bin/env bash
# Runs every test, on a device and on real models; installs or fetches what a fresh machine lacks for that.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '== %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }

apt_install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; }

# Ranks in several processes are tested through Open MPI.
features=()
if [ "$(uname -s)" = Linux ] && ! { command -v mpirun && command -v mpicc && ldconfig -p | grep libclang; } >/dev/null 2>&1; then
    if command -v apt-get >/dev/null; then
        say "no Open MPI: installing it"
        as_root apt-get update
        apt_install openmpi-bin libopenmpi-dev libclang-dev clang
    fi
fi
if command -v mpirun >/dev/null && command -v mpicc >/dev/null; then
    features=(--features mpi)
else
    say "without Open MPI (mpirun, mpicc): meshes over several processes are not tested"
fi

say "formatting and lints"
for part in rustfmt clippy; do
    cargo "${part/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$part"
done
cargo fmt --check
cargo clippy --release --all-targets "${features[@]}" -- -D warnings
if command -v node >/dev/null && command -v npm >/dev/null; then
    scripts/js.sh
else
    say "no Node.js: the format and lints of JavaScript are not checked"
fi

say "building"
cargo build --release --all-targets "${features[@]}"

# The loader complains on stderr where no session set this.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$(mktemp -d)}"

# "vulkan", "metal", "dx12" or "gl", one a line.
backends() { target/release/warpweft devices | sed -n 's/^ *backend  *\([a-z0-9]*\),.*/\1/p'; }

# Mesa's GL may answer where no Vulkan driver is there, but it is not what the tests are for.
if [ "$(uname -s)" = Linux ] && ! backends | grep -x vulkan >/dev/null; then
    say "no Vulkan adapter: installing Mesa's software one"
    if command -v apt-get >/dev/null; then
        as_root apt-get update
        apt_install mesa-vulkan-drivers libvulkan1
    else
        echo "install a Vulkan driver (Mesa's lavapipe will do) and run this again" >&2
        exit 1
    fi
fi
target/release/warpweft devices
if ! backends | grep -xE 'vulkan|metal|dx12' >/dev/null; then
    echo "no Vulkan, Metal or DX12 adapter answers: see the list above" >&2
    exit 1
fi

say "fetching the models of the tests (once)"
target/release/warpweft pull smollm2-135m
target/release/warpweft pull minilm

say "testing: a skipped device or model test is a failure"
export WARPWEFT_REQUIRE_DEVICE=1 WARPWEFT_REQUIRE_MODELS=1
# All failures are told in one run.
cargo test --release --no-fail-fast "${features[@]}"

# The browser: a headless Chromium on its software WebGPU adapter. WARPWEFT_WEB=0 leaves it out.
if [ "${WARPWEFT_WEB:-1}" = 0 ]; then
    say "WARPWEFT_WEB=0: the browser is not tested"
else
    WARPWEFT_BUILT=1 WARPWEFT_FEATURES="${features[*]}" scripts/web-test.sh
fi

# The server: clients of PyPI and npm. WARPWEFT_CLIENTS=0 leaves them out.
if [ "${WARPWEFT_CLIENTS:-1}" = 0 ]; then
    say "WARPWEFT_CLIENTS=0: the server is not driven by other people's clients"
elif command -v python3 >/dev/null && python3 -c 'import venv, ensurepip' 2>/dev/null; then
    scripts/serve-test.sh
else
    say "no Python with venv: the server is not driven by other people's clients"
fi
