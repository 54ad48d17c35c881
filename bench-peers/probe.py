"""Asks Python trackers, as black boxes, which rules they follow where their documents are silent.

    python probe.py trackers-bytetrack boxmot-bytetrack ultralytics-bytetrack

Each question is a scene of one or two people that two rules answer differently. The settings are
those of peers.py: good from 0.6, first cost limit 0.9 (BoT-SORT 0.8), second 0.5, tentative 0.7,
a buffer of 30 frames. docs/comparison.md tells what was found.
"""

import sys

import numpy as np

import peers

BOX = [100, 100, 150, 220]


def person(overlap=1.0, score=0.9, left=0.0):
    """The standing person, moved aside until this much IoU is left, and `left` pixels more."""
    aside = 50 * (1 - overlap) / (1 + overlap) + left
    return [BOX[0] + aside, BOX[1], BOX[2] + aside, BOX[3], score]


def track(name, frames):
    """For every frame the IDs that are reported, with the left edges of their boxes."""
    peer = peers.build(name, {})
    shown = []
    for frame in frames:
        rows = np.array(frame, dtype=np.float32).reshape(-1, 5)
        prepared = peer.prepare(np.ascontiguousarray(rows[:, :4]), rows[:, 4].copy())
        tracks = peer.rows(peer.update(prepared))
        shown.append({row[0]: round(row[1], 1) for row in tracks})
    return shown


def probe(name):
    """Prints the answers of one tracker."""
    still = [[person()]] * 8
    other = person(left=400)

    def continued(last):
        """Whether a track that stood still takes this detection."""
        return len(track(name, still + [[last]])[-1]) == 1

    reported = track(name, still + [[person(0.6)]])[-1]
    aside = round(person(0.6)[0], 1)
    print(f"{name}")
    print("  reports the detection's box, not the filtered one:", aside in reported.values())
    print("  reports a track in the very first frame:", len(track(name, still)[0]) == 1)
    print("  continues with a score of 0.15:", continued(person(score=0.15)))
    print("  continues with a score of 0.05:", continued(person(score=0.05)))
    print("  continues with a score of 0.3 at IoU 0.3:", continued(person(0.3, 0.3)))
    print("  continues with a score of 0.95 at IoU 0.25:", continued(person(0.25, 0.95)))
    print("  continues with a score of 0.95 at IoU 0.14:", continued(person(0.14, 0.95)))
    print("  continues with a score of 0.65 at IoU 0.14:", continued(person(0.14, 0.65)))
    print("  continues with a score of exactly 0.6:", continued(person(score=0.6)))
    first = track(name, [[person(score=0.65)]] * 3)
    print("  begins with a score of 0.65:", len(first[-1]) == 1)
    entering = still[:2] + [[person(), other], [person()], [person(), other], [person(), other]]
    counts = [len(frame) for frame in track(name, entering)]
    print("  tracks shown when one enters, misses a frame, comes back:", counts)
    moved = [person(), person(overlap=0.2, left=400)]
    jumping = still[:2] + [[person(), other], moved, moved, moved]
    counts = [len(frame) for frame in track(name, jumping)]
    print("  tracks shown when one enters and jumps to IoU 0.2:", counts)
    kept = 0
    for gap in range(25, 36):
        shown = track(name, still + [[]] * gap + [[person()]] * 2)
        if shown[-1].keys() == shown[7].keys():
            kept = gap
    print("  keeps an ID over so many frames without detections:", kept)


if __name__ == "__main__":
    for tracker in sys.argv[1:]:
        probe(tracker)
