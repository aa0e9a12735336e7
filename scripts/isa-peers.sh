#!/usr/bin/env bash
# The shaders of llama.cpp's WebGPU back end, filled as it fills them, for the table of scripts/isa.sh: `scripts/isa.sh target/peers/wgsl`.
# usage: scripts/isa-peers.sh       Fetches the source distribution of llama-cpp-python through your own pip; nothing of it is committed.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.3.36
root="$PWD/target/peers"
out="$root/wgsl"
shaders="$root/llama_cpp_python-$version/vendor/llama.cpp/ggml/src/ggml-webgpu/wgsl-shaders"
if [ ! -d "$shaders" ]; then
    mkdir -p "$root"
    [ -s "$root/llama_cpp_python-$version.tar.gz" ] ||
        python3 -m pip download -q --no-deps --no-build-isolation --no-binary :all: -d "$root" "llama-cpp-python==$version"
    tar -xzf "$root/llama_cpp_python-$version.tar.gz" -C "$root" --wildcards '*/ggml-webgpu/*'
fi
mkdir -p "$out"
# fill NAME TEMPLATE LINE DEFINES…: what naga does not take (lines for other compilers, overrides with a value) is left out or made plain.
fill() {
    local name=$1 template=$2 line=$3
    shift 3
    {
        echo "$line"
        (cd "$shaders" && cpp -w -P -undef -nostdinc -I. "$@" "$template") |
            sed -e '/^enable subgroups/d' -e '/^requires /d' -e 's/^override /const /'
    } > "$out/$name.wgsl"
}
tile=(-DSRC1_INNER_TYPE=f32 -DTILE_M=4u -DTILE_N=4u -DWORKGROUP_SIZE_M=8u -DWORKGROUP_SIZE_N=8u)
vector=(-DSRC1_INNER_TYPE=f32 -DWG_SIZE=256 -DOUTPUTS_PER_WG=4 -DUSE_SUBGROUP_REDUCTION -DNUM_COLS=1)
blocks=(-DSRC0_INNER_TYPE=u32 -DBYTE_HELPERS -DU32_DEQUANT_HELPERS -DSCALAR)
for float in f32 f16; do
    fill "ggml-matmul-$float" mul_mat_reg_tile.wgsl "// of llama.cpp" "${tile[@]}" -DTILE_K=8u "-DSRC0_INNER_TYPE=$float" \
        -DFLOAT -DMUL_ACC_FLOAT -DINIT_SRC0_SHMEM_FLOAT -DINIT_SRC1_SHMEM_FLOAT -DVEC
done
fill ggml-matvec-f16 mul_mat_vec.wgsl "// isa: weights=16 bytes=32" "${vector[@]}" -DSRC0_INNER_TYPE=f16 -DMUL_ACC_FLOAT -DVEC
# What a lane takes in a turn: four rows of 8 or 16 weights.
while read -r format weights bytes; do
    fill "ggml-matmul-${format,,}" mul_mat_reg_tile.wgsl "// of llama.cpp" "${tile[@]}" -DTILE_K=32u "${blocks[@]}" \
        "-DMUL_ACC_$format" "-DINIT_SRC0_SHMEM_$format" -DINIT_SRC1_SHMEM_FLOAT
    fill "ggml-matvec-${format,,}" mul_mat_vec.wgsl "// isa: weights=$weights bytes=$bytes" "${vector[@]}" "${blocks[@]}" "-DMUL_ACC_$format"
done << 'FORMATS'
Q4_0 32 18
Q8_0 32 34
Q4_K 64 36
Q6_K 64 52.5
FORMATS
echo "$out"
