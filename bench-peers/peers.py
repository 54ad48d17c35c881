"""The Python trackers that mtmc is compared with, each behind the same three methods.

    prepare(boxes, scores, embeddings)  what the tracker takes, made before the clock runs
    update(prepared, motion)            one frame; returns what the tracker returns
    rows(result)                        that as a list of (id, x1, y1, x2, y2)

`boxes` is float32 [n, 4] (x1, y1, x2, y2), `scores` float32 [n], `embeddings` float32 [n, d] or
None, `motion` a 2x3 matrix or None. Only the packages' public interfaces are used; where a tracker
would estimate the camera's motion from the image, its estimator is replaced by one that hands out
the matrix that is given.

Settings are mtmc's (`high`, `low`, `new`, `first`, `second`, `unconfirmed`: the cost limits;
`buffer` in frames at 30 a second; `rate`), translated here into each package's own.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LOGURU_LEVEL", "ERROR")

import contextlib
import io
from types import SimpleNamespace

import numpy as np

# The settings of the reference's runs on MOT17.
BYTETRACK = {"high": 0.6, "low": 0.1, "new": 0.7, "first": 0.9, "second": 0.5, "unconfirmed": 0.7}
BOTSORT = {**BYTETRACK, "first": 0.8, "proximity": 0.5, "appearance": 0.25}
# No image is looked at, but two packages insist on one.
IMAGE = np.zeros((1080, 1920, 3), dtype=np.uint8)


class GivenMotion:
    """Stands in for a motion estimator; `matrix` is set before every update."""

    method = "given"

    def __init__(self):
        self.matrix = np.eye(2, 3)

    def estimate(self, _frame, _boxes=None):
        return self.matrix

    apply = estimate

    def reset(self):
        pass


def set_motion(tracker, motion):
    """Hands the frame's matrix to a tracker whose estimator is a `GivenMotion`."""
    if motion is not None:
        tracker.motion.matrix = motion


class Trackers:
    """`trackers`: sv.Detections in, sv.Detections with tracker_id out."""

    def __init__(self, kind, s, with_motion=False, with_embeddings=False, **extra):
        import supervision
        import trackers

        assert not with_embeddings, "trackers has no appearance"
        self.sv = supervision
        common = {
            "lost_track_buffer": s["buffer"],
            "frame_rate": s["rate"],
            "track_activation_threshold": s["new"],
            "high_conf_det_threshold": s["high"],
        }
        if kind == "bytetrack":
            extra = {"minimum_iou_threshold": 1 - s["first"], **extra}
            self.tracker = trackers.ByteTrackTracker(**common, **extra)
        else:
            extra = {
                "minimum_iou_threshold_first_assoc": 1 - s["first"],
                "minimum_iou_threshold_second_assoc": 1 - s["second"],
                "minimum_iou_threshold_unconfirmed_assoc": 1 - s["unconfirmed"],
                **extra,
            }
            self.tracker = trackers.BoTSORTTracker(**common, enable_cmc=with_motion, **extra)
        self.motion = GivenMotion()
        self.image = None
        if with_motion:
            self.tracker.cmc = self.motion
            self.image = IMAGE

    def prepare(self, boxes, scores, embeddings=None):
        classes = np.zeros(len(scores), dtype=int)
        return self.sv.Detections(xyxy=boxes, confidence=scores, class_id=classes)

    def update(self, prepared, motion=None):
        set_motion(self, motion)
        return self.tracker.update(prepared, self.image)

    def rows(self, result):
        if result.tracker_id is None:
            return []
        pairs = zip(result.tracker_id, result.xyxy)
        return [(int(i), *map(float, box)) for i, box in pairs if i >= 0]


