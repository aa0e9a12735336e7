#!/usr/bin/env python3
"""Figures of small checkpoints of many families, from transformers on a CPU in f32.

    make.py [NAME ...]      needs: torch (CPU), transformers, safetensors; writes NAME.json beside itself

No weight is kept: every tensor is filled by a rule (`fill`) that the test follows as well, from the tensor's name, its shape,
a scale and a shift. Names and shapes are those with which transformers saves a checkpoint. What differs between families matters
in each: biases and sinks are not zero, windows are shorter than the prompt, caps are reached, rotations are stretched.
A second part says how a converter turns the checkpoint into a GGUF file: keys, and each tensor's origin.
"""
import json, math, sys, tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MASK = (1 << 64) - 1
PROMPT = [17, 3, 88, 41, 5, 63, 29, 70, 11, 52, 34, 9, 77, 25, 60, 14, 91, 38, 6, 47, 83, 20, 56, 31]
TOKENS = 8


def fill(name, count, scale, shift):
    """FNV-1a of the name seeds splitmix64; 24 bits a number, uniform in ±scale around the shift; f32."""
    import numpy as np
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001B3) & MASK
    i = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = np.uint64(h) + i * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(40)).astype(np.float64) / (1 << 24)
    return ((2 * u - 1) * scale + shift).astype(np.float32)


def scale_of(name, shape, gemma):
    if name.endswith(("e_score_correction_bias", "expert_bias")):
        return 0.3, 0.0
    if name.endswith("sinks"):
        return 2.0, 0.5
    if name.endswith("A_log") or name.endswith("dt_bias"):
        return 1.5, -0.5
    if name.endswith("linear_attn.norm.weight"):
        return 0.4, 1.0
    if len(shape) == 1 and "norm" in name.lower() or ".ln_" in name and name.endswith("weight"):
        return 0.4, 0.0 if gemma else 1.0
    if name.endswith("bias") or len(shape) == 1:
        return 0.4, 0.0
    if any(w in name for w in ["embed_tokens", "wte", "wpe"]):
        return 1.0, 0.0
    transposed = any(w in name for w in ["c_attn", "c_proj", "c_fc", "experts.gate_up_proj", "experts.down_proj"])
    fan_in = shape[-2] if transposed and len(shape) > 1 else shape[-1]
    return (4.0 if "lm_head" in name or "gate.weight" in name or "router" in name else 2.2) / math.sqrt(fan_in), 0.0


BASE = dict(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256, bos_token_id=None, eos_token_id=None, pad_token_id=None)
KINDS = ["sliding_attention", "full_attention", "sliding_attention"]


def rope(**p):
    return {"rope_type": "default", "rope_theta": 10000.0} | p


