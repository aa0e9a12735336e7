#!/usr/bin/env python3
"""Figures of small models of images and texts, from transformers, torch and Pillow.

    make.py [NAME ...]      needs: torch (CPU), transformers, safetensors, tokenizers, Pillow 11 (13 takes columns first at times); writes NAME.json beside itself

Without a name it makes the pictures, too. Tensors are filled by the rule of ../families/make.py; tokenizers are those of
../encoders. Pictures go through the processors that Pillow computes, texts through their encoder one by one.
"""
import importlib.util, json, math, re, sys, tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("families", HERE.parent / "families" / "make.py")
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)
fill = families.fill

PICTURES = ["photo.png", "grey.png", "clear.png", "palette.png", "turned.jpg", "photo.webp", "small.png"]
TEXTS = ["The cat sat on the mat.", "a dog ran over  the old bridge, and it rained", "cat", "Über 45 Hunde",
         "the green hill and the old stone bridge and the mat and the cat ran on and on over the hill"]


def pictures():
    import numpy as np
    from PIL import Image
    def picture(w, h, seed):
        y, x = np.mgrid[0:h, 0:w].astype(np.float64)
        one = lambda a, b, c: 127.5 + 80 * np.sin(x / a + seed) * np.cos(y / b) + 45 * np.sin((x * y) / c)
        noise = (fill(f"picture{seed}", w * h * 3, 20.0, 0.0)).reshape(h, w, 3)
        return np.clip(np.stack([one(7, 5, 90), one(4, 9, 150), one(11, 3, 60)], -1) + noise, 0, 255).astype(np.uint8)
    rgb = Image.fromarray(picture(67, 45, 1))
    rgb.save(HERE / "photo.png")
    rgb.convert("L").save(HERE / "grey.png")
    clear = picture(41, 58, 2)
    Image.fromarray(np.concatenate([clear, picture(41, 58, 3)[..., :1]], -1)).save(HERE / "clear.png")
    rgb.quantize(40).save(HERE / "palette.png")
    smooth = Image.fromarray(picture(8, 6, 4)).resize((80, 56), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth.save(HERE / "turned.jpg", quality=98, subsampling=0, exif=exif)
    rgb.save(HERE / "photo.webp", lossless=True)
    Image.fromarray(picture(19, 13, 5)).save(HERE / "small.png")


CLIP_TEXT = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=24)
CLIP_SEEN = dict(hidden_size=60, intermediate_size=100, num_hidden_layers=3, num_attention_heads=5)
CASES = {
    "clip": dict(model_type="clip", text=CLIP_TEXT | dict(end="Ġthe"), vision=CLIP_SEEN | dict(image_size=35, patch_size=8, hidden_act="gelu"), projection_dim=28,
        tokenizer="bpe", processor=dict(image_processor_type="CLIPImageProcessor", size={"shortest_edge": 38}, crop_size={"height": 35, "width": 35}, resample=3)),
    # As the first files have it: sizes are numbers, the text's end is the largest token, towers stand in dictionaries.
    "clip_first": dict(model_type="clip", text=CLIP_TEXT | dict(eos_token_id=2, hidden_act="quick_gelu"), vision=CLIP_SEEN | dict(image_size=32, patch_size=16, layer_norm_eps=1e-3),
        projection_dim=20, tokenizer="wordpiece", processor=dict(feature_extractor_type="CLIPFeatureExtractor", size=32, crop_size=32, resample=2, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])),
    "siglip": dict(model_type="siglip", text=dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=20, vocab_size=0),
        vision=dict(hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=3, image_size=30, patch_size=7), tokenizer="unigram", tokens=dict(tokenizer_class="SiglipTokenizer", pad_token="</s>", model_input_names=["input_ids"]),
        processor=dict(image_processor_type="SiglipImageProcessor", size={"height": 30, "width": 30}, resample=2)),
    "siglip2": dict(model_type="siglip", text=dict(hidden_size=40, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=20, vocab_size=0, hidden_act="gelu", projection_size=48),
        vision=dict(hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, image_size=33, patch_size=11, layer_norm_eps=1e-4), tokenizer="bpe", tokens=dict(tokenizer_class="Siglip2Tokenizer", pad_token={"content": "<pad0>"}, model_input_names=["input_ids", "attention_mask"]),
        processor=dict(image_processor_type="SiglipImageProcessorFast", size={"height": 33, "width": 33}, resample=1, image_mean=[0.3, 0.5, 0.6], image_std=[0.5, 0.4, 0.3], do_convert_rgb=None)),
}
# Processors alone: what no model takes, too.
PROCESSORS = [
    ("clip", dict(size={"shortest_edge": 31}, crop_size={"height": 40, "width": 27}, resample=3)),
    ("clip", dict(size={"height": 20, "width": 33}, crop_size={"height": 25, "width": 30}, resample=0)),
    ("clip", dict(size=90, crop_size=77, resample=5, do_normalize=False)),
    ("clip", dict(do_resize=False, crop_size={"height": 51, "width": 72}, rescale_factor=0.01)),
    ("siglip", dict(size={"height": 17, "width": 83}, resample=4)),
    ("siglip", dict(size={"height": 100, "width": 21}, resample=1, do_rescale=False)),
    ("siglip", dict(size={"height": 45, "width": 9}, resample=2, do_normalize=False, do_rescale=False)),
]


def processor(kind, options):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    own = {k: v for k, v in options.items() if k not in ("image_processor_type", "feature_extractor_type")}
    return (CLIPImageProcessorPil if kind == "clip" else SiglipImageProcessorPil)(**own)


