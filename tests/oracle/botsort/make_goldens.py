"""Writes tests/goldens/botsort/*.txt: what the reference BoT-SORT makes of known detections.

    python make_goldens.py --reference DIR --shared ../shared --out tests/goldens/botsort

DIR holds five files of the reference's `tracker` folder (NirAharon/BoT-SORT, MIT, commit
2519854): bot_sort.py, kalman_filter.py, matching.py, basetrack.py, gmc.py. They run unchanged;
what follows stands in for what they need and what has moved since:

- `np.float` and `np.float_`, gone from NumPy, are `float`;
- `cython_bbox`, replaced by the same formula (see `tracking.py`);
- `cv2` and `matplotlib`, which are imported and not used here, are empty;
- the FastReID interface hands out the embeddings that are given with a frame.

The camera's motion goes in through the reference's own reader of files. Detections go in as
float32. The frame rate is the sequence's. `tracking.py` describes the format.

Made with Python 3.11, numpy 2.4.6, scipy 1.17.1, lap 0.5.13.
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
import tracking  # noqa: E402

DEFAULTS = dict(
    track_high_thresh=0.6,
    track_low_thresh=0.1,
    new_track_thresh=0.7,
    match_thresh=0.8,
    track_buffer=30,
    frame_rate=30,
    fuse_score=True,
    camera_motion=True,
    appearance=False,
    proximity_thresh=0.5,
    appearance_thresh=0.25,
)


class Encoder:
    """Stands in for FastReIDInterface: the "image" is the embeddings of the good detections."""

    def __init__(self, *_):
        pass

    def inference(self, embeddings, detections):
        assert len(embeddings) == len(detections)
        return embeddings


def load_reference(folder):
    """The reference's BoTSORT, imported from `folder` as the package `tracker`."""
    tracking.prepare()
    np.float_ = float
    for name in ("cv2", "matplotlib", "matplotlib.pyplot", "fast_reid"):
        tracking.stand_in(name)
    tracking.stand_in("fast_reid.fast_reid_interfece", FastReIDInterface=Encoder)
    tracking.reference_package("tracker", folder)
    return importlib.import_module("tracker.bot_sort").BoTSORT


def made_up_camera(seed, frames, detections):
    """Shakes the camera: moves the boxes in place, and returns the lines of a motion file.

    Shifts are in 1/64 pixel and really move the boxes; the slight turns and zooms, in 1/65536,
    are only claimed. `shake` in tests/tracker_goldens/crowd.rs is its twin.
    """
    rng = tracking.Lcg(seed)
    x, y, lines = 0, 0, []
    for frame in range(1, frames + 1):
        dx, dy = rng.below(1281) - 640, rng.below(641) - 320
        zoom, turn = rng.below(257) - 128, rng.below(129) - 64
        x, y = x + dx, y + dy
        if frame in detections:
            detections[frame][:, [0, 2]] += np.float32(x / 64)
            detections[frame][:, [1, 3]] += np.float32(y / 64)
        scale, sine = 1 + zoom / 65536, turn / 65536
        numbers = (scale, -sine, dx / 64, sine, scale, dy / 64)
        lines.append("\t".join([str(frame - 1)] + [repr(v) for v in numbers]))
    return lines


