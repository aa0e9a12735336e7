#!/usr/bin/env bash
# What a GPU's compiler makes of every GPU kernel: Mesa's RADV on its null device, so no GPU is needed.
# usage: scripts/isa.sh [--check] [FOLDER…]     FOLDER: other .wgsl files, beside those of the kernels' table
# Fetches RADV once (a minute), with the machine's own package sources, into target/radv: nothing is installed. Debian and Ubuntu.
set -euo pipefail
cd "$(dirname "$0")/.."
root="$PWD/target/radv"

# Mesa 25 still has the switch for the null device. What this release's own packages have is older, and lacks cooperative matrices.
fetch() {
    mkdir -p "$root"/{lists/partial,archives/partial,debs,root}
    local sources="$root/sources.list"
    {
        cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '/^URIs:/ { print $2 }'
        cat /etc/apt/sources.list 2>/dev/null | awk '$1 == "deb" { print $2 }'
    } | grep -v security | sort -u | sed 's|.*|deb [trusted=yes] & trixie main|' > "$sources"
    local apt=(-qq -o "Dir::Etc::sourcelist=$sources" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$root/lists" -o "Dir::Cache::archives=$root/archives")
    apt-get "${apt[@]}" update
    local names
    names=$(apt-cache "${apt[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
        mesa-vulkan-drivers libvulkan1 | grep '^[a-z0-9]' | sort -u)
    # Virtual packages have no file: what is missing in the end shows when the loader starts.
    (cd "$root/debs" && for name in $names; do apt-get "${apt[@]}" download "$name" > /dev/null 2>&1 || true; done)
    local deb
    for deb in "$root"/debs/*.deb; do dpkg -x "$deb" "$root/root"; done
    local lib
    lib=$(dirname "$(find "$root/root" -name libvulkan_radeon.so | head -1)")
    sed "s|\"library_path\": *\".*libvulkan_radeon.so\"|\"library_path\": \"$lib/libvulkan_radeon.so\"|" \
        "$(find "$root/root" -name 'radeon_icd*.json' | head -1)" > "$root/radeon.json"
    echo "$lib" > "$root/lib"
}
[ -s "$root/lib" ] || fetch
lib=$(cat "$root/lib")

(cd benches/isa && cargo build --release --quiet)
cargo test --release --quiet --test variants > /dev/null
for family in navi31 navi21; do
    VK_DRIVER_FILES="$root/radeon.json" RADV_FORCE_FAMILY=$family XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}" \
        "$(find "$root/root" -name 'ld-linux*.so*' | head -1)" --library-path "$lib" benches/isa/target/release/isa \
        $([ "$family" = navi31 ] && [ "${1:-}" = --check ] && echo --check) target/tmp/isa $(for f in "$@"; do [ "$f" = --check ] || printf "%s " "$f"; done) 2> >(grep -v 'ac_compute_device_uuid' >&2)
done