def open_picture(name):
    from transformers.image_utils import load_image
    return load_image(str(HERE / name))


def scale_of(name, shape):
    norm = len(shape) == 1 and ("norm" in name or "layrnorm" in name)
    if norm and name.endswith("weight"):
        return 0.4, 1.0
    if name.startswith("logit"):
        return 0.5, 1.0
    if len(shape) == 1:
        return 0.4, 0.0
    if "embedding" in name and "patch" not in name:
        return 1.0, 0.0
    if "probe" in name:
        return 1.5, 0.0
    return 2.2 / math.sqrt(math.prod(shape[1:])), 0.0


def written(name, figures):
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+((?:[^\[\]{}]|\[[^\[\]]*\])*?)\s+\]", lambda m: "[" + re.sub(r"\s*\n\s*", " ", m[1]) + "]", text)
    (HERE / f"{name}.json").write_text(text + "\n")


def make(name):
    import string, torch
    from safetensors import safe_open
    from safetensors.torch import save_file
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModel
    case = CASES[name]
    tok = Tokenizer.from_file(str(HERE.parent / "encoders" / f"{case['tokenizer']}.tokenizer.json"))
    text, kind = dict(case["text"]), case["model_type"]
    text["vocab_size"] = tok.get_vocab_size()
    if "end" in text:
        text["eos_token_id"] = tok.token_to_id(text.pop("end"))
    more = {"projection_dim": case["projection_dim"]} if kind == "clip" else {}
    with tempfile.TemporaryDirectory() as d:
        config = AutoConfig.for_model(kind, text_config=text, vision_config=dict(case["vision"]), **more)
        AutoModel.from_config(config, dtype=torch.float32).save_pretrained(d)
        file = Path(d) / "model.safetensors"
        with safe_open(file, "pt") as f:
            shapes = {k: list(f.get_slice(k).get_shape()) for k in sorted(f.keys())}
        tensors, weights = [], {}
        for k, shape in shapes.items():
            scale, shift = scale_of(k, shape)
            scale = float(torch.tensor(scale, dtype=torch.float32))
            tensors.append([k, shape, scale, shift])
            weights[k] = torch.from_numpy(fill(k, math.prod(shape), scale, shift)).reshape(shape)
        save_file(weights, file, metadata={"format": "pt"})
        model = AutoModel.from_pretrained(d, dtype=torch.float64, attn_implementation="eager").eval()
    # What stands in the file is what was asked for, and no default.
    saved = {"model_type": kind, "text_config": text, "vision_config": dict(case["vision"])} | more
    if name == "clip_first":
        saved["text_config_dict"], saved["vision_config_dict"] = saved["text_config"], saved.pop("vision_config")
        saved["text_config"] = {"hidden_size": 48, "model_type": "clip_text_model"}
    pad, limit = case.get("tokens", {}).get("pad_token"), text["max_position_embeddings"]
    pad = pad["content"] if isinstance(pad, dict) else pad
    masked = "attention_mask" in case.get("tokens", {}).get("model_input_names", [])
    rounded = lambda y: [round(float(x), 6) for x in y / y.norm()]
    texts, images, counts = [], [], []
    with torch.no_grad():
        for t in TEXTS:
            cls = case.get("tokens", {}).get("tokenizer_class", "")
            t = t.lower() if cls.startswith("Siglip") else t
            if cls == "SiglipTokenizer":
                t = re.sub(r"\s+", " ", t.translate(str.maketrans("", "", string.punctuation))).strip()
            ids = tok.encode(t).ids
            ids = ids if len(ids) <= limit else ids[:limit - 1] + ids[-1:]
            counts.append(len(ids))
            own = len(ids)
            if pad:
                ids = ids + [tok.token_to_id(pad)] * (limit - len(ids))
            mask = {"attention_mask": torch.tensor([[int(i < own) for i in range(len(ids))]])} if masked else {}
            texts.append(rounded(model.get_text_features(input_ids=torch.tensor([ids]), **mask).pooler_output[0]))
        see = processor(kind, case["processor"])
        for p in PICTURES:
            pixels = see(images=open_picture(p), return_tensors="pt")["pixel_values"].double()
            images.append(rounded(model.get_image_features(pixel_values=pixels).pooler_output[0]))
    figures = {"config": saved, "tokenizer": case["tokenizer"], "files": {"preprocessor_config.json": case["processor"], "tokenizer_config.json": case.get("tokens", {})},
               "tensors": tensors, "texts": TEXTS, "tokens": counts, "text_vectors": texts, "pictures": PICTURES, "image_vectors": images}
    written(name, figures)
    print(name, counts, texts[0][:3], images[0][:3], images[1][:3])


def processors():
    rows = []
    for kind, options in PROCESSORS:
        see = processor(kind, options)
        for p in PICTURES:
            y = see(images=open_picture(p), return_tensors="np")["pixel_values"][0]
            flat = y.reshape(-1)
            rows.append({"family": kind, "config": options, "picture": p, "shape": list(y.shape), "every": 37, "values": [round(float(x), 6) for x in flat[::37]]})
    written("processors", rows)
    print(len(rows), "rows of processors")


if __name__ == "__main__":
    if not sys.argv[1:]:
        pictures()
    if not sys.argv[1:] or "processors" in sys.argv[1:]:
        processors()
    for name in [a for a in sys.argv[1:] if a != "processors"] or CASES:
        make(name)
