"""Blocks of every format and what they mean, by the reference implementation in the PyPI package gguf.

    pip install gguf numpy && python make.py

One file a format: a u32 with the number of blocks, the blocks, their values as f32; then, where the package can encode the format,
the 512 values of `SOURCE` as f32 and their blocks. All little-endian.
"""

import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

# Format: where its blocks hold numbers of f16, in bytes.
HALVES = {
    "F16": [0], "BF16": [], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
}

random = np.random.default_rng(20)
SOURCE = (random.standard_normal(512) * np.repeat([0.02, 1.0, 0.3, 40.0], 128)).astype(np.float32)

for name, halves in HALVES.items():
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    count = max(512 // elements, 1)
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in halves:
        # Scales of either sign and any magnitude that files have, subnormal ones among them.
        scales = (random.standard_normal(count) * 10.0 ** random.uniform(-6, 1, count)).astype(np.float16)
        blocks[:, at : at + 2] = scales.reshape(-1, 1).view(np.uint8)
    if name == "BF16":
        # Finite ones.
        blocks[:, 1] = np.where((blocks[:, 1] & 0x7F) == 0x7F, 0x3F, blocks[:, 1])
    if name == "MXFP4":
        blocks[:, 0] = random.integers(90, 140, count)
    values = quants.dequantize(blocks.reshape(-1), kind).astype(np.float32)
    assert values.size == count * elements and np.isfinite(values).all(), name
    out = struct.pack("<I", count) + blocks.tobytes() + values.tobytes()
    try:
        encoded = quants.quantize(SOURCE, kind)
        out += SOURCE.tobytes() + encoded.tobytes()
    except (NotImplementedError, quants.QuantError):
        pass
    with open(f"{name.lower()}.bin", "wb") as f:
        f.write(out)
    print(name, count, len(out))
