"""Goldens of tests/homography_opencv.rs: what OpenCV's findHomography finds on made-up cameras.

    python make_goldens.py

Made with Python 3.11, OpenCV 5.0.0, NumPy 2.4.6.

OpenCV minimises distances on the side that it maps to, and its RANSAC threshold is a distance there
too. Here both are in the picture, so OpenCV is asked for the homography from map to picture. It
rounds coordinates to single precision before anything else; so they are rounded here, and both get
the same numbers.

- `clean`: exact points. OpenCV's matrix by least squares of all points (method 0).
- `noisy`: points with noise of a standard deviation of `sigma` pixels, no outliers; method 0.
- `outliers`: such points, of which some are anywhere; RANSAC with a threshold of 5 pixels.

`opencv_error` is the mean distance in the picture, in pixels, between where OpenCV's and where the
true homography put the places of a 9×9 grid over the points' part of the map. `truth` is that
homography, map to picture.
"""

import json
from pathlib import Path

import cv2
import numpy as np

GOLDENS = Path(__file__).parents[2] / "goldens" / "homography.json"
THRESHOLD = 5.0
SIZE = (1920, 1080)


def camera(rng):
    """Map to picture, of a camera that looks down on a floor of 20×15 m."""
    focal = rng.uniform(900, 2000)
    height, tilt, pan = rng.uniform(2.5, 9), rng.uniform(15, 55), rng.uniform(-180, 180)
    tilt, pan = np.radians([tilt, pan])
    # Camera axes in the world: right, down, forward.
    forward = np.array([np.cos(pan) * np.cos(tilt), np.sin(pan) * np.cos(tilt), -np.sin(tilt)])
    right = np.array([np.sin(pan), -np.cos(pan), 0.0])
    rotation = np.array([right, np.cross(forward, right), forward])
    centre = np.array([*rng.uniform(0, 20, 2), height])
    inner = np.array([[focal, 0, SIZE[0] / 2], [0, focal, SIZE[1] / 2], [0, 0, 1]])
    projection = inner @ np.c_[rotation, -rotation @ centre]
    matrix = projection[:, [0, 1, 3]]
    return matrix / np.abs(matrix).max()


def places(rng, matrix, count):
    """Map points whose image is well within the picture."""
    seen = np.c_[rng.uniform(60, SIZE[0] - 60, 4000), rng.uniform(60, SIZE[1] - 60, 4000)]
    back = np.c_[seen, np.ones(len(seen))] @ np.linalg.inv(matrix).T
    depth = back[:, 2]
    # Floor in front of the camera has a positive third coordinate there, up to a common sign.
    lower = np.array([SIZE[0] / 2, SIZE[1], 1.0]) @ np.linalg.inv(matrix).T
    ground = back[:, :2] / depth[:, None]
    near = lower[:2] / lower[2]
    fine = (np.sign(depth) == np.sign(lower[2])) & (np.linalg.norm(ground - near, axis=1) < 25)
    return np.round(ground[fine][:count], 3)


def apply(matrix, points):
    mapped = np.c_[points, np.ones(len(points))] @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def single(points):
    return points.astype(np.float32).astype(np.float64)


def grid(points):
    low, high = points.min(0), points.max(0)
    xs, ys = (np.linspace(a, b, 9) for a, b in zip(low, high))
    return np.array([(x, y) for x in xs for y in ys])


def error(found, truth, points):
    # Corners of the points' bounding box may be behind the camera; the places themselves are not.
    where = np.r_[points, grid(points)]
    depth = np.c_[where, np.ones(len(where))] @ truth[2]
    where = where[np.sign(depth) == np.sign(depth[0])]
    return float(np.linalg.norm(apply(found, where) - apply(truth, where), axis=1).mean())


def case(image, ground, truth, found, **more):
    return {
        "pairs": np.c_[image, ground].tolist(),
        "truth": (truth / np.linalg.norm(truth)).tolist(),
        "opencv": (found / found[2, 2]).tolist(),
        "opencv_error": error(found, truth, ground),
        **more,
    }


def main():
    rng = np.random.default_rng(7)
    clean, noisy, outliers = [], [], []
    for count in [4, 4, 5, 8, 20, 40]:
        truth = camera(rng)
        ground = single(places(rng, truth, count))
        image = single(apply(truth, ground))
        found, _ = cv2.findHomography(ground, image, 0)
        clean.append(case(image, ground, truth, found))
    for count, sigma in [(6, 0.5), (8, 1.0), (12, 1.0), (12, 2.0), (30, 1.0), (30, 2.0)]:
        truth = camera(rng)
        ground = single(places(rng, truth, count))
        image = single(np.round(apply(truth, ground) + rng.normal(0, sigma, (count, 2)), 2))
        found, _ = cv2.findHomography(ground, image, 0)
        noisy.append(case(image, ground, truth, found, sigma=sigma))
    for count, share in [(10, 0.2), (12, 0.25), (15, 0.4), (20, 0.3), (24, 0.4), (30, 0.4)] * 2:
        truth = camera(rng)
        ground = single(places(rng, truth, count))
        image = apply(truth, ground) + rng.normal(0, 1.0, (count, 2))
        wrong = rng.choice(count, int(share * count), replace=False)
        image[wrong] = np.c_[rng.uniform(0, SIZE[0], len(wrong)), rng.uniform(0, SIZE[1], len(wrong))]
        image = single(np.round(image, 2))
        cv2.setRNGSeed(0)
        found, _ = cv2.findHomography(ground, image, cv2.RANSAC, THRESHOLD)
        outliers.append(case(image, ground, truth, found, wrong=sorted(wrong.tolist())))
    golden = {"clean": clean, "noisy": noisy, "outliers": outliers}
    text = json.dumps(golden).replace('{"pairs"', '\n{"pairs"')
    GOLDENS.write_text(text + "\n")
    for name, cases in golden.items():
        print(name, [round(c["opencv_error"], 6) for c in cases])


if __name__ == "__main__":
    main()