def made_up_looks(seed, targets, owners, dim):
    """Embeddings: {frame: float32 array (n, dim)}.

    Three people each wear the same, nearly; what belongs to nobody looks like nobody. Integers,
    not of length 1. `looks` in tests/tracker_goldens/crowd.rs is its twin.
    """
    rng = tracking.Lcg(seed)

    def vector(spread):
        return np.array([rng.below(2 * spread + 1) - spread for _ in range(dim)])

    groups = [vector(1000) for _ in range((targets + 2) // 3)]
    people = [groups[i // 3] + vector(700) for i in range(targets)]
    result = {}
    for frame in sorted(owners):
        rows = [vector(1000) if i is None else people[i] + vector(300) for i in owners[frame]]
        result[frame] = np.array(rows, dtype=np.float32)
    return result


def run(reference, name, detections, embeddings, frames, settings, rows):
    """Golden lines of one sequence; motions are read from the working directory."""
    args = types.SimpleNamespace(
        track_high_thresh=settings["track_high_thresh"],
        track_low_thresh=settings["track_low_thresh"],
        new_track_thresh=settings["new_track_thresh"],
        match_thresh=settings["match_thresh"],
        track_buffer=settings["track_buffer"],
        proximity_thresh=settings["proximity_thresh"],
        appearance_thresh=settings["appearance_thresh"],
        mot20=not settings["fuse_score"],
        with_reid=settings["appearance"],
        cmc_method="file" if settings["camera_motion"] else "none",
        name=name,
        ablation=False,
        fast_reid_config=None,
        fast_reid_weights=None,
        device=None,
    )
    tracker = reference(args, frame_rate=settings["frame_rate"])
    nothing = np.zeros((0, 5), dtype=np.float32)
    lines, before = [], []
    for frame in range(1, frames + 1):
        boxes = detections.get(frame, nothing).copy()
        looks = embeddings.get(frame, np.zeros((0, 1), dtype=np.float32)).copy()
        if settings["appearance"]:
            looks = looks[boxes[:, 4] > settings["track_high_thresh"]]
        tracks = tracker.update(boxes, looks)
        line, before = tracking.digest(tracks, before, rows)
        lines.append(line)
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    shared, out = options.shared.resolve(), options.out.resolve()
    reference = load_reference(options.reference.resolve())
    motions = Path(tempfile.mkdtemp()) / "tracker/GMC_files/MOTChallenge"
    motions.mkdir(parents=True)
    os.chdir(motions.parent.parent.parent)

    def write(name, source, detections, embeddings, frames, rows=False, **changes):
        settings = dict(DEFAULTS, **changes)
        lines = run(reference, name, detections, embeddings, frames, settings, rows)
        header = dict(source, frames=frames, rows=rows, settings=settings)
        tracking.write_golden(out / f"{name}.txt", header, lines)

    def write_mot(sequence, name, **changes):
        folder = f"data/mot17/{sequence}"
        path, motion = f"{folder}/det-frcnn/det.txt", f"{folder}/gmc.txt"
        shutil.copyfile(shared / motion, motions / f"GMC-{name}.txt")
        frame_rate, length = tracking.sequence_info(shared / folder)
        source = dict(detections=path, motions=motion)
        detections = tracking.read_mot(shared / path, 1)
        write(name, source, detections, {}, length, frame_rate=frame_rate, **changes)

    for number in ("02", "05", "09", "11"):
        write_mot(f"MOT17-{number}", f"mot17-{number}")
    write_mot(
        "MOT17-09", "mot17-09-still", camera_motion=False, fuse_score=False,
        track_high_thresh=0.5, new_track_thresh=0.6, match_thresh=0.7,
    )

    for name, frames, targets, rows, changes in (
        ("rows", 60, 10, True, dict(appearance=True)),
        ("looks", 300, 40, False, dict(appearance=True)),
        ("camera", 300, 25, False, dict(track_buffer=8, frame_rate=20)),
        ("strict", 300, 30, False, dict(
            appearance=True, fuse_score=False, proximity_thresh=0.8, appearance_thresh=0.1)),
    ):
        seed, dim = 11 * frames + targets, 32
        detections, owners = tracking.made_up(seed, frames, targets)
        lines = made_up_camera(seed + 1, frames, detections)
        embeddings = {}
        if changes.get("appearance"):
            embeddings = made_up_looks(seed + 2, targets, owners, dim)
        name = f"made-up-{name}"
        (motions / f"GMC-{name}.txt").write_text("\n".join(lines) + "\n")
        source = dict(made_up=dict(seed=seed, targets=targets, dim=dim))
        write(name, source, detections, embeddings, frames, rows=rows, **changes)
    shutil.rmtree(motions.parent.parent.parent)


if __name__ == "__main__":
    main()
