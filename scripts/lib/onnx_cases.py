"""Writes the node cases of the onnx package as folders: model.onnx and test_data_set_0/{input,output}_N.pb."""

import pathlib
import sys
import warnings

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

warnings.filterwarnings("ignore")
target = pathlib.Path(sys.argv[1])
written = 0
for case in collect_testcases(None):
    if case.model is None or not case.data_sets:
        continue
    inputs, outputs = case.data_sets[0]
    folder = target / case.name / "test_data_set_0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "model.onnx").write_bytes(case.model.SerializeToString())
    for what, values in (("input", inputs), ("output", outputs)):
        for i, value in enumerate(values):
            if isinstance(value, onnx.TensorProto):
                tensor = value
            else:
                try:
                    tensor = numpy_helper.from_array(np.asarray(value))
                except Exception:
                    # A sequence, an optional or a map: a tensor of no known type stands for it.
                    tensor = onnx.TensorProto()
            (folder / f"{what}_{i}.pb").write_bytes(tensor.SerializeToString())
    written += 1
print(f"{written} cases in {target}")
