"""Goldens of tests/camera_motion_opencv.rs: what OpenCV finds on the same pictures.

    python make_goldens.py ../shared

Made with Python 3.11, OpenCV 5.0.0, NumPy 2.4.6. The steps are those of BoT-SORT's `GMC` with
`sparseOptFlow` (github.com/NirAharon/BoT-SORT, MIT): grey, half the size, 1000 corners, pyramidal
Lucas-Kanade, a similarity by RANSAC, the shift doubled. It moves the plane about half a pixel
towards the first one when it doubles; that is corrected here, since the truth is in pixels of the
full frame. `orb` and `ecc` are BoT-SORT's too, the latter with 200 steps instead of 5000.

- `pairs`: consecutive real frames, and the motion between them.
- `views`: a real picture seen after a known motion, and how far OpenCV's motion puts the corners
  from the truth, on average. `view` says how the picture is resampled.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).parent
GOLDENS = HERE.parents[1] / "goldens" / "camera_motion.json"
SEQUENCES = {"MOT17-02": 4, "MOT17-05": 6, "MOT17-09": 4, "MOT17-11": 7}
# First of two consecutive frames, from 0.
VTEST_FRAMES = [0, 30, 60, 90, 120, 150]
VIEW = (960, 540)
# Frame, degrees, scale, shift.
VIEWS = [
    ("MOT17-02", 0.0, 1.0, (0.0, 0.0)),
    ("MOT17-02", 0.0, 1.0, (0.4, -0.7)),
    ("MOT17-02", 1.5, 1.02, (9.0, -6.5)),
    ("MOT17-02", -2.0, 0.97, (-15.0, 3.2)),
    ("MOT17-09", 0.3, 1.0, (2.5, 1.5)),
    ("MOT17-09", -1.0, 1.03, (-8.0, 14.0)),
    ("MOT17-11", 0.7, 0.985, (-3.3, -12.0)),
    ("MOT17-11", 2.0, 1.0, (15.0, 15.0)),
]


def grey_half(image):
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image
    height, width = grey.shape
    return cv2.resize(grey, (width // 2, height // 2))


def full_size(matrix):
    """A 2 × 3 matrix of reduced frames as one in pixels of the full frame."""
    matrix = matrix.astype(float)
    matrix[:, 2] = 2 * matrix[:, 2] + 0.5 * (1 - matrix[:, 0] - matrix[:, 1])
    return matrix


def sparse_flow(before, after):
    cv2.setRNGSeed(0)
    before, after = grey_half(before), grey_half(after)
    corners = cv2.goodFeaturesToTrack(
        before,
        mask=None,
        maxCorners=1000,
        qualityLevel=0.01,
        minDistance=1,
        blockSize=3,
        useHarrisDetector=False,
        k=0.04,
    )
    found, status, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None)
    kept = status.ravel() == 1
    matrix, _ = cv2.estimateAffinePartial2D(corners[kept], found[kept], method=cv2.RANSAC)
    return full_size(matrix)


def orb(before, after):
    cv2.setRNGSeed(0)
    found = []
    for grey in (grey_half(before), grey_half(after)):
        height, width = grey.shape
        mask = np.zeros_like(grey)
        mask[int(0.02 * height):int(0.98 * height), int(0.02 * width):int(0.98 * width)] = 255
        points = cv2.FastFeatureDetector_create(20).detect(grey, mask)
        found.append(cv2.ORB_create().compute(grey, points))
    (points, descriptors), (next_points, next_descriptors) = found
    matches = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(descriptors, next_descriptors, 2)
    kept = [m for m, n in matches if m.distance < 0.9 * n.distance]
    from_points = np.array([points[m.queryIdx].pt for m in kept])
    to_points = np.array([next_points[m.trainIdx].pt for m in kept])
    shift = from_points - to_points
    near = (np.abs(shift) < 0.25 * np.array([width, height])).all(axis=1)
    near &= (shift - shift[near].mean(0) <= 2.5 * shift[near].std(0)).all(axis=1)
    matrix, _ = cv2.estimateAffinePartial2D(from_points[near], to_points[near], method=cv2.RANSAC)
    return full_size(matrix)


def ecc(before, after):
    small = [grey_half(cv2.GaussianBlur(grey, (3, 3), 1.5)) for grey in (before, after)]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 200, 1e-6)
    start = np.eye(2, 3, dtype=np.float32)
    _, matrix = cv2.findTransformECC(*small, start, cv2.MOTION_EUCLIDEAN, criteria, None, 1)
    return full_size(matrix)


def similarity(degrees, scale, shift):
    """About the middle of the view, then the shift."""
    angle = np.radians(degrees)
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    x, y = VIEW[0] / 2, VIEW[1] / 2
    return np.array([
        [a, -b, x - a * x + b * y + shift[0]],
        [b, a, y - b * x - a * y + shift[1]],
    ])


def view(grey, motion):
    """The middle of `grey` after `motion`: Catmull-Rom, halves up."""
    height, width = grey.shape
    left, top = (width - VIEW[0]) // 2, (height - VIEW[1]) // 2
    back = np.linalg.inv(np.vstack([motion, [0, 0, 1]]))
    xs, ys = np.meshgrid(np.arange(VIEW[0], dtype=float), np.arange(VIEW[1], dtype=float))
    x = back[0, 0] * xs + back[0, 1] * ys + back[0, 2] + left
    y = back[1, 0] * xs + back[1, 1] * ys + back[1, 2] + top
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    across, down = weights(x - column), weights(y - row)
    total = np.zeros(VIEW[::-1])
    for j in range(4):
        line = sum(across[i] * grey[row + j - 1, column + i - 1] for i in range(4))
        total += down[j] * line
    return np.clip(np.floor(total + 0.5), 0, 255).astype(np.uint8)


def weights(t):
    return [
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]


def corner_distance(a, b, size):
    corners = np.array([(x, y, 1.0) for x in (0, size[0]) for y in (0, size[1])])
    return float(np.linalg.norm(corners @ (a - b).T, axis=1).mean())


def vtest(shared):
    video = cv2.VideoCapture(str(shared / "data/vtest-pets09-s2l1/vtest.avi"))
    return [video.read()[1] for _ in range(max(VTEST_FRAMES) + 2)]


def main():
    shared = Path(sys.argv[1])
    pairs, views = [], []
    for name, count in SEQUENCES.items():
        folder = shared / "data/mot17" / name / "img1-first"
        frames = [cv2.imread(str(folder / f"{i + 1:06}.jpg")) for i in range(count)]
        for i in range(1, count):
            matrix = sparse_flow(frames[i - 1], frames[i])
            pairs.append({"sequence": name, "frame": i, "rows": matrix.round(7).tolist()})
    frames = vtest(shared)
    for i in VTEST_FRAMES:
        matrix = sparse_flow(frames[i], frames[i + 1])
        pairs.append({"sequence": "vtest", "frame": i + 1, "rows": matrix.round(7).tolist()})
    for name, degrees, scale, shift in VIEWS:
        path = shared / "data/mot17" / name / "img1-first/000001.jpg"
        grey = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2GRAY).astype(float)
        truth = similarity(degrees, scale, shift)
        pictures = view(grey, similarity(0, 1, (0, 0))), view(grey, truth)
        errors = {}
        for method in (sparse_flow, orb, ecc):
            if method is ecc and scale != 1:
                continue  # It knows no scale.
            error = corner_distance(method(*pictures), truth, VIEW)
            errors[method.__name__] = round(error, 5)
        views.append({
            "sequence": name,
            "degrees": degrees,
            "scale": scale,
            "shift": shift,
            "opencv_errors": errors,
        })
        print(name, degrees, scale, shift, "OpenCV errs by", errors, "px")
    lines = [",\n    ".join(map(json.dumps, part)) for part in (pairs, views)]
    GOLDENS.write_text(
        '{\n  "pairs": [\n    %s\n  ],\n  "views": [\n    %s\n  ]\n}\n' % tuple(lines)
    )


if __name__ == "__main__":
    main()
