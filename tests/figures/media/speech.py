#!/usr/bin/env python3
"""Figures of small models of speech, from transformers and torch.

    speech.py [NAME ...]     needs: torch (CPU), transformers, safetensors, tokenizers; writes NAME.json and the sounds beside itself

Tensors are filled by the rule of ../families/make.py; the tokenizer is ../encoders/bpe.tokenizer.json with markers behind it.
"""
import importlib.util, json, math, struct, sys, tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("make", HERE / "make.py")
make_ = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_)
fill, written = make_.fill, make_.written

RATE = 16000


def sound(seconds, seed):
    import numpy as np
    n = int(seconds * RATE)
    t = np.arange(n) / RATE
    tone = sum(np.sin(2 * math.pi * f * t * (1 + 0.1 * np.sin(t * k))) * np.clip(np.sin(t * 3 * k + seed), 0, 1) for k, f in enumerate([210, 470, 950, 2300, 5100], 1))
    x = 0.15 * tone + fill(f"sound{seed}", n, 0.02, 0.0)
    return np.round(np.clip(x, -1, 1) * 32767).astype(np.int16)


def save(name, samples, rate=RATE, channels=1):
    data = samples.astype("<i2").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16, b"data", len(data))
    (HERE / name).write_bytes(head + data)


BASE = dict(d_model=48, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=80, decoder_ffn_dim=72,
            num_mel_bins=20, max_source_positions=100, max_target_positions=40)
# One window is two seconds: 200 frames, 100 rows.
HEARD = dict(feature_extractor_type="WhisperFeatureExtractor", feature_size=20, chunk_length=2, sampling_rate=RATE, hop_length=160, n_fft=400)
CASES = {
    "whisper": dict(config=BASE, multilingual=True),
    # English only, as older folders have it: what stands before a text is forced.
    "whisper_en": dict(config=BASE | dict(scale_embedding=True, activation_function="relu"), multilingual=False),
}


def tokenizer():
    """The markers stand where Whisper has them: end, start, languages, tasks, no timestamps, timestamps."""
    t = json.loads((HERE.parent / "encoders" / "bpe.tokenizer.json").read_text())
    n = 300
    marks = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|fr|>", "<|translate|>", "<|transcribe|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    ids = {m: n + i for i, m in enumerate(marks)}
    times = {f"<|{i * 0.02:.2f}|>": n + len(marks) + i for i in range(101)}
    for m, i in ids.items():
        t["added_tokens"].append({"id": i, "content": m, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True})
    for m, i in times.items():
        t["added_tokens"].append({"id": i, "content": m, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False})
    t["post_processor"] = None
    return t, ids, n + len(marks) + len(times)


def make(name):
    import numpy as np, torch
    from safetensors import safe_open
    from safetensors.torch import save_file
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
    case = CASES[name]
    _, ids, vocab = tokenizer()
    end = ids["<|endoftext|>"]
    cfg = dict(case["config"]) | dict(vocab_size=vocab, decoder_start_token_id=ids["<|startoftranscript|>"], eos_token_id=end, bos_token_id=end, pad_token_id=end)
    generation = dict(decoder_start_token_id=ids["<|startoftranscript|>"], eos_token_id=end, bos_token_id=end, pad_token_id=end, max_length=40, no_timestamps_token_id=ids["<|notimestamps|>"],
        suppress_tokens=[5, 17, 40, ids["<|startofprev|>"], ids["<|nospeech|>"], ids["<|startoftranscript|>"], ids["<|translate|>"], ids["<|transcribe|>"]], begin_suppress_tokens=[60, 61, end], max_initial_timestamp_index=50, return_timestamps=False)
    if case["multilingual"]:
        generation |= dict(is_multilingual=True, lang_to_id={k: v for k, v in ids.items() if k in ("<|en|>", "<|de|>", "<|fr|>")}, task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]})
    else:
        generation |= dict(is_multilingual=False, forced_decoder_ids=[[1, ids["<|notimestamps|>"]]])
    heard = WhisperFeatureExtractor(**{k: v for k, v in HEARD.items() if k != "feature_extractor_type"})
    with tempfile.TemporaryDirectory() as d:
        model = WhisperForConditionalGeneration(WhisperConfig(**cfg))
        model.save_pretrained(d)
        file = Path(d) / "model.safetensors"
        with safe_open(file, "pt") as f:
            shapes = {k: list(f.get_slice(k).get_shape()) for k in sorted(f.keys())}
        tensors, weights = [], {}
        for k, shape in shapes.items():
            norm = len(shape) == 1 and "norm" in k
            scale, shift = (0.4, 1.0) if norm and k.endswith("weight") else (0.4, 0.0) if len(shape) == 1 else (1.5, 0.0) if "embed_positions" in k else (0.45, 0.0) if "embed" in k else (3.5 / math.sqrt(math.prod(shape[1:])), 0.0)
            scale = float(torch.tensor(scale, dtype=torch.float32))
            tensors.append([k, shape, scale, shift])
            weights[k] = torch.from_numpy(fill(k, math.prod(shape), scale, shift)).reshape(shape)
        save_file(weights, file, metadata={"format": "pt"})
        model = WhisperForConditionalGeneration.from_pretrained(d, dtype=torch.float64, attn_implementation="eager").eval()
    model.generation_config = GenerationConfig(**generation)
    rows = []
    with torch.no_grad():
        for wav, seconds, seed in SOUNDS:
            x = sound(seconds, seed).astype(np.float32) / 32768
            short = seconds <= 2
            mel = heard(x, sampling_rate=RATE, return_tensors="pt", **({} if short else dict(truncation=False, padding="longest"))).input_features
            row = {"wav": wav, "mel_every": 53, "mel": [round(float(v), 5) for v in mel.reshape(-1)[::53]], "mel_shape": list(mel.shape[1:]), "runs": []}
            if short:
                start = [ids["<|startoftranscript|>"], ids["<|de|>"], 10, 20, 30]
                logits = model(input_features=mel.double(), decoder_input_ids=torch.tensor([start])).logits[0, -1]
                p = torch.log_softmax(logits, -1)
                row["prompt"], row["log_probabilities"] = start, [round(float(v), 5) for v in p]
            ways = [dict(), dict(return_timestamps=True)] if short else [dict(return_timestamps=True)]
            if case["multilingual"]:
                ways += [w | dict(language="fr", task="translate") for w in ways] + [w | dict(language="de") for w in ways]
            for way in ways:
                model.generation_config = GenerationConfig(**generation)
                out = model.generate(mel.double(), return_segments=True, **way)
                segments = out["segments"][0]
                run = {"way": way, "segments": []}
                for s in segments:
                    tokens = [int(t) for t in s["tokens"]]
                    run["segments"].append({"from": round(float(s["start"]), 4), "to": round(float(s["end"]), 4), "tokens": tokens})
                row["runs"].append(run)
            rows.append(row)
            print(name, wav, [[len(s["tokens"]) for s in r["segments"]] for r in row["runs"]], row["runs"][0]["segments"][0])
    saved = {"model_type": "whisper"} | cfg
    written(name, {"config": saved, "generation": generation, "heard": HEARD, "tensors": tensors, "rows": rows})


SOUNDS = [("speech.wav", 1.6, 1), ("speech_long.wav", 5.3, 2)]

if __name__ == "__main__":
    for wav, seconds, seed in SOUNDS:
        save(wav, sound(seconds, seed))
    for name in sys.argv[1:] or CASES:
        make(name)
