#!/usr/bin/env python3
"""Figures of Gemma-3-270M (Q4_K_M GGUF, dequantised to f32) from transformers on a CPU.

    gemma3_270m.py FOLDER       FOLDER holds gemma-3-270m-q4_k_m.gguf; needs torch (CPU), transformers, gguf

Weights are read with the package gguf, names and norms turned back into those of a checkpoint.
"""
import json, sys
from pathlib import Path
import torch
from gguf import GGUFReader, dequantize
from transformers import AutoConfig, AutoModelForCausalLM

FILE = "gemma-3-270m-q4_k_m.gguf"
PARTS = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
         "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
TEXTS = {"capital": "<bos>The capital of France is", "list": "<bos>Monday, Tuesday, Wednesday,", "code": "<bos>def add(a, b):\n    return"}


def main(folder):
    reader = GGUFReader(Path(folder) / FILE)
    config = AutoConfig.for_model("gemma3_text", vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
                                  num_key_value_heads=1, head_dim=256, query_pre_attn_scalar=256, sliding_window=512, max_position_embeddings=32768, rms_norm_eps=1e-6)
    config._attn_implementation = "eager"
    state = {}
    for t in reader.tensors:
        w = torch.from_numpy(dequantize(t.data, t.tensor_type).copy()).reshape([int(d) for d in t.shape][::-1]).float()
        name = t.name.split(".")
        if name[0] == "blk":
            part = PARTS[name[2]]
            key = f"model.layers.{name[1]}.{part}.weight"
        else:
            part = {"token_embd": "embed_tokens", "output_norm": "norm"}[name[0]]
            key = f"model.{part}.weight"
        state[key] = w - 1 if part.endswith("norm") else w
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all("lm_head" in k for k in missing.missing_keys), missing
    model.tie_weights()
    model.eval()
    tokens = [str(bytes(reader.fields["tokenizer.ggml.tokens"].parts[i]), "utf-8") for i in reader.fields["tokenizer.ggml.tokens"].data]
    at = {t: i for i, t in enumerate(tokens)}
    cases = []
    for name, text in TEXTS.items():
        # Longest pieces first: enough for these plain words, each of which is one token.
        rest, ids = text.replace(" ", "▁"), []
        while rest:
            piece = next(rest[:n] for n in range(len(rest), 0, -1) if rest[:n] in at)
            ids.append(at[piece])
            rest = rest[len(piece):]
        prompt, greedy, margins, first = list(ids), [], [], None
        with torch.no_grad():
            for _ in range(8):
                lp = torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0, -1].double(), -1)
                best = torch.topk(lp, 10)
                first = first or [[int(i), round(float(v), 5)] for i, v in zip(best.indices, best.values)]
                greedy.append(int(best.indices[0]))
                margins.append(round(float(best.values[0] - best.values[1]), 4))
                ids.append(greedy[-1])
        cases.append({"name": name, "prompt": text, "prompt_ids": prompt, "top": first, "greedy": greedy, "margins": margins, "text": "".join(tokens[i] for i in greedy)})
        print(cases[-1])
    lines = ",\n  ".join(json.dumps(c, ensure_ascii=False) for c in cases)
    (Path(__file__).with_suffix(".json")).write_text('{"file": "%s", "cases": [\n  %s\n]}\n' % (FILE, lines))


if __name__ == "__main__":
    main(sys.argv[1])