FAMILIES = {
    "llama": BASE | dict(model_type="llama", tie_word_embeddings=False, attention_bias=True, mlp_bias=True, head_dim=24,
        rope_parameters=rope(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)),
    "llama_yarn": BASE | dict(model_type="llama", tie_word_embeddings=True, rope_parameters=rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)),
    "mistral": BASE | dict(model_type="mistral", sliding_window=7, tie_word_embeddings=False),
    "mixtral": BASE | dict(model_type="mixtral", num_local_experts=5, num_experts_per_tok=2, sliding_window=9, tie_word_embeddings=False),
    "qwen2": BASE | dict(model_type="qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=1, tie_word_embeddings=True),
    "qwen3": BASE | dict(model_type="qwen3", head_dim=32, tie_word_embeddings=True, rope_parameters=rope(rope_theta=1000000.0)),
    "qwen3_moe": BASE | dict(model_type="qwen3_moe", head_dim=32, moe_intermediate_size=32, num_experts=6, num_experts_per_tok=3, norm_topk_prob=True, tie_word_embeddings=False),
    "qwen3_moe_shares": BASE | dict(model_type="qwen3_moe", head_dim=16, moe_intermediate_size=32, num_experts=6, num_experts_per_tok=2, norm_topk_prob=False, tie_word_embeddings=True),
    "gemma2": BASE | dict(model_type="gemma2", head_dim=32, query_pre_attn_scalar=24, sliding_window=6, attn_logit_softcapping=2.0, final_logit_softcapping=5.0),
    "gemma3_text": BASE | dict(model_type="gemma3_text", head_dim=32, query_pre_attn_scalar=24, sliding_window=6, num_hidden_layers=4, layer_types=KINDS + ["full_attention"],
        rope_parameters={"full_attention": rope(rope_type="linear", rope_theta=1000000.0, factor=4.0), "sliding_attention": rope(rope_theta=10000.0)}),
    "gpt_oss": BASE | dict(model_type="gpt_oss", head_dim=32, num_local_experts=5, num_experts_per_tok=2, intermediate_size=64, sliding_window=6, tie_word_embeddings=False,
        swiglu_limit=1.0, rope_parameters=rope(rope_type="yarn", rope_theta=150000.0, factor=8.0, beta_fast=32.0, beta_slow=1.0, truncate=False, original_max_position_embeddings=32)),
    "gemma2_gguf": BASE | dict(model_type="gemma2", head_dim=32, query_pre_attn_scalar=32, sliding_window=6, attn_logit_softcapping=2.0, final_logit_softcapping=5.0),
    "smollm3": BASE | dict(model_type="smollm3", no_rope_layers=[1, 0, 1], tie_word_embeddings=True),
    "olmo2": BASE | dict(model_type="olmo2", tie_word_embeddings=False, rms_norm_eps=1e-5),
    "granite": BASE | dict(model_type="granite", embedding_multiplier=3.0, attention_multiplier=0.4, residual_multiplier=0.6, logits_scaling=1.5, tie_word_embeddings=True),
    "phi3": BASE | dict(model_type="phi3", sliding_window=8, tie_word_embeddings=False, rope_parameters=rope(partial_rotary_factor=0.5)),
    "gpt2": dict(model_type="gpt2", vocab_size=96, n_embd=64, n_layer=3, n_head=4, n_positions=256, n_inner=None, bos_token_id=None, eos_token_id=None),
}

FAMILIES |= {
    "lfm2": BASE | dict(model_type="lfm2", layer_types=["conv", "full_attention", "conv"], conv_L_cache=4, intermediate_size=144, block_multiple_of=32),
    "starcoder2": BASE | dict(model_type="starcoder2", sliding_window=7, use_bias=True),
    "qwen2_moe": BASE | dict(model_type="qwen2_moe", moe_intermediate_size=32, shared_expert_intermediate_size=64, num_experts=5, num_experts_per_tok=2, tie_word_embeddings=False),
}
LATENT = BASE | dict(q_lora_rank=40, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12, num_key_value_heads=4, moe_intermediate_size=32,
                     num_experts_per_tok=3, n_shared_experts=2, first_k_dense_replace=1, attention_bias=True, tie_word_embeddings=False)
