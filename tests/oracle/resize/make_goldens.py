"""Resizes a made-up image with OpenCV and Pillow; writes goldens for models/tests/resize.rs.

Run from the repository's root: python tests/oracle/resize/make_goldens.py
Made with opencv-python 5.0.0.93, Pillow 13.0.0, numpy 2.4.6 on x86-64 with AVX-512.
"""
import json

import cv2
import numpy as np
from PIL import Image


def picture(width, height):
    """The formula stands again in models/tests/resize.rs."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((x * 7 + y * 13 + c * 29 + (x * y) % 31 * (c + 1) + x * x // 5) % 256).astype(np.uint8)


cases = []
sizes = [(37, 23), (64, 48), (101, 7)]
pairs = [(size, target) for size in sizes for target in [(16, 12), (20, 11), (53, 41), (37, 46), (8, 23)]]
# Pillow 13 begins with the rows if more than twice as many of them go away as columns: so in the
# first two, no longer in the last.
pairs += [((13, 90), (16, 12)), ((40, 43), (39, 40)), ((40, 43), (39, 41))]
for source, target in pairs:
    image = picture(*source)
    cases.append({
        "source": source,
        "target": target,
        "opencv": cv2.resize(image, target, interpolation=cv2.INTER_LINEAR).flatten().tolist(),
        "pil_bilinear": np.asarray(Image.fromarray(image).resize(target, Image.BILINEAR)).flatten().tolist(),
        "pil_bicubic": np.asarray(Image.fromarray(image).resize(target, Image.BICUBIC)).flatten().tolist(),
    })
for case in cases:  # the larger ones by their sum and every 7th value, to stay small
    for key in ("opencv", "pil_bilinear", "pil_bicubic"):
        case[key] = {"sum": sum(case[key]), "every_7th": case[key][::7]}
with open("tests/goldens/resize.json", "w") as file:
    json.dump({"opencv": cv2.__version__, "cases": cases}, file, separators=(",", ":"))
