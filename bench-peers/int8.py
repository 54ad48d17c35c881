"""What 8-bit integers would bring: a detector quantised by NNCF, in OpenVINO, beside f32 and bfloat16.

    python int8.py MODEL.onnx SIDE PICTURES [ROUNDS]

MODEL.onnx is one of DEIMv2's, of a square input of SIDE; PICTURES a folder of JPEG files. Every second
picture calibrates (six random parts of each), the others judge: the f32 detections from a score of 0.3
on count as the truth, and mean average precision at an IoU of 0.5 and the mean difference of the scores
are what the project's own bfloat16 is judged by (tools/tests/precision.rs). Times are medians of passes
on one thread, all kinds in turn.

Needs openvino 2026.4.1, nncf 3.4.0, numpy and Pillow.
"""

import statistics
import sys
import time
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
from PIL import Image

TRUTH = 0.3


def tensor(picture, side):
    small = picture.resize((side, side), Image.Resampling.BILINEAR)
    return (np.asarray(small).transpose(2, 0, 1)[None] / 255).astype(np.float32)


def parts(picture, count, generator):
    for _ in range(count):
        scale = generator.uniform(0.5, 1.0)
        width, height = int(picture.width * scale), int(picture.height * scale)
        x = generator.integers(0, picture.width - width + 1)
        y = generator.integers(0, picture.height - height + 1)
        yield picture.crop((x, y, x + width, y + height))


def compiled(core, model, precision):
    config = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
    }
    return core.compile_model(model, "CPU", config)


def feed(model, image, side):
    values = [image, np.array([[side, side]], dtype=np.int64)]
    return dict(zip([one.get_any_name() for one in model.inputs], values))


def detections(model, images, side):
    found = []
    for image in images:
        result = model(feed(model, image, side))
        by_name = {name: value for key, value in result.items() for name in key.get_names()}
        rows = zip(by_name["labels"][0], by_name["boxes"][0], by_name["scores"][0])
        found.append([(int(l), b.tolist(), float(s)) for l, b, s in rows if s >= 0.1])
    return found


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])
    return width * height / (area(a) + area(b) - width * height)


def judge(truth, found):
    """Mean average precision and the mean difference of scores, as tools/tests/precision.rs has them."""
    precisions, differences = [], []
    for label in sorted({d[0] for one in truth for d in one if d[2] >= TRUTH}):
        total = sum(d[0] == label and d[2] >= TRUTH for one in truth for d in one)
        candidates = [(i, d) for i, one in enumerate(found) for d in one if d[0] == label]
        candidates.sort(key=lambda c: -c[1][2])
        taken, right, curve = set(), 0, []
        for rank, (image, one) in enumerate(candidates):
            best = (0.5, None)
            for index, wanted in enumerate(truth[image]):
                if wanted[0] == label and wanted[2] >= TRUTH and (image, index) not in taken:
                    best = max(best, (iou(one[1], wanted[1]), index), key=lambda b: b[0])
            if best[1] is not None:
                taken.add((image, best[1]))
                right += 1
                differences.append(abs(one[2] - truth[image][best[1]][2]))
            curve.append((right / total, right / (rank + 1)))
        area, most, last = 0.0, 0.0, curve[-1][0] if curve else 0.0
        for recall, precision in reversed(curve):
            area += (last - recall) * most
            most, last = max(most, precision), recall
        precisions.append(area + last * most)
    return statistics.mean(precisions), statistics.mean(differences)


def main():
    path, side, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 5
    pictures = [Image.open(one).convert("RGB") for one in sorted(folder.rglob("*.jpg"))]
    generator = np.random.default_rng(0)
    calibration = [
        tensor(part, side) for one in pictures[::2] for part in parts(one, 6, generator)
    ]
    images = [tensor(one, side) for one in pictures[1::2]]
    core = ov.Core()
    model = core.read_model(path)
    shapes = {model.inputs[0].get_any_name(): [1, 3, side, side]}
    if len(model.inputs) > 1:
        shapes[model.inputs[1].get_any_name()] = [1, 2]
    model.reshape(shapes)
    quantised = nncf.quantize(
        model,
        nncf.Dataset(calibration, lambda image: feed(model, image, side)),
        subset_size=len(calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
    )
    kinds = {
        "f32": compiled(core, model, "f32"),
        "bf16": compiled(core, model, "bf16"),
        "int8": compiled(core, quantised, "f32"),
        "int8 and bf16": compiled(core, quantised, "bf16"),
    }
    times = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, one in kinds.items():
            request = one.create_infer_request()
            one_feed = feed(one, images[0], side)
            request.infer(one_feed)
            for _ in range(20):
                start = time.perf_counter()
                request.infer(one_feed)
                times[kind].append(time.perf_counter() - start)
    truth = detections(kinds["f32"], images, side)
    for kind, one in kinds.items():
        line = f"{kind}: {statistics.median(times[kind]) * 1e3:.1f} ms"
        if kind != "f32":
            precision, off = judge(truth, detections(one, images, side))
            line += f", mAP {precision:.4f}, scores differ by {off:.4f} in the mean"
        print(line)


if __name__ == "__main__":
    main()
