"""Goldens of RT-DETR with made-up weights: Hugging Face's for the ResNet-vd backbones,
Ultralytics' (run as a black box) for HGNetv2.

    OMP_NUM_THREADS=2 python tests/oracle/rtdetr/make_goldens.py

Made with transformers 5.23.0, ultralytics 8.4.190, torch 2.15.0, numpy 2.4.6 on x86-64, in double
precision, so that the numbers are free of the oracle's rounding. Writes one file a case to
`tests/goldens/rtdetr/`, and `tensors.json`: per architecture the number of tensors, of parameters
(without batch norms' statistics), and a digest of names and shapes.

A case's `gap` is how far the last chosen query's score is above the first one that was not chosen
(before the sigmoid); image seeds are such that it is wide. `f32` says how far the oracle's own
single precision is off: of the best class of each query and of its box, at most.
"""

import json
import pathlib
import sys

import numpy as np
import torch

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import made_up  # noqa: E402
import names  # noqa: E402

GOLDENS = HERE.parent.parent / "goldens" / "rtdetr"
QUERIES = 300
CLASSES = 80
# architecture, (width, height) and seed of the made-up image
CASES = [
    ("rtdetr-r18", (320, 320), 2),
    ("rtdetr-r18", (320, 256), 5),
    ("rtdetr-r18", (640, 640), 6),
    ("rtdetr-r50", (320, 320), 4),
    ("rtdetr-x", (320, 320), 5),
    ("rtdetr-x", (640, 640), 2),
]
RESNETS = {
    "rtdetr-r18": {"layers": 3, "depths": [2, 2, 2, 2], "basic": True},
    "rtdetr-r34": {"layers": 4, "depths": [3, 4, 6, 3], "basic": True},
    "rtdetr-r50": {"layers": 6, "depths": [3, 4, 6, 3], "basic": False},
    "rtdetr-r101": {"layers": 6, "depths": [3, 4, 23, 3], "basic": False},
}


def hugging_face(architecture: str):
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    size = RESNETS[architecture]
    sizes = [64, 128, 256, 512] if size["basic"] else [256, 512, 1024, 2048]
    large = architecture == "rtdetr-r101"
    hidden = 384 if large else 256
    backbone = RTDetrResNetConfig(
        depths=size["depths"],
        hidden_sizes=sizes,
        layer_type="basic" if size["basic"] else "bottleneck",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=sizes[1:],
        encoder_hidden_dim=hidden,
        encoder_ffn_dim=2048 if large else 1024,
        decoder_in_channels=[hidden] * 3,
        hidden_expansion=0.5 if size["basic"] else 1.0,
        decoder_layers=size["layers"],
        num_labels=CLASSES,
        anchor_image_size=None,
    )
    return RTDetrForObjectDetection(config).eval()


def ultralytics(architecture: str):
    from ultralytics import RTDETR

    return RTDETR(f"{architecture}.yaml").model.eval()


def build(architecture: str):
    """The network, and from its tensors' names to canonical ones."""
    if architecture in RESNETS:
        return hugging_face(architecture), names.from_hugging_face
    places = names.ultralytics_places(architecture)
    return ultralytics(architecture), lambda name: names.from_ultralytics(name, places)


def own_tensors(model):
    """Tensors by name, without copies that share a head's memory and without counters."""
    seen = set()
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked") or name.split(".")[-1] in ("anchors", "valid_mask"):
            continue
        # Some versions list a head a second time under another name.
        if name.startswith(("class_embed.", "bbox_embed.")) and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        yield name, tensor


def fill(model, rename) -> dict:
    """Gives the model its made-up weights; the canonical names with their shapes."""
    shapes = {}
    for name, tensor in own_tensors(model):
        mapped = rename(name)
        if mapped is None:
            continue
        canonical, part = mapped
        shape = tuple(tensor.shape)
        if part is not None:
            shape = (3 * shape[0],) + shape[1:]
        shapes[canonical] = shape
        values = made_up.made_up(canonical, shape)
        if part is not None:
            values = np.split(values, 3)[part]
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(values))
    return shapes


def run_hugging_face(model, pixels) -> dict:
    kept = {}
    hooks = [
        model.model.backbone.register_forward_hook(lambda m, i, o: kept.update(backbone=o)),
        model.model.encoder.register_forward_hook(lambda m, i, o: kept.update(encoder=o)),
    ]
    output = model(pixels)
    for hook in hooks:
        hook.remove()
    levels = kept["backbone"]
    levels = getattr(levels, "feature_maps", levels)
    encoder = getattr(kept["encoder"], "last_hidden_state", kept["encoder"])
    return {
        "backbone": [x[0] if isinstance(x, (tuple, list)) else x for x in levels],
        "encoder": list(encoder),
        "cell_scores": output.enc_outputs_class.max(-1).values[0],
        "logits": output.logits[0],
        "boxes": output.pred_boxes[0],
    }


def run_ultralytics(model, pixels, places) -> dict:
    kept = {}

    def keep(key):
        return lambda module, inputs, output: kept.__setitem__(key, output)

    numbers = {place: number for number, place in places.items()}
    decoder = model.model[-1]
    layers = len(decoder.dec_score_head)
    hooks = [decoder.enc_score_head.register_forward_hook(keep("cells"))]
    hooks.append(decoder.dec_score_head[layers - 1].register_forward_hook(keep("logits")))
    outputs = ["encoder.fpn_blocks.1", "encoder.pan_blocks.0", "encoder.pan_blocks.1"]
    for place in outputs:
        hooks.append(model.model[numbers[place]].register_forward_hook(keep(place)))
    levels = []
    for stage in (1, 2, 3):
        blocks = [p for p in numbers if p.startswith(f"backbone.stages.{stage}.blocks.")]
        levels.append(f"stage{stage}")
        hooks.append(model.model[numbers[blocks[-1]]].register_forward_hook(keep(levels[-1])))
    output = model(pixels)
    for hook in hooks:
        hook.remove()
    # Beside the detections, sorted by score, stand the raw outputs, in the order of the queries.
    boxes = output[1][0][-1]
    return {
        "backbone": [kept[level] for level in levels],
        "encoder": [kept[place] for place in outputs],
        "cell_scores": kept["cells"].max(-1).values[0],
        "logits": kept["logits"][0],
        "boxes": boxes[0],
    }


