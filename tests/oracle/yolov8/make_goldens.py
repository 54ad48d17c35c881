"""Goldens of YOLOv8: what Ultralytics gives, run as a black box, with made-up weights.

    OMP_NUM_THREADS=1 python tests/oracle/yolov8/make_goldens.py

Made with ultralytics 8.4.190, torch 2.15.0, numpy 2.4.6 on x86-64. Writes
`tests/goldens/yolov8/outputs.json` (raw outputs at sampled cells, best boxes) and
`tests/goldens/yolov8/tensors.json` (per size: parameters as Ultralytics counts them, and a digest of all
tensors' names and shapes).
"""

import json
import pathlib
import sys

import numpy as np
import torch
from ultralytics import YOLO

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import made_up  # noqa: E402

GOLDENS = HERE.parent.parent / "goldens" / "yolov8"
# (width, height, seed of the made-up image)
IMAGES = [(320, 320, 1), (320, 256, 2)]
BATCH_SEEDS = [3, 4, 5]
SAMPLES = 16
BEST = 8


def numbers(values) -> list:
    return [float(f"{value:.8g}") for value in np.asarray(values, dtype=np.float64).ravel()]


def network(size: str):
    model = YOLO(f"yolov8{size}.yaml", verbose=False).model.eval()
    made_up.fill(model.state_dict())
    return model


def forward(model, images) -> tuple:
    """Boxes [batch, cells, 4] as corners and scores [batch, cells, classes]."""
    pixels = np.stack(images).astype(np.float32) / np.float32(255)
    with torch.no_grad():
        output = model(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())[0]
    output = output.permute(0, 2, 1).double().numpy()
    centre, half = output[..., :2], output[..., 2:4] / 2
    return np.concatenate([centre - half, centre + half], axis=2), output[..., 4:]


def sample(boxes, scores) -> dict:
    """Evenly spread cells, each with its box and a run of its scores, and the best cells."""
    cells, classes = scores.shape
    picked = []
    for index in range(SAMPLES):
        cell = index * (cells - 1) // (SAMPLES - 1)
        first = index * 7 % (classes - 4)
        picked.append(
            {
                "cell": cell,
                "box": numbers(boxes[cell]),
                "first_class": first,
                "scores": numbers(scores[cell, first : first + 4]),
            }
        )
    best = []
    for cell in np.argsort(-scores.max(axis=1), kind="stable")[:BEST]:
        best.append(
            {
                "cell": int(cell),
                "class": int(scores[cell].argmax()),
                "score": numbers(scores[cell].max())[0],
                "box": numbers(boxes[cell]),
            }
        )
    return {
        "cells": cells,
        "mean_box": numbers(boxes.mean(axis=0)),
        "mean_score": numbers(scores.mean())[0],
        "samples": picked,
        "best": best,
    }


def digest(state_dict) -> str:
    """FNV-1a of `name:d0,d1,…` lines, sorted by name, without counters of batches."""
    lines = []
    for name, tensor in state_dict.items():
        if not name.endswith("num_batches_tracked"):
            lines.append(name + ":" + ",".join(str(size) for size in tensor.shape) + "\n")
    return f"{made_up.fnv1a(''.join(sorted(lines))):016x}"


def main() -> None:
    torch.set_num_threads(1)
    model = network("n")
    images = [made_up.made_up_image(*image) for image in IMAGES]
    batch = [made_up.made_up_image(320, 256, seed) for seed in BATCH_SEEDS]
    outputs = {"images": [], "batch": {"width": 320, "height": 256, "seeds": BATCH_SEEDS}}
    for (width, height, seed), image in zip(IMAGES, images):
        boxes, scores = forward(model, [image])
        print(f"{width}x{height}: scores {scores.min():.3g} to {scores.max():.3g}")
        case = {"width": width, "height": height, "seed": seed}
        outputs["images"].append(case | sample(boxes[0], scores[0]))
    boxes, scores = forward(model, batch)
    outputs["batch"]["outputs"] = [sample(b, s) for b, s in zip(boxes, scores)]

    tensors = {}
    for size in "nsmlx":
        model = YOLO(f"yolov8{size}.yaml", verbose=False).model
        state = model.state_dict()
        tensors[f"yolov8{size}"] = {
            "tensors": sum(not name.endswith("num_batches_tracked") for name in state),
            # Weights and biases, without batch norms' statistics: Ultralytics' own count.
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "digest": digest(state),
        }

    GOLDENS.mkdir(parents=True, exist_ok=True)
    for name, content in (("outputs", outputs), ("tensors", tensors)):
        text = json.dumps(content, separators=(",", ":")).replace('{"cell"', '\n{"cell"')
        (GOLDENS / f"{name}.json").write_text(text.replace('},"yolo', '},\n"yolo') + "\n")


if __name__ == "__main__":
    main()
