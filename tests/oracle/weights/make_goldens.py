"""Goldens of the converter: names and shapes of the tensors in other programs' weights.

    python make_goldens.py RTDETR_SOURCE

RTDETR_SOURCE is `rtdetr_pytorch` in a checkout of the authors' repository (Apache-2.0,
github.com/lyuwenyu/RT-DETR). Each model is built with random weights, as it would be saved, and
its tensors are listed in `tests/goldens/weights/*.txt`: name, tab, dimensions. A batch norm is one
line, its name with `.*` (weight, bias, running_mean, running_var) or `.**` (also
num_batches_tracked). Ultralytics runs as a black box from its package.

Made with Python 3.11, torch 2.15.0, transformers 5.23, ultralytics 8.4.190.
"""

import pathlib
import sys
import tempfile
import unittest.mock

from safetensors import safe_open

GOLDENS = pathlib.Path(__file__).resolve().parents[2] / "goldens" / "weights"
NORM = ["weight", "bias", "running_mean", "running_var"]


def write(name, shapes):
    lines = []
    for key, shape in shapes.items():
        prefix, _, last = key.rpartition(".")
        norm = all(f"{prefix}.{part}" in shapes for part in NORM)
        if norm and last != "weight":
            continue
        if norm:
            counted = f"{prefix}.num_batches_tracked" in shapes
            key = f"{prefix}.{'**' if counted else '*'}"
        lines.append(f"{key}\t{' '.join(map(str, shape))}\n")
    (GOLDENS / f"{name}.txt").write_text("".join(lines))
    print(name, len(shapes), "tensors")


def state_dict(module):
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def huggingface(name, depths, kind, widths, **options):
    from transformers import RTDetrConfig, RTDetrForObjectDetection

    # The sizes of transformers' own conversion script.
    config = RTDetrConfig(num_labels=80, **options)
    config.backbone_config.hidden_sizes = widths
    config.backbone_config.depths = depths
    config.backbone_config.layer_type = kind
    config.encoder_in_channels = widths[1:]
    with tempfile.TemporaryDirectory() as folder:
        RTDetrForObjectDetection(config).save_pretrained(folder)
        with safe_open(f"{folder}/model.safetensors", "pt") as file:
            keys = sorted(file.keys())
            write(name, {key: tuple(file.get_slice(key).get_shape()) for key in keys})


def authors(source):
    sys.path.insert(0, source)
    # Data loading needs an older torchvision and has no part in this.
    for name in ("src.data", "src.data.coco", "src.data.functional"):
        sys.modules[name] = unittest.mock.MagicMock()
    from src.core import YAMLConfig

    for depth in (18, 101):
        config = YAMLConfig(f"{source}/configs/rtdetr/rtdetr_r{depth}vd_6x_coco.yml")
        config.yaml_cfg["PResNet"]["pretrained"] = False
        write(f"rtdetr-r{depth}-authors", state_dict(config.model))


def ultralytics():
    from ultralytics import RTDETR, YOLO

    write("rtdetr-x-ultralytics", state_dict(RTDETR("rtdetr-x.yaml").model))
    write("yolov8n-ultralytics", state_dict(YOLO("yolov8n.yaml").model))


def main():
    GOLDENS.mkdir(parents=True, exist_ok=True)
    basic = {"hidden_expansion": 0.5, "decoder_layers": 3}
    huggingface("rtdetr-r18-huggingface", [2, 2, 2, 2], "basic", [64, 128, 256, 512], **basic)
    wide = [256, 512, 1024, 2048]
    huggingface("rtdetr-r50-huggingface", [3, 4, 6, 3], "bottleneck", wide)
    ultralytics()
    authors(sys.argv[1])


main()
