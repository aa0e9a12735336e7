#!/usr/bin/env python3
"""Figures of small encoders of many families with what sentence-transformers puts behind them, from transformers and torch.

    make.py [NAME ...]      needs: torch (CPU), transformers, safetensors, tokenizers; writes NAME.json beside itself

Tensors are filled by the rule of ../families/make.py. Tokenizers are trained here on a few lines and kept beside the figures.
Each text goes through its encoder alone, without padding; pooling and dense layers are written here in plain torch.
"""
import importlib.util, json, math, re, sys, tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("families", HERE.parent / "families" / "make.py")
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)
fill = families.fill

CORPUS = ["The cat sat on the mat.", "A dog ran over the green hill, and the cat ran too!", "Rain fell on the old stone bridge all night.",
          "Ein Hund lief über die grüne Wiese.", "Le chat est assis sur le tapis.", "numbers 1 2 3 45 678", "猫 犬 雨 山"]
TEXTS = ["The cat sat on the mat.", "a dog ran over  the old bridge, and it rained all night", "cat", "Über 45 猫 und 🙂 Hunde",
         "the green hill and the old stone bridge and the mat and the cat ran on and on over the hill all night 1 2 3"]
BASE = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, max_position_embeddings=80)


def transformer(**more):
    return [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}] + [
        {"idx": i + 1, "name": str(i + 1), "path": f"{i + 1}_{kind.split('_')[0]}", "type": f"sentence_transformers.models.{kind.split('_')[0]}"}
        for i, kind in enumerate(more["then"])]


def dense(a, b, bias, act):
    return {"in_features": a, "out_features": b, "bias": bias, "activation_function": f"torch.nn.modules.{act}"}


# Name: configuration, tokenizer, modes of pooling, then dense layers; "normalize" as it stands in modules.json.
CASES = {
    "bert": dict(config=BASE | dict(model_type="bert"), tokenizer="wordpiece", modes=["mean_tokens"], then=["Normalize"]),
    "bert_dense": dict(config=BASE | dict(model_type="bert", hidden_act="relu"), tokenizer="wordpiece", modes=["cls_token"],
        then=[dense(64, 48, True, "activation.Tanh"), dense(48, 40, False, "linear.Identity"), "Normalize"]),
    "bert_modes": dict(config=BASE | dict(model_type="bert"), tokenizer="wordpiece", modes=["max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"], then=[]),
    "roberta": dict(config=BASE | dict(model_type="roberta", type_vocab_size=1, layer_norm_eps=1e-5), tokenizer="bpe", modes=["mean_tokens"], then=["Normalize"],
        prompt="query: "),
    "xlm_roberta": dict(config=BASE | dict(model_type="xlm-roberta", type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=2), tokenizer="unigram", modes=["cls_token"], then=["Normalize"]),
    "distilbert": dict(config=dict(model_type="distilbert", dim=64, n_layers=2, n_heads=4, hidden_dim=96, max_position_embeddings=80), tokenizer="wordpiece",
        modes=["mean_tokens"], then=[dense(64, 32, True, "activation.Tanh")], max_seq_length=12, lower=True),
    "mpnet": dict(config=BASE | dict(model_type="mpnet"), tokenizer="wordpiece", modes=["mean_tokens"], then=["Normalize"]),
    "nomic_bert": dict(config=BASE | dict(model_type="nomic_bert"), tokenizer="wordpiece", modes=["mean_tokens"], then=["Normalize"]),
    "modernbert": dict(config=BASE | dict(model_type="modernbert", num_hidden_layers=4, local_attention=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        cls_token_id=1, sep_token_id=2), tokenizer="bpe", modes=["cls_token"], then=["Normalize"]),
    # Decoders that make vectors: the last token has seen all others.
    "qwen3": dict(config=BASE | dict(model_type="qwen3", num_key_value_heads=2, head_dim=16, tie_word_embeddings=False, pad_token_id=0), tokenizer="bpe", modes=["lasttoken"],
        then=["Normalize"], prompt="Query: "),
    "mistral": dict(config=BASE | dict(model_type="mistral", num_key_value_heads=2, sliding_window=9, pad_token_id=0), tokenizer="bpe", modes=["mean_tokens"], then=[dense(64, 24, True, "activation.Tanh")]),
    "modernbert_biases": dict(config=BASE | dict(model_type="modernbert", num_hidden_layers=4, local_attention=6, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        cls_token_id=1, sep_token_id=2, attention_bias=True, mlp_bias=True, norm_bias=True, hidden_activation="silu"), tokenizer="bpe", modes=["lasttoken"], then=[]),
}


def tokenizers_():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers, decoders
    special = ["<pad0>", "<s>", "</s>", "<unk>", "<mask>"]
    def around(t):
        t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
        return t
    wp = Tokenizer(models.WordPiece(unk_token="<unk>"))
    wp.normalizer, wp.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    wp.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=130, special_tokens=special, show_progress=False))
    bpe = Tokenizer(models.BPE(unk_token=None))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    uni = Tokenizer(models.Unigram())
    uni.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(__import__("tokenizers").Regex(" {2,}"), " ")])
    uni.pre_tokenizer, uni.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    uni.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False))
    around(wp).save(str(HERE / "wordpiece.tokenizer.json"), pretty=False)
    around(uni).save(str(HERE / "unigram.tokenizer.json"), pretty=False)
    bpe.post_processor = processors.RobertaProcessing(sep=("</s>", 2), cls_token=("<s>", 1), trim_offsets=True, add_prefix_space=False)
    bpe.save(str(HERE / "bpe.tokenizer.json"), pretty=False)