FAMILIES |= {
    "deepseek_v2": LATENT | dict(model_type="deepseek_v2", n_routed_experts=8, n_group=4, topk_group=2, topk_method="group_limited_greedy", routed_scaling_factor=1.5,
        rope_parameters=rope(rope_type="yarn", factor=8.0, original_max_position_embeddings=32, beta_fast=32.0, beta_slow=1.0, mscale=0.7, mscale_all_dim=0.7)),
    "deepseek_v2_lite": LATENT | dict(model_type="deepseek_v2", q_lora_rank=None, n_routed_experts=6, topk_method="greedy", attention_bias=False),
    "deepseek_v3": LATENT | dict(model_type="deepseek_v3", n_routed_experts=12, n_group=4, topk_group=2, routed_scaling_factor=2.5, num_mtp_layers=0,
        rope_parameters=rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0)),
    # Weights of 8 bits with a scale of each block, of each row and of all; of 4 bits as gpt-oss ships them.
    "llama_fp8_blocks": BASE | dict(model_type="llama", tie_word_embeddings=False, rope_parameters=rope()),
    "llama_fp8_rows": BASE | dict(model_type="llama", tie_word_embeddings=False, rope_parameters=rope()),
    "llama_fp8_whole": BASE | dict(model_type="llama", tie_word_embeddings=False, rope_parameters=rope()),
}
FAMILIES["gpt_oss_mxfp4"] = FAMILIES["gpt_oss"]
# Without what GGUF does not say: windows, which layers turn, and experts' weights that do not add up to one.
FAMILIES |= {
    "qwen2_gguf": BASE | dict(model_type="qwen2", use_sliding_window=False, tie_word_embeddings=False),
    "smollm3_gguf": BASE | dict(model_type="smollm3", num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0], tie_word_embeddings=True, rope_parameters=rope(rope_theta=2000000.0)),
    "qwen2_moe_gguf": FAMILIES["qwen2_moe"] | dict(norm_topk_prob=False, shared_expert_intermediate_size=64),
    "lfm2_gguf": FAMILIES["lfm2"] | dict(num_hidden_layers=4, layer_types=["conv", "full_attention", "conv", "full_attention"]),
}
FAMILIES |= {
    "olmo3": BASE | dict(model_type="olmo3", num_hidden_layers=4, sliding_window=7, layer_types=KINDS + ["full_attention"], tie_word_embeddings=False,
        rope_parameters={"full_attention": rope(rope_type="yarn", rope_theta=500000.0, factor=8.0, original_max_position_embeddings=32, beta_fast=32.0, beta_slow=1.0), "sliding_attention": rope(rope_theta=500000.0)}),
    "seed_oss": BASE | dict(model_type="seed_oss", head_dim=24, attention_bias=True, attention_out_bias=False, tie_word_embeddings=False),
    "ernie4_5": BASE | dict(model_type="ernie4_5", head_dim=32, use_bias=True, tie_word_embeddings=True),
    "glm4_moe": BASE | dict(model_type="glm4_moe", head_dim=32, attention_bias=True, use_qk_norm=True, n_routed_experts=8, n_group=4, topk_group=2, num_experts_per_tok=3, n_shared_experts=2,
        moe_intermediate_size=32, first_k_dense_replace=1, routed_scaling_factor=1.5, num_mtp_layers=0, rope_parameters=rope(partial_rotary_factor=0.5)),
    "lfm2_moe": BASE | dict(model_type="lfm2_moe", layer_types=["conv", "full_attention", "conv"], conv_L_cache=4, num_dense_layers=1, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32,
        routed_scaling_factor=1.3),
}
FOLDERS = ("olmo3", "seed_oss", "ernie4_5", "glm4_moe", "lfm2_moe")
# More heads of values than of keys, of other widths; gates and decays in their whole range; a share of each head turns.
DELTA = BASE | dict(head_dim=32, linear_conv_kernel_dim=4, linear_key_head_dim=16, linear_value_head_dim=24, linear_num_key_heads=2, linear_num_value_heads=4,
    num_hidden_layers=4, layer_types=["linear_attention", "full_attention", "linear_attention", "linear_attention"], rope_parameters=rope(rope_theta=1000000.0, partial_rotary_factor=0.5))
MOE = dict(moe_intermediate_size=32, shared_expert_intermediate_size=64, num_experts=6, num_experts_per_tok=2)
FAMILIES |= {
    "qwen3_next": DELTA | MOE | dict(model_type="qwen3_next", norm_topk_prob=True, tie_word_embeddings=False),
    "qwen3_5_text": DELTA | dict(model_type="qwen3_5_text", tie_word_embeddings=True),
    "qwen3_5_moe_text": DELTA | MOE | dict(model_type="qwen3_5_moe_text", tie_word_embeddings=False),
}
# GGUF has one width for keys and values.
FAMILIES |= {
    "qwen3_next_gguf": FAMILIES["qwen3_next"] | dict(linear_value_head_dim=16),
    "qwen3_5_text_gguf": FAMILIES["qwen3_5_text"] | dict(linear_value_head_dim=16),
}
FAMILIES |= {
    "deepseek_v2_gguf": FAMILIES["deepseek_v2"] | dict(attention_bias=False),
    "deepseek_v3_gguf": FAMILIES["deepseek_v3"] | dict(attention_bias=False),
}
FAMILIES["gpt_oss_gguf"] = FAMILIES["gpt_oss"] | dict(swiglu_limit=7.0)


