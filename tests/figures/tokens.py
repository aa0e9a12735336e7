"""Writes tokens.json: small vocabularies, and the ids that the libraries of their makers give.

    python tokens.py > tokens.json        needs: pip install tokenizers sentencepiece protobuf

For each rule that GGUF files name, the pre-tokenizer of the models' own tokenizer.json is built with PyPI's `tokenizers`, a byte-level
BPE is trained on the texts below, and its ids are kept; SentencePiece vocabularies (BPE with byte fallback, and Unigram with its table of
letters) are trained and asked with PyPI's `sentencepiece`; WordPiece with `tokenizers`.
"""
import base64, io, json, sys, tempfile
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as spm_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\t\n", " \n \n", "Hello world", " Hello world", "Hello World!", " Hello, y'all! How are you 😁 ?",
    "I'm, you'RE, we've; it'S don't", "3", "33", "333", "3333", "33333", "333333", "3.14159", "a1b22c333", "Führer", "Cửa Việt", "discards",
    "нещо на Български", "កាន់តែពិសេសអាច", "🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅", "x=1;\n    if (y) {\n\treturn z;\n    }\n", "a  b   c    d\n\n\n e",
    "你好，世界！今天是2024年1月1日。", "日本語のテキスト、カタカナ", "안녕하세요 세계", "!!!???...---===", "'s 't 're", "ＡＢＣ　ｄｅｆ", "naïve café résumé e\u0301", "ﬁne ﷺ ½ Å",
    "http://www.example.com/path?x=1&y=2#frag", "CamelCaseWORDS HTTPServer iPhone", "tail ", "tail  ", "\ttab start", "end\n", "ÄÖÜ äöü ß", "ǅ ǈ", "x\u00a0y\u3000z", "\u200bzero",
]
TRAIN = TEXTS * 3 + ["the quick brown fox jumps over the lazy dog and the other 1234567890 things"] * 5

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK3 = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]


def split(*patterns):
    return [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]


def digits():
    return [pre_tokenizers.Digits(individual_digits=True)]


BYTES = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
WORDS = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
RULES = {
    "gpt-2": WORDS, "phi-2": WORDS, "mpt": WORDS, "olmo": WORDS, "smollm": digits() + WORDS, "starcoder": digits() + WORDS, "refact": digits() + WORDS,
    "command-r": digits() + WORDS, "llama-bpe": split(LLAMA3) + BYTES, "dbrx": split(LLAMA3) + BYTES, "chatglm-bpe": split(LLAMA3) + BYTES, "qwen2": split(QWEN2) + BYTES,
    "deepseek-r1-qwen": split(QWEN2) + BYTES, "qwen35": split(QWEN35) + BYTES, "gpt-4o": split(GPT4O) + BYTES, "tekken": split(TEKKEN) + BYTES, "deepseek-v3": split(*DEEPSEEK3) + BYTES,
    "falcon": [pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), pre_tokenizers.Digits(individual_digits=False),
               pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")],
}
WHOLE = {"llama-bpe", "tekken"}


def byte_level(name, steps):
    t = Tokenizer(models.BPE(ignore_merges=name in WHOLE))
    t.pre_tokenizer = pre_tokenizers.Sequence(steps)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TRAIN, trainers.BpeTrainer(vocab_size=420, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|end|>"]))
    model = json.loads(t.to_str())["model"]
    tokens = [k for k, _ in sorted(model["vocab"].items(), key=lambda kv: kv[1])]
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    return {"model": "gpt2", "pre": name, "tokens": tokens, "types": [3] + [1] * (len(tokens) - 1), "merges": merges, "ids": [t.encode(x, add_special_tokens=False).ids for x in TEXTS]}


def pieces(kind, **more):
    out = io.BytesIO()
    train = [x.replace("\n", " ") for x in TRAIN if x.strip()]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(train), model_writer=out, vocab_size=more.pop("vocab_size", 700), model_type=kind, minloglevel=2, **more)
    sp = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    proto = spm_pb2.ModelProto.FromString(out.getvalue())
    ggml = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6}
    return sp, proto, {
        "tokens": [p.piece for p in proto.pieces], "scores": [p.score for p in proto.pieces], "types": [ggml[p.type] for p in proto.pieces],
        "ids": [sp.encode(x) for x in TEXTS],
    }


def main():
    out = [byte_level(n, s) for n, s in RULES.items()]
    for name, more in {"llama": dict(add_dummy_prefix=True), "gemma": dict(add_dummy_prefix=False)}.items():
        sp, proto, v = pieces("bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, **more)
        out.append(v | {"model": "llama", "pre": "", "name": name, "add_space_prefix": more["add_dummy_prefix"]})
    # A small table of letters: compositions, wide letters, spaces, and one letter that stands for a phrase.
    table = {"e\u0301": "é", "ﬁ": "fi", "½": "1/2", "\u3000": " ", "\t": " ", "\n": " ", "ﷺ": "صلى الله عليه وسلم", "\u200b": " "}
    table |= {chr(0xff21 + i): chr(65 + i) for i in range(26)} | {chr(0xff41 + i): chr(97 + i) for i in range(26)}
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as f:
        f.write("".join(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n" for a, b in table.items()))
        f.flush()
        sp, proto, v = pieces("unigram", vocab_size=400, normalization_rule_tsv=f.name, character_coverage=0.98, hard_vocab_limit=False)
    spec = proto.normalizer_spec
    out.append(v | {"model": "t5", "pre": "", "add_space_prefix": spec.add_dummy_prefix, "merge_spaces": spec.remove_extra_whitespaces,
                    "charsmap": base64.b64encode(spec.precompiled_charsmap).decode()})
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(TRAIN, trainers.WordPieceTrainer(vocab_size=300, show_progress=False, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]))
    vocab = sorted(json.loads(t.to_str())["model"]["vocab"].items(), key=lambda kv: kv[1])
    # As converters write them: a word's beginning is marked, its continuation is not.
    own = [k if k.startswith("[") and k.endswith("]") else k[2:] if k.startswith("##") else "▁" + k for k, _ in vocab]
    out.append({"model": "bert", "pre": "", "tokens": own, "types": [3] * 4 + [1] * (len(own) - 4), "ids": [t.encode(x, add_special_tokens=False).ids for x in TEXTS]})
    json.dump({"texts": TEXTS, "vocabularies": out}, sys.stdout, ensure_ascii=False, separators=(",", ":"))


main()
