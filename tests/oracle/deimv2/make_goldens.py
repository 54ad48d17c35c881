"""Goldens of DEIMv2: what the published ONNX files and the authors' PyTorch code compute.

    python make_goldens.py SHARED DEIMV2_SOURCE

SHARED is the shared test material (`../shared` of the repository): its ONNX files of sizes atto
and femto run under onnxruntime. DEIMV2_SOURCE is a checkout of the authors' repository (Apache-2.0,
github.com/Intellindust-AI-Lab/DEIMv2): it runs with made-up weights for all four sizes, as there
are no published ones of pico and n at hand. Writes `tests/goldens/deimv2/*.json`.

Made with Python 3.11, torch 2.15.0, onnxruntime 1.31.1, Pillow, numpy; see `versions` in the files.
"""

import json
import pathlib
import sys
import types

import numpy as np
import onnx
import onnxruntime
import PIL
import torch
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
GOLDENS = HERE.parents[1] / "goldens" / "deimv2"
sys.path.insert(0, str(HERE.parent))
from made_up import fill, made_up_image  # noqa: E402

# The PNG decodes to the same pixels everywhere; JPEG decoders differ by a level here and there.
IMAGES = [
    "reference/rtdetr-l/input-640.png",
    "data/detect-images/ultralytics/bus.jpg",
    "data/detect-images/ultralytics/zidane.jpg",
    "data/detect-images/mmpose/coco/000000000785.jpg",
]
SIDES = {"atto": 320, "femto": 416}
TOP = 40


def rounded(array, digits):
    return [round(float(x), digits) for x in np.asarray(array).reshape(-1)]


