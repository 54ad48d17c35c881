"""Writes tests/goldens/bytetrack/*.txt: what the reference ByteTrack makes of known detections.

    python make_goldens.py --reference DIR --shared ../shared --out tests/goldens/bytetrack

DIR holds the four files of the reference's `yolox/tracker` folder (ifzhang/ByteTrack, MIT):
byte_tracker.py, kalman_filter.py, matching.py, basetrack.py. They run unchanged; what follows
stands in for what they need and what has moved since:

- `np.float`, gone from NumPy, is `float`;
- `cython_bbox`, replaced by the same formula (corners are inclusive: +1 on every side). If the
  real one (0.1.5) is installed, the two are compared first, bit for bit;
- `yolox.tracker`, an empty package whose path is DIR.

Detections go in as float32, as a detector gives them: corners = left + width, top + height in
float32. Scores are compared with thresholds in float32 (NumPy 2). The frame rate is the
sequence's; the reference numbers tracks over all instances, so its counter is reset before
each sequence. `tracking.py` describes the format.

Made with Python 3.11, numpy 2.4.6, scipy 1.17.1, lap 0.5.13, cython_bbox 0.1.5.
"""

import argparse
import importlib
import sys
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
import tracking  # noqa: E402


def load_reference(folder):
    """The reference's modules, imported from `folder` as `yolox.tracker`."""
    tracking.prepare()
    tracking.reference_package("yolox", folder)
    tracking.reference_package("yolox.tracker", folder)
    sys.modules["yolox"].tracker = sys.modules["yolox.tracker"]
    tracker = importlib.import_module("yolox.tracker.byte_tracker")
    return tracker, importlib.import_module("yolox.tracker.basetrack").BaseTrack


def run(reference, base_track, detections, frames, settings, rows):
    """Golden lines of one sequence."""
    args = types.SimpleNamespace(
        track_thresh=settings["track_thresh"],
        match_thresh=settings["match_thresh"],
        track_buffer=settings["track_buffer"],
        mot20=not settings["fuse_score"],
    )
    base_track._count = 0
    tracker = reference.BYTETracker(args, frame_rate=settings["frame_rate"])
    nothing = np.zeros((0, 5), dtype=np.float32)
    lines, before = [], []
    for frame in range(1, frames + 1):
        boxes = detections.get(frame, nothing).copy()
        tracks = tracker.update(boxes, (1, 1), (1, 1))
        line, before = tracking.digest(tracks, before, rows)
        lines.append(line)
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    reference, base_track = load_reference(options.reference)

    def write(name, source, detections, frames, rows=False, **changes):
        settings = dict(track_thresh=0.5, match_thresh=0.8, track_buffer=30, frame_rate=30, fuse_score=True)
        settings.update(changes)
        lines = run(reference, base_track, detections, frames, settings, rows)
        header = dict(source, frames=frames, rows=rows, settings=settings)
        tracking.write_golden(options.out / f"{name}.txt", header, lines)

    def write_mot(name, path, score_divisor=1, **changes):
        folder = options.shared / Path(path).parent.parent
        frame_rate, length = tracking.sequence_info(folder)
        detections = tracking.read_mot(options.shared / path, score_divisor)
        source = dict(detections=path, score_divisor=score_divisor)
        changes.setdefault("frame_rate", frame_rate)
        write(name, source, detections, length, **changes)

    # The reference's settings for MOT17 and MOT15's public detections (boosted trees with scores
    # far above 1, brought to 0..1) and for better detectors (scores 0.5..1).
    for sequence in ("02", "05", "09", "11"):
        path = f"data/mot17/MOT17-{sequence}/det-frcnn/det.txt"
        write_mot(f"mot17-{sequence}", path, track_thresh=0.6, match_thresh=0.9)
    for sequence in ("KITTI-13", "KITTI-17", "TUD-Campus", "TUD-Stadtmitte"):
        write_mot(f"{sequence}-det", f"data/mot15/{sequence}/det/det.txt", score_divisor=100)
        write_mot(f"{sequence}-sort", f"data/mot15/{sequence}/det-sort-frcnn/det.txt")
    # Raw scores above 1 and below 0; no score fusing.
    write_mot("KITTI-17-raw", "data/mot15/KITTI-17/det/det.txt")
    write_mot("mot17-09-mot20", "data/mot17/MOT17-09/det-frcnn/det.txt", fuse_score=False)

    for name, frames, targets, rows, changes in (
        ("rows", 60, 10, True, {}),
        ("crowd", 300, 40, False, {}),
        ("short-buffer", 600, 15, False, dict(track_buffer=8, frame_rate=20, match_thresh=0.9)),
        ("unfused", 200, 25, False, dict(fuse_score=False, track_thresh=0.6)),
    ):
        seed = 7 * frames + targets
        source = dict(made_up=dict(seed=seed, targets=targets))
        detections, _ = tracking.made_up(seed, frames, targets)
        write(f"made-up-{name}", source, detections, frames, rows=rows, **changes)


if __name__ == "__main__":
    main()
