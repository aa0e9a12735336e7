"""all-MiniLM-L6-v2 in onnxruntime on the CPU: the same encoder, mean and normalisation, exported from the published safetensors.

export FOLDER FILE.onnx writes it (needs torch, transformers, onnx, onnxscript); time FILE.onnx BENCH THREADS ROUNDS times it in turn with
warpweft's bench `cpu` and prints medians and ratios (needs onnxruntime).
"""

import json
import statistics
import subprocess
import sys
import time

TOKENS = 32


def export(folder, file):
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    bert = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False).eval()
    missing = bert.load_state_dict(load_file(f"{folder}/model.safetensors"), strict=False).missing_keys
    assert not missing, missing

    class Embedding(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = bert

        def forward(self, ids, mask):
            hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
            kept = mask.unsqueeze(-1).float()
            return torch.nn.functional.normalize((hidden * kept).sum(1) / kept.sum(1), dim=-1)

    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=2, max=256)
    ones = torch.ones(2, TOKENS, dtype=torch.long)
    axes = {0: batch, 1: length}
    torch.onnx.export(Embedding(), (ones, ones), file, input_names=["ids", "mask"], dynamic_shapes=(axes, axes), dynamo=True)


def timed(file, bench, threads, rounds):
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    ratios = {1: [], 32: []}
    seen = {1: [], 32: []}
    for _ in range(rounds):
        command = [bench, "--threads", str(threads)]
        line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
        ours = json.loads(line)
        assert ours["tokens"] == TOKENS, ours
        for batch in ratios:
            ids = numpy.full((batch, TOKENS), 2000, dtype=numpy.int64)
            feed = {"ids": ids, "mask": numpy.ones_like(ids)}
            times = []
            for _ in range(11):
                start = time.perf_counter()
                session.run(None, feed)
                times.append(time.perf_counter() - start)
            pair = ours[f"batch_{batch}_s"], statistics.median(times[2:])
            seen[batch].append(pair)
            ratios[batch].append(pair[1] / pair[0])
    for batch, pairs in seen.items():
        mine, other = (statistics.median(p[i] for p in pairs) * 1e3 for i in (0, 1))
        ratio = statistics.median(ratios[batch])
        print(f"| MiniLM, {batch} × {TOKENS} tokens, {threads} threads | {mine:.1f} ms | {other:.1f} ms | {ratio:.2f} |", flush=True)


if sys.argv[1] == "export":
    export(*sys.argv[2:4])
else:
    timed(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