def run(architecture: str, model, size, seed: int, double: bool) -> dict:
    pixels = made_up.made_up_image(*size, seed)
    pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    pixels = pixels.to(torch.float64 if double else torch.float32) / 255
    with torch.no_grad():
        if architecture in RESNETS:
            return run_hugging_face(model, pixels)
        return run_ultralytics(model, pixels, names.ultralytics_places(architecture))


def numbers(values, digits: int = 7) -> list:
    return [float(f"{value:.{digits}g}") for value in np.asarray(values, dtype=np.float64).ravel()]


def level_summary(level) -> dict:
    """Root mean square, and 16 evenly spread numbers of the level in row-major order."""
    values = level[0].double().numpy().ravel()
    picked = [index * (values.size - 1) // 15 for index in range(16)]
    return {
        "shape": list(level.shape[1:]),
        "rms": numbers(np.sqrt(np.mean(values**2)))[0],
        "values": numbers(values[picked]),
    }


def chosen(result: dict):
    """Cells in the order of the queries, and the gap to the first that is none."""
    scores = result["cell_scores"].double().numpy()
    order = np.argsort(-scores, kind="stable")
    gap = 0.0
    if scores.size > QUERIES:
        gap = scores[order[QUERIES - 1]] - scores[order[QUERIES]]
    return order[:QUERIES], float(gap)


def rounding(double: dict, single: dict) -> list:
    """Differences of matching queries: of the best class's logit and of the box, at most."""
    cells, single_cells = (list(chosen(result)[0]) for result in (double, single))
    common = [cell for cell in cells if cell in set(single_cells)]
    if len(common) < QUERIES:
        print("  queries that differ in single precision:", QUERIES - len(common))
    rows = [cells.index(cell) for cell in common]
    single_rows = [single_cells.index(cell) for cell in common]
    best = (result["logits"].double().numpy().max(-1) for result in (double, single))
    best, single_best = best
    boxes, single_boxes = (result["boxes"].double().numpy() for result in (double, single))
    return [
        float(np.abs(best[rows] - single_best[single_rows]).max()),
        float(np.abs(boxes[rows] - single_boxes[single_rows]).max()),
    ]


def case(architecture: str, size, seed: int, double: dict, single: dict) -> dict:
    cells, gap = chosen(double)
    scores = double["cell_scores"].double().numpy()
    logits = double["logits"].double().numpy()
    boxes = double["boxes"].double().numpy()
    best = np.argsort(-logits.max(-1), kind="stable")
    rows = sorted(set(best[:8].tolist()) | set(range(0, QUERIES, 12)))
    return {
        "architecture": architecture,
        "width": size[0],
        "height": size[1],
        "seed": seed,
        "gap": numbers(gap, 3)[0],
        "f32": numbers(rounding(double, single), 3),
        "backbone": [level_summary(level) for level in double["backbone"]],
        "encoder": [level_summary(level) for level in double["encoder"]],
        "cells": cells.tolist(),
        "cell_scores": numbers(scores[cells][::20]),
        "mean_box": numbers(boxes.mean(0)),
        "mean_logit": numbers(logits.mean())[0],
        "queries": [
            {
                "cell": int(cells[row]),
                "class": int(logits[row].argmax()),
                "logit": numbers(logits[row].max())[0],
                "logits": numbers(logits[row, ::20]),
                "box": numbers(boxes[row]),
            }
            for row in rows
        ],
    }


def digest(shapes: dict) -> str:
    """FNV-1a of `name:d0,d1,…` lines, sorted by name."""
    lines = [f"{name}:{','.join(map(str, shape))}\n" for name, shape in shapes.items()]
    return f"{made_up.fnv1a(''.join(sorted(lines))):016x}"


def write(name: str, content: dict) -> None:
    text = json.dumps(content, separators=(",", ":"))
    for start in ('{"cell"', '{"shape"', '"cells"', '"rtdetr-'):
        text = text.replace(start, "\n" + start)
    (GOLDENS / f"{name}.json").write_text(text + "\n")


def main() -> None:
    GOLDENS.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for architecture in [*RESNETS, "rtdetr-l", "rtdetr-x"]:
        model, rename = build(architecture)
        shapes = fill(model, rename)
        learnt = (name for name in shapes if ".running_" not in name)
        tensors[architecture] = {
            "tensors": len(shapes),
            "parameters": int(sum(np.prod(shapes[name]) for name in learnt)),
            "digest": digest(shapes),
        }
        cases = [case for case in CASES if case[0] == architecture]
        singles = [run(*c[:1], model, *c[1:], double=False) for c in cases]
        model = model.double()
        for (_, size, seed), single in zip(cases, singles):
            double = run(architecture, model, size, seed, double=True)
            content = case(architecture, size, seed, double, single)
            write(f"{architecture}-{size[0]}x{size[1]}", content)
            print(architecture, size, "gap", content["gap"], "f32", content["f32"], flush=True)
    write("tensors", tensors)


if __name__ == "__main__":
    main()
