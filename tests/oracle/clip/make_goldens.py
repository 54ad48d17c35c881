"""Goldens of CLIP-ReID's vision transformer: the reference's own code with made-up weights.

    OMP_NUM_THREADS=1 python tests/oracle/clip/make_goldens.py CLIP_REID

CLIP_REID is a checkout of CLIP-ReID (MIT, commit eb1898b), whose tokenizer and `timm` are not
needed and stand empty. Made with torch 2.15.0, transformers 5.23.0, numpy 2.4.6 on x86-64, in
double precision.

- `outputs.json`: vectors of made-up images: every eighth number, the length, and how far the
  reference's own single precision is off, relative to the root mean square; also class tokens of a
  small transformer that overlaps its patches and knows cameras.
- `positions.json`: a made-up position embedding as CLIP-ReID resamples it.
- `tests/goldens/weights/clip-*.txt`: tensors of CLIP-ReID's checkpoints (Market-1501: 751
  identities; MSMT17: 15 cameras, overlapping patches), of OpenAI's CLIP and of transformers'.
"""

import json
import pathlib
import sys
import types
import unittest.mock

import numpy as np
import torch
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import made_up  # noqa: E402

GOLDENS = HERE.parent.parent / "goldens"
STEP = 8


def import_reference(checkout: str):
    # Before there is a timm that is none: transformers looks for it.
    from transformers import CLIPModel  # noqa: F401

    sys.path.insert(0, checkout)
    for name in ("timm", "timm.models", "timm.models.layers", "model.clip.simple_tokenizer", "ftfy"):
        sys.modules[name] = unittest.mock.MagicMock()
    from model import make_model_clipreid
    from model.clip import model as clip

    return make_model_clipreid, clip


def encoder(clip, variant: dict, sizes: dict):
    rows, columns = (
        (size - sizes["patch"]) // variant["stride"] + 1 for size in sizes["image"]
    )
    return clip.VisionTransformer(
        h_resolution=rows, w_resolution=columns, patch_size=sizes["patch"],
        stride_size=variant["stride"], width=sizes["width"], layers=sizes["layers"],
        heads=sizes["heads"], output_dim=sizes["projection"],
    )


def network(reference, clip, variant: dict, sizes: dict):
    """The reference's `build_transformer` without what evaluation does not touch."""
    model = reference.build_transformer.__new__(reference.build_transformer)
    nn.Module.__init__(model)
    model.model_name = "ViT-B-16"
    model.neck_feat = variant["neck"]
    model.sie_coe = variant["camera_weight"]
    model.bottleneck = nn.BatchNorm1d(sizes["width"])
    model.bottleneck_proj = nn.BatchNorm1d(sizes["projection"])
    model.image_encoder = encoder(clip, variant, sizes)
    if variant["cameras"]:
        model.cv_embed = nn.Parameter(torch.zeros(variant["cameras"], sizes["width"]))
    made_up.fill(model.state_dict())
    return model.eval()


BASE = dict(image=[256, 128], patch=16, width=768, layers=12, heads=12, projection=512)
# The reference takes the output of the eleventh layer and the twelfth's apart.
SMALL = dict(image=[64, 32], patch=16, width=32, layers=12, heads=4, projection=16)


def variant(stride=16, feature="proj", neck="before", cameras=0, camera_weight=3.0):
    return dict(
        stride=stride, feature=feature, neck=neck, cameras=cameras, camera_weight=camera_weight
    )


# Name, variant, sizes, (seed, camera) of the images.
CASES = [
    ("base", variant(feature="full"), BASE, [(4, None)]),
    ("base-proj", variant(), BASE, [(5, None)]),
    ("base-cameras", variant(feature="full", cameras=6), BASE, [(4, 2)]),
    ("small", variant(feature="full", neck="after"), SMALL, [(4, None), (5, None)]),
    ("small-overlap", variant(12, "full", "after", 15, 1.0), SMALL, [(4, 14), (5, 0)]),
    ("small-overlap-proj", variant(12, "proj", "after", 15, 1.0), SMALL, [(6, None)]),
]


def run(model, case, double: bool) -> np.ndarray:
    _, settings, sizes, images = case
    height, width = sizes["image"]
    dtype = torch.float64 if double else torch.float32
    rows = []
    for seed, camera in images:
        pixels = torch.from_numpy(made_up.made_up_image(width, height, seed)).permute(2, 0, 1)[None]
        label = None if camera is None else torch.tensor([camera])
        with torch.no_grad():
            row = model((pixels.to(dtype) / 255 - 0.5) / 0.5, cam_label=label)[0]
        rows.append(row.double().numpy())
    rows = np.stack(rows)
    return rows[:, sizes["width"]:] if settings["feature"] == "proj" else rows


