"""Augments made-up images with torchvision; writes goldens for tests/train_data.rs.

Run from the repository's root: python tests/oracle/train_data.py
Made with torchvision 0.29.2, torch 2.15.0, Pillow 13.0.0, numpy 2.4.6.

Resize, mirror, pad, crop and colours are torchvision's on Pillow images, as the published recipes
use them; erasing is torchvision's with a given rectangle and value.
"""
import json
import pathlib
import sys

import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from made_up import made_up_image

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
EVERY = 997

# Image size, seed, filter, mirrored, left and top of the crop, factors of brightness, contrast and
# saturation, rectangle (left, top, width, height).
CASES = [
    ((64, 128), 1, "bilinear", False, (10, 10), None, None),
    ((64, 128), 2, "bilinear", True, (0, 20), None, (30, 40, 50, 60)),
    ((51, 117), 3, "bicubic", True, (17, 3), (1.15, 0.9, 1.1), None),
    ((140, 301), 4, "bilinear", False, (20, 0), (0.8, 1.2, 0.7), (0, 0, 1, 255)),
    ((33, 90), 5, "bicubic", False, (5, 12), (1.2, 1.2, 1.2), (90, 200, 38, 56)),
]


def augment(size, seed, interpolation, flip, crop, jitter, erase):
    image = Image.fromarray(made_up_image(*size, seed))
    image = F.resize(image, [256, 128], InterpolationMode(interpolation))
    if flip:
        image = F.hflip(image)
    image = F.crop(F.pad(image, 10), crop[1], crop[0], 256, 128)
    if jitter:
        image = F.adjust_brightness(image, jitter[0])
        image = F.adjust_contrast(image, jitter[1])
        image = F.adjust_saturation(image, jitter[2])
    pixels = F.normalize(F.to_tensor(image), MEAN, STD)
    if erase:
        left, top, width, height = erase
        pixels = F.erase(pixels, top, left, height, width, torch.tensor(MEAN).view(3, 1, 1))
    return pixels


cases = []
for case in CASES:
    values = augment(*case).flatten()
    size, seed, interpolation, flip, crop, jitter, erase = case
    cases.append({
        "size": size, "seed": seed, "filter": interpolation, "flip": flip, "crop": crop,
        "jitter": jitter, "erase": erase,
        "sum": round(values.double().sum().item(), 3),
        "every": [round(value, 5) for value in values[::EVERY].tolist()],
    })
versions = {"torchvision": torchvision.__version__, "torch": torch.__version__, "pillow": PIL.__version__}
text = json.dumps({"versions": versions, "every": EVERY, "cases": cases}, separators=(",", ":"))
pathlib.Path("tests/goldens/train").mkdir(exist_ok=True)
pathlib.Path("tests/goldens/train/augment.json").write_text(text + "\n")
print(versions, len(text))