def scale_of(name, shape):
    norm = len(shape) == 1 and any(w in name.lower() for w in ["norm", "emb_ln"])
    if norm and name.endswith("weight"):
        return 0.4, 1.0
    if len(shape) == 1:
        return 0.4, 0.0
    if "embed_tokens" in name:
        return 1.0, 0.0
    if "relative_attention_bias" in name:
        return 3.0, 0.0
    if "embeddings" in name:
        return 1.0, 0.0
    return 2.2 / math.sqrt(shape[-1]), 0.0


def pooled(modes, h):
    """h [tokens, width]; the order is that of sentence-transformers."""
    import torch
    n, out = h.shape[0], []
    for mode in ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]:
        if mode not in modes:
            continue
        weights = torch.arange(1, n + 1, dtype=h.dtype)[:, None]
        out.append({"cls_token": lambda: h[0], "max_tokens": lambda: h.max(0).values, "mean_tokens": lambda: h.mean(0),
                    "mean_sqrt_len_tokens": lambda: h.sum(0) / math.sqrt(n), "weightedmean_tokens": lambda: (h * weights).sum(0) / weights.sum(),
                    "lasttoken": lambda: h[-1]}[mode]())
    return torch.cat(out)


def make(name):
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModel
    case = CASES[name]
    tok = Tokenizer.from_file(str(HERE / f"{case['tokenizer']}.tokenizer.json"))
    cfg = dict(case["config"]) | {"vocab_size": tok.get_vocab_size()}
    with tempfile.TemporaryDirectory() as d:
        config = AutoConfig.for_model(cfg["model_type"], **{k: v for k, v in cfg.items() if k != "model_type"})
        model = AutoModel.from_config(config, dtype=torch.float32)
        model.save_pretrained(d)
        file = Path(d) / "model.safetensors"
        with safe_open(file, "pt") as f:
            shapes = {k: list(f.get_slice(k).get_shape()) for k in sorted(f.keys())}
        tensors, weights = [], {}
        def add(k, shape):
            scale, shift = scale_of(k, shape)
            scale = float(torch.tensor(scale, dtype=torch.float32))
            tensors.append([k, shape, scale, shift])
            return torch.from_numpy(fill(k, math.prod(shape), scale, shift)).reshape(shape)
        for k, shape in shapes.items():
            weights[k] = add(k, shape)
        save_file(weights, file, metadata={"format": "pt"})
        saved = json.loads((Path(d) / "config.json").read_text())
        model = AutoModel.from_pretrained(d, dtype=torch.float64, attn_implementation="eager").eval()
    # What stands beside the encoder.
    files, then, modules = {}, case["then"], ["Pooling"]
    files["1_Pooling/config.json"] = {"word_embedding_dimension": 64, **{f"pooling_mode_{m}": m in case["modes"] for m in
        ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]}}
    denses = []
    for i, t in enumerate(then):
        if t == "Normalize":
            modules.append(t)
            continue
        folder = f"{i + 2}_Dense"
        modules.append("Dense")
        files[f"{folder}/config.json"] = t
        w = add(f"{folder}/linear.weight", [t["out_features"], t["in_features"]])
        b = add(f"{folder}/linear.bias", [t["out_features"]]) if t["bias"] else None
        denses.append((w, b, t["activation_function"].rsplit(".", 1)[1]))
    files["modules.json"] = transformer(then=modules)
    limit = case.get("max_seq_length", 60)
    files["sentence_bert_config.json"] = {"max_seq_length": limit, "do_lower_case": case.get("lower", False)}
    prompt = case.get("prompt", "")
    if prompt:
        files["config_sentence_transformers.json"] = {"prompts": {"query": prompt}, "default_prompt_name": "query"}
    texts, vectors, counts = list(TEXTS), [], []
    if name == "xlm_roberta":
        texts.append("a </s> b")            # the token whose number is pad_token_id stands in the text
    with torch.no_grad():
        for text in texts:
            text = (prompt + text).strip()
            ids = tok.encode(text.lower() if case.get("lower") else text).ids
            if len(ids) > limit:
                ids = ids[:limit - 1] + ids[-1:]
            counts.append(len(ids))
            h = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).last_hidden_state[0]
            y = pooled(case["modes"], h)
            for w, b, act in denses:
                y = w.double() @ y + (0 if b is None else b.double())
                y = {"Tanh": torch.tanh, "Identity": lambda y: y}[act](y)
            y = y.double() / y.double().norm()
            vectors.append([round(float(x), 6) for x in y])
    for key in ["transformers_version", "architectures", "dtype"]:
        saved.pop(key, None)
    figures = {"config": saved, "tokenizer": case["tokenizer"], "files": files, "tensors": tensors, "texts": texts, "tokens": counts, "vectors": vectors}
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+((?:[^\[\]{}]|\[[^\[\]]*\])*?)\s+\]", lambda m: "[" + re.sub(r"\s*\n\s*", " ", m[1]) + "]", text)
    (HERE / f"{name}.json").write_text(text + "\n")
    print(name, counts, vectors[0][:3])


if __name__ == "__main__":
    if not sys.argv[1:] or "tokenizers" in sys.argv[1:]:
        tokenizers_()
    for name in [a for a in sys.argv[1:] if a != "tokenizers"] or CASES:
        make(name)