def numbers(values, digits: int = 7) -> list:
    return [float(f"{value:.{digits}g}") for value in np.asarray(values).ravel()]


def outputs(reference, clip) -> list:
    cases = []
    for case in CASES:
        name, settings, sizes, images = case
        # double() also turns the norms' casts to single precision; put them back.
        model = network(reference, clip, settings, sizes)
        single = run(model, case, double=False)
        with unittest.mock.patch.object(clip.LayerNorm, "forward", nn.LayerNorm.forward):
            double = run(model.double(), case, double=True)
        rms = np.sqrt((double**2).mean())
        step = STEP if sizes is BASE else 1
        cases.append({
            "name": name,
            "variant": settings,
            "sizes": sizes,
            "step": step,
            "f32": numbers(np.abs(single - double).max() / rms, 3)[0],
            "images": [
                {
                    "seed": seed,
                    "camera": camera,
                    "length": numbers(np.linalg.norm(row))[0],
                    "values": numbers(row[::step]),
                }
                for (seed, camera), row in zip(images, double)
            ],
        })
        print(name, "rms", rms, "f32", cases[-1]["f32"], flush=True)
    return cases


def positions(clip) -> list:
    cases = []
    # Columns 3 stand for all: each is resampled by itself.
    for rows, columns in [(16, 8), (21, 10)]:
        old = torch.from_numpy(made_up.made_up("positional_embedding", (197, 3))).double()
        new = torch.zeros(1 + rows * columns, 3)
        resized = clip.resize_pos_embed(old, new, rows, columns)
        cases.append({"rows": rows, "columns": columns, "values": numbers(resized)})
    return cases


def write_list(name: str, shapes: dict) -> None:
    """One line a tensor; `.**` stands for the tensors of a batch norm."""
    lines = []
    for key, shape in shapes.items():
        module, _, last = key.rpartition(".")
        if f"{module}.running_mean" in shapes:
            if last == "weight":
                lines.append(f"{module}.**\t{shape[0]}\n")
            continue
        lines.append(f"{key}\t{' '.join(map(str, shape))}\n")
    (GOLDENS / "weights" / f"{name}.txt").write_text("".join(lines))
    print(name, len(shapes), "tensors")


def shapes_of(module) -> dict:
    return {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}


def openai(clip, size: int = 14):
    with torch.device("meta"), unittest.mock.patch.object(clip.CLIP, "initialize_parameters"):
        return clip.CLIP(
            512, size * 16, 12, 768, 16, 16, 77, 49408, 512, 8, 12, size, size
        )


def checkpoint(reference, clip, classes: int, settings: dict) -> dict:
    """What CLIP-ReID saves after its second stage."""
    whole = openai(clip)
    model = network(reference, clip, settings, BASE)
    model.classifier = nn.Linear(768, classes, bias=False)
    model.classifier_proj = nn.Linear(512, classes, bias=False)
    prompts = nn.Module()
    prompts.cls_ctx = nn.Parameter(torch.empty(classes, 4, 512, device="meta"))
    prompts.register_buffer("token_prefix", torch.empty(1, 5, 512, device="meta"))
    prompts.register_buffer("token_suffix", torch.empty(1, 68, 512, device="meta"))
    model.prompt_learner = prompts
    with unittest.mock.patch.object(clip.CLIP, "dtype", torch.float32):
        model.text_encoder = reference.TextEncoder(whole)
    return shapes_of(model)


def lists(reference, clip) -> None:
    write_list("clip-reid-market1501", checkpoint(reference, clip, 751, variant()))
    settings = variant(12, cameras=15, camera_weight=1.0)
    write_list("clip-reid-msmt17-overlap", checkpoint(reference, clip, 1041, settings))
    write_list("clip-openai", shapes_of(openai(clip)))
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        vision_config=dict(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            image_size=224, patch_size=16,
        ),
        projection_dim=512,
    )
    with torch.device("meta"):
        shapes = shapes_of(CLIPModel(config))
    # Files of older versions also hold the buffers that count positions.
    for part, count in [("text_model", 77), ("vision_model", 197)]:
        shapes[f"{part}.embeddings.position_ids"] = (1, count)
    write_list("clip-huggingface", shapes)


def write(name: str, content: list) -> None:
    text = json.dumps(content, separators=(",", ":"))
    for start in ('{"name"', '{"rows"'):
        text = text.replace(start, "\n" + start)
    (GOLDENS / "clip" / name).write_text(text + "\n")


def main() -> None:
    reference, clip = import_reference(sys.argv[1])
    (GOLDENS / "clip").mkdir(parents=True, exist_ok=True)
    write("positions.json", positions(clip))
    lists(reference, clip)
    write("outputs.json", outputs(reference, clip))


if __name__ == "__main__":
    main()