# ---------------------------------------------------------------- GGUF, as converters write it
def latent_gguf(cfg, tensors, split):
    """DeepSeek's latent attention as one key head for all: matrices of keys (by columns) and of values apart; older files have them as they were."""
    heads, rank, still, turning, value = (cfg[k] for k in ["num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"])
    keys = {"block_count": cfg["num_hidden_layers"], "embedding_length": cfg["hidden_size"], "attention.head_count": heads, "attention.head_count_kv": 1 if split else heads,
            "feed_forward_length": cfg["intermediate_size"], "context_length": 256, "attention.kv_lora_rank": rank, "rope.dimension_count": turning,
            "leading_dense_block_count": cfg["first_k_dense_replace"], "expert_feed_forward_length": cfg["moe_intermediate_size"], "expert_count": cfg["n_routed_experts"],
            "expert_used_count": cfg["num_experts_per_tok"], "expert_shared_count": cfg["n_shared_experts"]}
    keys |= {"attention.key_length": rank + turning, "attention.value_length": rank, "attention.key_length_mla": still + turning, "attention.value_length_mla": value} if split \
        else {"attention.key_length": still + turning, "attention.value_length": value}
    if cfg.get("q_lora_rank"):
        keys["attention.q_lora_rank"] = cfg["q_lora_rank"]
    if cfg["model_type"] == "deepseek_v3":
        keys |= {"expert_gating_func": 2, "expert_weights_norm": 1}
    if split:
        keys |= {"expert_group_count": cfg["n_group"], "expert_group_used_count": cfg["topk_group"]}
    p = cfg["rope_parameters"]
    reals = {"attention.layer_norm_rms_epsilon": cfg["rms_norm_eps"], "rope.freq_base": p["rope_theta"], "expert_weights_scale": cfg["routed_scaling_factor"]}
    texts = {}
    if p["rope_type"] == "yarn":
        texts["rope.scaling.type"] = "yarn"
        keys["rope.scaling.original_context_length"] = p["original_max_position_embeddings"]
        reals |= {"rope.scaling.factor": p["factor"], "rope.scaling.yarn_log_multiplier": 0.1 * p["mscale_all_dim"]}
    parts = {"self_attn.q_proj": "attn_q", "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b",
             "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm", "self_attn.kv_b_proj": "attn_kv_b", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "mlp.gate": "ffn_gate_inp", "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp"}
    stacks = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}
    out, stacked = [], {}
    for t in (t[0] for t in tensors):
        path = t.removeprefix("model.").removesuffix(".weight")
        if not path.startswith("layers."):
            out.append([{"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}[path] + ".weight", "copy", [t]])
            continue
        _, i, rest = path.split(".", 2)
        if ".experts." in rest:
            number, part = rest.split(".experts.")[1].split(".")
            stacked.setdefault(f"blk.{i}.{stacks[part]}.weight", []).append((int(number), t))
        elif rest == "mlp.gate.e_score_correction_bias":
            out.append([f"blk.{i}.exp_probs_b.bias", "copy", [t]])
        elif rest == "self_attn.kv_b_proj" and split:
            out.append([f"blk.{i}.attn_k_b.weight", f"heads {still + value} 0..{still} turned", [t]])
            out.append([f"blk.{i}.attn_v_b.weight", f"heads {still + value} {still}..{still + value}", [t]])
        else:
            out.append([f"blk.{i}.{parts[rest]}.weight", "copy", [t]])
    for part, all in stacked.items():
        out.append([part, "stack", [t for _, t in sorted(all)]])
    return {"architecture": "deepseek2", "keys": keys, "reals": reals, "texts": texts, "tensors": out}


def delta_gguf(cfg, tensors, five):
    """Qwen3-Next's projections part by part; Qwen3.5's heads of values by turns of the key heads."""
    keys, values, d, e = (cfg[k] for k in ["linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim"])
    each, n = values // keys, cfg["num_hidden_layers"]
    numbers = {"block_count": n, "embedding_length": cfg["hidden_size"], "attention.head_count": cfg["num_attention_heads"],
               "attention.head_count_kv": cfg["num_key_value_heads"], "context_length": 256, "attention.key_length": cfg["head_dim"],
               "attention.value_length": cfg["head_dim"], "rope.dimension_count": int(cfg["head_dim"] * cfg["rope_parameters"]["partial_rotary_factor"]),
               "ssm.conv_kernel": cfg["linear_conv_kernel_dim"], "ssm.state_size": d, "ssm.group_count": keys, "ssm.time_step_rank": values, "ssm.inner_size": e * values,
               "attention.recurrent_layers": [int(t == "linear_attention") for t in cfg["layer_types"]], "full_attention_interval": 4}
    if "num_experts" in cfg:
        numbers |= {"expert_count": cfg["num_experts"], "expert_used_count": cfg["num_experts_per_tok"], "expert_feed_forward_length": cfg["moe_intermediate_size"],
                    "expert_shared_feed_forward_length": cfg["shared_expert_intermediate_size"]}
    if "intermediate_size" in cfg:
        numbers["feed_forward_length"] = cfg["intermediate_size"]
    if five:
        numbers["rope.dimension_sections"] = [11, 11, 10, 0]
    reals = {"attention.layer_norm_rms_epsilon": cfg["rms_norm_eps"], "rope.freq_base": cfg["rope_parameters"]["rope_theta"]}
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
             "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "post_attention_norm", "mlp.gate": "ffn_gate_inp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
             "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp", "mlp.shared_expert.down_proj": "ffn_down_shexp",
             "linear_attn.in_proj_ba": "ssm_ba", "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.in_proj_z": "attn_gate", "linear_attn.in_proj_b": "ssm_beta",
             "linear_attn.in_proj_a": "ssm_alpha", "linear_attn.conv1d": "ssm_conv1d", "linear_attn.norm": "ssm_norm", "linear_attn.out_proj": "ssm_out"}
    stacks = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}
    # Rows from the first on that are values, heads and elements of one.
    turns = {"in_proj_qkv": f"tile {2 * keys * d} {keys} {each} {e}", "conv1d": f"tile {2 * keys * d} {keys} {each} {e}", "in_proj_z": f"tile 0 {keys} {each} {e}",
             "in_proj_b": f"tile 0 {keys} {each} 1", "in_proj_a": f"tile 0 {keys} {each} 1", "A_log": f"tile 0 {keys} {each} 1", "dt_bias": f"tile 0 {keys} {each} 1",
             "out_proj": f"tile_columns {keys} {each} {e}"}
    out, stacked = [], {}
    for t in (t[0] for t in tensors):
        path = t.removeprefix("model.").removesuffix(".weight")
        if not path.startswith("layers."):
            out.append([{"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}[path] + ".weight", "plus_one" if path == "norm" else "copy", [t]])
            continue
        _, i, rest = path.split(".", 2)
        if ".experts." in rest:
            number, part = rest.split(".experts.")[1].split(".")
            stacked.setdefault(f"blk.{i}.{stacks[part]}.weight", []).append((int(number), t))
            continue
        if rest == "linear_attn.in_proj_qkvz":
            block = 2 * d + 2 * each * e
            out.append([f"blk.{i}.attn_qkv.weight", f"blocks {block} 0..{d} {d}..{2 * d} {2 * d}..{2 * d + each * e}", [t]])
            out.append([f"blk.{i}.attn_gate.weight", f"blocks {block} {2 * d + each * e}..{block}", [t]])
            continue
        how = [turns[rest.rsplit(".", 1)[1]]] if five and rest.startswith("linear_attn.") and rest.rsplit(".", 1)[1] in turns else []
        if rest.endswith("conv1d") or rest.endswith("shared_expert_gate"):
            how = ["squeeze"] + how
        if rest.endswith("norm") and rest != "linear_attn.norm":
            how = ["plus_one"]
        if rest.endswith("A_log"):
            how = ["neg_exp"] + how
        name = {"linear_attn.A_log": "ssm_a", "linear_attn.dt_bias": "ssm_dt.bias"}.get(rest) or parts[rest] + ".weight"
        out.append([f"blk.{i}.{name}", " | ".join(how) or "copy", [t]])
    for part, all in stacked.items():
        out.append([part, "stack", [t for _, t in sorted(all)]])
    if cfg["tie_word_embeddings"]:
        out = [o for o in out if o[0] != "output.weight"]
    return {"architecture": {"qwen3_next": "qwen3next", "qwen3_5_text": "qwen35", "qwen3_5_moe_text": "qwen35moe"}[cfg["model_type"]], "keys": numbers, "reals": reals, "texts": {}, "tensors": out}


def gguf_of(name, cfg, tensors):
    """(keys, tensors): each tensor is [GGUF name, what is done, names in the checkpoint]."""
    if name.startswith(("qwen3_next", "qwen3_5")):
        return delta_gguf(cfg, tensors, "5" in name) if name.endswith("_gguf") else None
    if name in ("deepseek_v2_gguf", "deepseek_v3_gguf", "deepseek_v2_lite"):
        return latent_gguf(cfg, tensors, name.endswith("_gguf"))
    if name in FOLDERS:
        return None
    arch = {"deepseek_v2": "", "deepseek_v3": "", "llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3_moe": "qwen3moe",
            "gemma2": "gemma2", "gemma3_text": "gemma3", "gpt_oss": "gpt-oss", "smollm3": "smollm3", "olmo2": "olmo2", "granite": "granite",
            "phi3": "phi3", "gpt2": "gpt2", "starcoder2": "starcoder2", "lfm2": "lfm2", "qwen2_moe": "qwen2moe"}[cfg["model_type"]]
    if name.startswith(("deepseek", "llama_fp8", "gpt_oss_mxfp4")):
        return None                     # these are folders
    if name in ("lfm2", "qwen2_moe", "llama", "gemma3_text", "qwen2", "smollm3", "qwen3_moe_shares"):    # those that end in _gguf lack it
        return None                     # what makes these checkpoints special has no key in GGUF, or one of its own
    if name in ("gemma2", "gpt_oss"):
        return None                     # GGUF does not say the scale of scores, nor the clamp
    n = cfg.get("num_hidden_layers", cfg.get("n_layer"))
    heads, width = cfg.get("num_attention_heads", cfg.get("n_head")), cfg.get("hidden_size", cfg.get("n_embd"))
    head = cfg.get("head_dim") or width // heads
    kv = cfg.get("num_key_value_heads", heads)
    keys = {"block_count": n, "embedding_length": width, "attention.head_count": heads, "attention.head_count_kv": kv,
            "feed_forward_length": cfg.get("intermediate_size") or 4 * width, "context_length": 256}
    if name == "lfm2_gguf":
        # What the converter makes of it: two thirds, in whole multiples; no key heads where a layer convolves.
        keys["feed_forward_length"] = -(-(2 * cfg["intermediate_size"] // 3) // cfg["block_multiple_of"]) * cfg["block_multiple_of"]
        keys["attention.head_count_kv"] = [kv if t == "full_attention" else 0 for t in cfg["layer_types"]]
        keys["shortconv.l_cache"] = cfg["conv_L_cache"]
    reals = {}
    if name == "gpt2":
        reals["attention.layer_norm_epsilon"] = cfg["layer_norm_epsilon"]
    elif name == "starcoder2":
        reals["attention.layer_norm_epsilon"] = cfg["norm_epsilon"]
    else:
        keys |= {"attention.key_length": head, "attention.value_length": head}
        reals["attention.layer_norm_rms_epsilon"] = cfg["norm_eps"] if name == "lfm2_gguf" else cfg["rms_norm_eps"]
    p = cfg.get("rope_parameters") or {}
    p = p.get("full_attention", p)
    if name != "gpt2":
        reals["rope.freq_base"] = p["rope_theta"]
        keys["rope.dimension_count"] = int(head * p.get("partial_rotary_factor", 1.0))
    texts = {}
    if p.get("rope_type") in ("yarn", "linear"):
        texts["rope.scaling.type"] = p["rope_type"]
        reals["rope.scaling.factor"] = p["factor"]
        if p["rope_type"] == "yarn":
            keys["rope.scaling.original_context_length"] = p["original_max_position_embeddings"]
    if cfg.get("sliding_window"):
        keys["attention.sliding_window"] = cfg["sliding_window"]
    if name == "gemma2_gguf":
        reals |= {"attn_logit_softcapping": cfg["attn_logit_softcapping"], "final_logit_softcapping": cfg["final_logit_softcapping"]}
    if name == "granite":
        reals |= {"embedding_scale": cfg["embedding_multiplier"], "attention.scale": cfg["attention_multiplier"],
                  "residual_scale": cfg["residual_multiplier"], "logit_scale": cfg["logits_scaling"]}
    experts = cfg.get("num_local_experts") or cfg.get("num_experts")
    if experts:
        keys |= {"expert_count": experts, "expert_used_count": cfg["num_experts_per_tok"]}
        if "moe_intermediate_size" in cfg:
            keys["expert_feed_forward_length"] = cfg["moe_intermediate_size"]
        if "shared_expert_intermediate_size" in cfg:
            keys["expert_shared_feed_forward_length"] = cfg["shared_expert_intermediate_size"]
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.qkv_proj": "attn_qkv",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate": "ffn_gate_inp",
             "block_sparse_moe.gate": "ffn_gate_inp", "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv",
             "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    if name in ("gemma2_gguf", "gemma3_text", "olmo2"):
        parts |= {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}
    top = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
    stacks = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps", "w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps"}
    if name == "gpt_oss_gguf":
        parts |= {"post_attention_layernorm": "post_attention_norm", "mlp.router": "ffn_gate_inp"}
    if name == "lfm2_gguf":
        parts |= {"operator_norm": "attn_norm", "ffn_norm": "ffn_norm", "self_attn.q_layernorm": "attn_q_norm", "self_attn.k_layernorm": "attn_k_norm",
                  "self_attn.out_proj": "attn_output", "feed_forward.w1": "ffn_gate", "feed_forward.w3": "ffn_up", "feed_forward.w2": "ffn_down",
                  "conv.in_proj": "shortconv.in_proj", "conv.conv": "shortconv.conv", "conv.out_proj": "shortconv.out_proj"}
        top |= {"embedding_norm": "token_embd_norm"}
    if name == "qwen2_moe_gguf":
        parts |= {"mlp.shared_expert_gate": "ffn_gate_inp_shexp", "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
                  "mlp.shared_expert.up_proj": "ffn_up_shexp", "mlp.shared_expert.down_proj": "ffn_down_shexp"}
    out, stacked = [], {}
    for t in tensors:
        t = t[0]
        if t.endswith(".sinks"):
            out.append([f"blk.{t.split('.')[2]}.attn_sinks.weight", "copy", [t]])
            continue
        if ".mlp.experts." in t and name == "gpt_oss_gguf":
            # Gate and up are every other column, and matrices lie by columns.
            kind, i = "bias" if t.endswith("_bias") else "weight", t.split(".")[2]
            if "gate_up" in t:
                out.append([f"blk.{i}.ffn_gate_exps.{kind}", "columns 0/2", [t]])
                out.append([f"blk.{i}.ffn_up_exps.{kind}", "columns 1/2", [t]])
            else:
                out.append([f"blk.{i}.ffn_down_exps.{kind}", "columns 0/1", [t]])
            continue
        path, kind = t.rsplit(".", 1)
        path = path.removeprefix("model.").removeprefix("transformer.")
        if not (path.startswith("layers.") or path.startswith("h.")):
            how = "plus_one" if path == "norm" and name.startswith("gemma") else "copy"
            out.append([f"{top[path]}.{kind}", how, [t]])
            continue
        _, i, rest = path.split(".", 2)
        if ".experts." in rest:
            part = stacks[rest.rsplit(".", 1)[1]]
            stacked.setdefault(f"blk.{i}.{part}.{kind}", []).append((int(rest.split(".experts.")[1].split(".")[0]), t))
            continue
        part, how = parts[rest], "copy"
        if arch in ("llama", "granite", "smollm3") and part in ("attn_q", "attn_k"):
            how = f"permute {heads if part == 'attn_q' else kv}"
        if name.startswith("gemma") and part.endswith("norm"):
            how = "plus_one"
        if part in ("shortconv.conv", "ffn_gate_inp_shexp"):
            how = "squeeze"
        if name == "gpt2" and kind == "weight" and "norm" not in part:
            how = "transpose"
        out.append([f"blk.{i}.{part}.{kind}", how, [t]])
    for part, all in stacked.items():
        out.append([part, "stack", [t for _, t in sorted(all)]])
    if cfg.get("tie_word_embeddings"):
        out = [o for o in out if o[0] != "output.weight"]
    return {"architecture": arch, "keys": keys, "reals": reals, "texts": texts, "tensors": out}


def packed(name, weights, tensors, saved):
    """Weights of 8 or 4 bits in place of those of matrices: what the file has, and what it means by torch and transformers."""
    import torch
    def given(k, shape, scale, shift, kind):
        tensors.append([k, shape, scale, shift, kind])
        values = torch.from_numpy(fill(k, math.prod(shape), scale, shift)).reshape(shape)
        return values if kind == "F32" else values.floor().clamp(0, 255).to(torch.uint8)
    def drop(k):
        tensors[:] = [t for t in tensors if t[0] != k]
    if name == "gpt_oss_mxfp4":
        from transformers.integrations.mxfp4 import convert_moe_packed_tensors
        for k in [k for k in weights if k.endswith("experts.gate_up_proj") or k.endswith("experts.down_proj")]:
            e, cols, rows = weights[k].shape
            drop(k)
            blocks, scales = given(k + "_blocks", [e, rows, cols // 32, 16], 128.0, 128.0, "U8"), given(k + "_scales", [e, rows, cols // 32], 2.0, 124.0, "U8")
            weights[k] = convert_moe_packed_tensors(blocks, scales).float().reshape(weights[k].shape).contiguous()
        saved["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
        return
    how = name.rsplit("_", 1)[1]
    for k in [k for k in weights if k.endswith("proj.weight")]:
        rows, cols = weights[k].shape
        drop(k)
        quants = given(k, [rows, cols], 128.0, 128.0, "F8_E4M3")
        quants[(quants & 127) == 127] = 0
        shape = {"blocks": [-(-rows // 40), -(-cols // 24)], "rows": [rows, 1], "whole": []}[how]
        scales = given(k + ("_scale_inv" if how == "blocks" else "_scale"), shape, 0.0008, 0.0016, "F32")
        full = scales.repeat_interleave(40, 0)[:rows].repeat_interleave(24, 1)[:, :cols] if how == "blocks" else scales
        weights[k] = (quants.view(torch.float8_e4m3fn).float() * full).to(torch.bfloat16).float()
    saved["quantization_config"] = {"blocks": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [40, 24]},
        "rows": {"quant_method": "compressed-tensors", "format": "float-quantized"}, "whole": {"quant_method": "fp8", "activation_scheme": "static"}}[how]


def make(name):
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM
    cfg = dict(FAMILIES[name])
    with tempfile.TemporaryDirectory() as d:
        config = AutoConfig.for_model(cfg["model_type"], **{k: v for k, v in cfg.items() if k != "model_type"})
        config._attn_implementation = "eager"
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.save_pretrained(d)
        file = Path(d) / "model.safetensors"
        with safe_open(file, "pt") as f:
            shapes = {k: list(f.get_slice(k).get_shape()) for k in sorted(f.keys())}
        tensors, weights = [], {}
        for k, shape in shapes.items():
            scale, shift = scale_of(k, shape, name.startswith(("gemma", "qwen3_next", "qwen3_5")))
            scale = float(torch.tensor(scale, dtype=torch.float32))
            tensors.append([k, shape, scale, shift])
            weights[k] = torch.from_numpy(fill(k, math.prod(shape), scale, shift)).reshape(shape)
        saved, extra = json.loads((Path(d) / "config.json").read_text()), {}
        if "fp8" in name or "mxfp4" in name:
            packed(name, weights, tensors, extra)
        save_file(weights, file, metadata={"format": "pt"})
        model = AutoModelForCausalLM.from_pretrained(d, dtype=torch.float32, attn_implementation="eager").eval()
        ids, greedy, margins, first = list(PROMPT), [], [], None
        with torch.no_grad():
            for _ in range(TOKENS):
                lp = torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0, -1].double(), -1)
                best = torch.topk(lp, 10)
                first = first or [[int(i), round(float(v), 6)] for i, v in zip(best.indices, best.values)]
                greedy.append(int(best.indices[0]))
                margins.append(round(float(best.values[0] - best.values[1]), 4))
                ids.append(greedy[-1])
    for key in ["transformers_version", "architectures", "dtype"]:
        saved.pop(key, None)
    saved |= extra
    figures = {"config": saved, "tensors": tensors, "prompt": PROMPT, "top": first, "greedy": greedy, "margins": margins, "gguf": gguf_of(name, saved, tensors)}
    text = json.dumps(figures, indent=1)
    # A line a tensor.
    import re
    text = re.sub(r"\[\s+((?:[^\[\]{}]|\[[^\[\]]*\])*?)\s+\]", lambda m: "[" + re.sub(r"\s*\n\s*", " ", m[1]) + "]", text)
    (HERE / f"{name}.json").write_text(text + "\n")
    print(name, first[:3], greedy, margins)


if __name__ == "__main__":
    for name in sys.argv[1:] or FAMILIES:
        make(name)