class BoxMot:
    """`boxmot`: an array or boxmot's own structures in, rows with the ID in column 4 out."""

    def __init__(self, kind, s, with_motion=False, with_embeddings=False, **extra):
        import boxmot

        with contextlib.redirect_stdout(io.StringIO()):
            if kind == "bytetrack":
                self.tracker = boxmot.ByteTrack(
                    min_conf=s["low"], track_thresh=s["high"], match_thresh=s["first"],
                    track_buffer=s["buffer"], frame_rate=s["rate"], **extra,
                )  # fmt: skip
            else:
                extra = {"fuse_first_associate": True, **extra}
                self.tracker = boxmot.BotSort(
                    track_high_thresh=s["high"], track_low_thresh=s["low"],
                    new_track_thresh=s["new"], track_buffer=s["buffer"], match_thresh=s["first"],
                    second_match_thresh=s["second"], unconfirmed_match_thresh=s["unconfirmed"],
                    proximity_thresh=s["proximity"], appearance_thresh=s["appearance"],
                    frame_rate=s["rate"], use_cmc=with_motion, use_embeddings=with_embeddings,
                    **extra,
                )  # fmt: skip
        self.motion = GivenMotion()
        self.image = None
        if with_motion:
            self.tracker.cmc = self.motion
            self.image = IMAGE

    def prepare(self, boxes, scores, embeddings=None):
        if embeddings is None:
            columns = [boxes, scores[:, None], np.zeros((len(scores), 1))]
            return np.concatenate(columns, axis=1).astype(np.float32)
        import torch
        from boxmot.structures import Boxes, Detections

        return Detections(
            geometry=Boxes(torch.from_numpy(boxes)),
            scores=torch.from_numpy(scores),
            class_ids=torch.zeros(len(scores), dtype=torch.int64),
            sample_id="0",
            embeddings=torch.from_numpy(embeddings),
        )

    def update(self, prepared, motion=None):
        set_motion(self, motion)
        return self.tracker.update(prepared, self.image)

    def rows(self, result):
        if not isinstance(result, np.ndarray):
            boxes = result.to_aabb_rows().numpy()
            return [(int(row[4]) + 1, *map(float, row[:4])) for row in boxes]
        # Its IDs count from 0.
        return [(int(row[4]) + 1, *map(float, row[:4])) for row in result]


class Ultralytics:
    """`ultralytics`: its Boxes in, rows with the ID in column 4 out."""

    def __init__(self, kind, s, with_motion=False, with_embeddings=False, **extra):
        from ultralytics.engine.results import Boxes
        from ultralytics.trackers import BOTSORT as BotSort
        from ultralytics.trackers import BYTETracker

        self.boxes = Boxes
        assert not with_embeddings, "ultralytics takes a detector's features alone"
        args = {
            "track_high_thresh": s["high"],
            "track_low_thresh": s["low"],
            "new_track_thresh": s["new"],
            "track_buffer": int(s["rate"] / 30 * s["buffer"]),
            "match_thresh": s["first"],
            "fuse_score": True,
            "gmc_method": "none",
            "proximity_thresh": s.get("proximity"),
            "appearance_thresh": s.get("appearance"),
            "with_reid": False,
            "model": "auto",
            **extra,
        }
        kind = BYTETracker if kind == "bytetrack" else BotSort
        self.tracker = kind(SimpleNamespace(**args))
        self.tracker.reset_id()
        self.motion = GivenMotion()
        self.image = None
        if with_motion:
            self.tracker.gmc = self.motion
            self.image = IMAGE

    def prepare(self, boxes, scores, embeddings=None):
        columns = [boxes, scores[:, None], np.zeros((len(scores), 1))]
        data = np.concatenate(columns, axis=1).astype(np.float32)
        return self.boxes(data, IMAGE.shape[:2])

    def update(self, prepared, motion=None):
        set_motion(self, motion)
        return self.tracker.update(prepared, self.image)

    def rows(self, result):
        return [(int(row[4]), *map(float, row[:4])) for row in result]


PACKAGES = {"trackers": Trackers, "boxmot": BoxMot, "ultralytics": Ultralytics}


def build(name, settings, rate=30.0, buffer=30, **options):
    """A peer by its name, `PACKAGE-bytetrack` or `PACKAGE-botsort`; `settings` replaces defaults."""
    package, kind = name.split("-")
    defaults = BYTETRACK if kind == "bytetrack" else BOTSORT
    merged = {**defaults, "rate": rate, "buffer": buffer, **settings}
    return PACKAGES[package](kind, merged, **options)