def run_onnx(session, pixels, width, height):
    """The best boxes of uint8 `pixels` `[side, side, 3]`, scaled to `width` × `height`."""
    images = pixels.astype(np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    sizes = np.array([[width, height]], dtype=np.int64)
    feed = {"images": images, "orig_target_sizes": sizes}
    labels, boxes, scores = session.run(["labels", "boxes", "scores"], feed)
    return {
        "labels": labels[0, :TOP].tolist(),
        "scores": rounded(scores[0, :TOP], 6),
        "boxes": [rounded(box, 3) for box in boxes[0, :TOP]],
    }


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def recompute_anchors(model, side):
    """Replaces the graph's anchors by those that the authors' code computes.

    The published ones were averaged along with the weights in training, and rounding has moved
    them by up to 2.4e-4 (before the sigmoid), which moves the least certain boxes by 0.1 pixels.
    """
    anchors = []
    for level, stride in enumerate((16, 32)):
        cells = side // stride
        y, x = np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij")
        xy = (np.stack([x, y], -1).astype(np.float32) + np.float32(0.5)) / np.float32(cells)
        wh = np.full_like(xy, 0.05 * 2**level)
        anchors.append(np.concatenate([xy, wh], -1).reshape(1, -1, 4))
    anchors = np.concatenate(anchors, 1)
    anchors = np.log(anchors / (1 - anchors))
    for initializer in model.graph.initializer:
        if list(initializer.dims) == list(anchors.shape):
            published = onnx.numpy_helper.to_array(initializer)
            anchors = np.where(np.isfinite(published), anchors, np.inf).astype(np.float32)
            drift = np.abs(anchors - published)[np.isfinite(published)].max()
            assert drift < 3e-4, drift
            initializer.CopyFrom(onnx.numpy_helper.from_array(anchors, initializer.name))
            return
    raise AssertionError("the graph has no anchors")


def onnx_goldens(shared, size):
    path = shared / "weights" / "deimv2" / f"deimv2_hgnetv2_{size}_coco.onnx"
    model = onnx.load(str(path))
    published = session_of(model)
    side = SIDES[size]
    recompute_anchors(model, side)
    recomputed = session_of(model)
    cases = []
    for image in IMAGES:
        rgb = Image.open(shared / image).convert("RGB")
        pixels = np.asarray(rgb.resize((side, side), Image.BILINEAR))
        case = {"image": image, "anchors": "published", "width": rgb.width, "height": rgb.height}
        cases.append(case | run_onnx(published, pixels, rgb.width, rgb.height))
        if image.endswith(".png"):
            case["anchors"] = "recomputed"
            cases.append(case | run_onnx(recomputed, pixels, rgb.width, rgb.height))
    # Pixels that need no resizing: the network alone.
    made = made_up_image(side, side, 3)
    case = {"made_up_seed": 3, "anchors": "recomputed", "width": side, "height": side}
    cases.append(case | run_onnx(recomputed, made, side, side))
    return {"onnx": path.name, "cases": cases}


def import_source(source):
    """The authors' modules without their package's start, which wants training's dependencies."""
    for name in ("engine", "engine.backbone", "engine.deim"):
        module = types.ModuleType(name)
        module.__path__ = [str(source / name.replace(".", "/"))]
        sys.modules[name] = module
    core = types.ModuleType("engine.core")
    core.register = lambda *_, **__: lambda cls: cls
    sys.modules["engine.core"] = core
    from engine.backbone.hgnetv2 import HGNetv2
    from engine.deim.deim_decoder import DEIMTransformer
    from engine.deim.hybrid_encoder import HybridEncoder
    from engine.deim.lite_encoder import LiteEncoder

    return HGNetv2, LiteEncoder, HybridEncoder, DEIMTransformer


# The values of configs/deimv2/deimv2_hgnetv2_{size}_coco.yml over configs/base/deimv2.yml.
LITE = {
    "atto": dict(name="Atto", inputs=256, hidden=64, queries=100, feed_forward=160),
    "femto": dict(name="Femto", inputs=512, hidden=96, queries=150, feed_forward=256),
    "pico": dict(name="Pico", inputs=512, hidden=112, queries=200, feed_forward=320),
}
# Height and width; not square, so that exchanged axes show.
EVAL_SIZE = (256, 384)


def build(source_classes, size):
    HGNetv2, LiteEncoder, HybridEncoder, DEIMTransformer = source_classes
    backbone = dict(use_lab=True, freeze_at=-1, freeze_norm=False, pretrained=False)
    encoder = dict(expansion=0.34, depth_mult=0.5, act="silu", eval_spatial_size=EVAL_SIZE)
    decoder = dict(
        feat_strides=[16, 32],
        num_levels=2,
        num_layers=3,
        eval_idx=-1,
        reg_max=32,
        reg_scale=4.0,
        layer_scale=1,
        activation="silu",
        mlp_act="silu",
        eval_spatial_size=EVAL_SIZE,
    )
    if size == "n":
        parts = [
            HGNetv2(name="B0", return_idx=[2, 3], **backbone),
            HybridEncoder(
                in_channels=[512, 1024], feat_strides=[16, 32], hidden_dim=128,
                use_encoder_idx=[1], num_encoder_layers=1, nhead=8, dim_feedforward=512,
                enc_act="gelu", version="dfine", csp_type="csp2", fuse_op="sum", **encoder,
            ),
            DEIMTransformer(
                feat_channels=[128, 128], hidden_dim=128, num_points=[6, 6], num_queries=300,
                dim_feedforward=512, **decoder,
            ),
        ]
    else:
        s = LITE[size]
        parts = [
            HGNetv2(name=s["name"], return_idx=[2], **backbone),
            LiteEncoder(in_channels=[s["inputs"]], feat_strides=[16], hidden_dim=s["hidden"], **encoder),
            DEIMTransformer(
                feat_channels=[s["hidden"]] * 2, hidden_dim=s["hidden"], num_points=[4, 2],
                num_queries=s["queries"], dim_feedforward=s["feed_forward"],
                share_bbox_head=True, use_gateway=False, **decoder,
            ),
        ]
    return torch.nn.ModuleDict(dict(zip(["backbone", "encoder", "decoder"], parts))).eval()


def seed_name(size):
    """Names that seed the made-up weights: one a parameter, however many names it has."""

    def rename(name):
        if name.startswith("decoder.decoder.") and name.rsplit(".")[-1] in ("up", "reg_scale"):
            return name.removeprefix("decoder.")
        for index in (1, 2):
            if size != "n" and name.startswith(f"decoder.dec_bbox_head.{index}."):
                return name.replace(f"head.{index}.", "head.0.")
        if name.endswith(("anchors", "valid_mask", "num_points_scale")):
            return None
        return name

    return rename


def samples(tensor, count=24):
    """Evenly spread numbers of a tensor, and its mean magnitude."""
    flat = tensor.detach().reshape(-1)
    # Odd, so that every coordinate of a box is met.
    step = max(1, flat.numel() // count) | 1
    return {
        "shape": list(tensor.shape),
        "mean_abs": round(float(flat.abs().mean()), 6),
        "step": step,
        "values": rounded(flat[::step][:count], 6),
    }


def source_goldens(source_classes, size):
    network = build(source_classes, size)
    fill(network.state_dict(), seed_name(size))
    height, width = EVAL_SIZE
    pixels = np.stack([made_up_image(width, height, seed) for seed in (1, 2)])
    images = torch.from_numpy(pixels.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255))
    with torch.no_grad():
        backbone = network["backbone"](images)
        encoder = network["encoder"](list(backbone))
        decoder = network["decoder"]
        memory, _ = decoder._get_encoder_input(encoder)
        scores = decoder.enc_score_head(decoder.valid_mask.float() * memory).max(-1).values
        output = decoder(encoder)
    # Near ties make the queries' order a matter of rounding: they are compared by cell.
    queries = decoder.num_queries
    cells = scores.topk(queries).indices.argsort(-1)[..., None]
    logits = output["pred_logits"]
    logits = logits.gather(1, cells.expand_as(logits))
    boxes = output["pred_boxes"]
    boxes = boxes.gather(1, cells.expand_as(boxes))
    ranked = scores.sort(-1, descending=True).values
    margin = (ranked[:, queries - 1] - ranked[:, queries]).min().item()
    assert margin > 2e-5, f"{size}: which cells are chosen hangs on rounding ({margin})"
    return {
        "height": height,
        "width": width,
        "made_up_seeds": [1, 2],
        "backbone": [samples(x) for x in backbone],
        "encoder": [samples(x) for x in encoder],
        "encoder_scores": samples(scores),
        "logits": samples(logits, 60),
        "boxes": samples(boxes, 60),
    }


def write(name, golden):
    golden["versions"] = {
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "pillow": PIL.__version__,
        "numpy": np.__version__,
    }
    GOLDENS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(golden, separators=(",", ":"))
    # A line a case keeps the files readable in a diff.
    text = text.replace('{"image"', '\n{"image"').replace('{"made_up_seed"', '\n{"made_up_seed"')
    text = text.replace('{"shape"', '\n{"shape"')
    (GOLDENS / name).write_text(text + "\n")


def main():
    torch.set_num_threads(1)
    shared, source = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    for size in SIDES:
        write(f"{size}-onnx.json", onnx_goldens(shared, size))
    source_classes = import_source(source)
    for size in ("atto", "femto", "pico", "n"):
        write(f"{size}-made-up.json", source_goldens(source_classes, size))


if __name__ == "__main__":
    main()
