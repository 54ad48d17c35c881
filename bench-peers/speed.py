"""Times a Python tracker on request; `mtmc-bench-peers speed` starts one of these for each.

    python speed.py PEER [--embeddings]

Reads one command a line and answers each with one line:

    scene FILE PEOPLE DIM LAP   a new tracker and its frames, prepared off the clock: `tracks N`,
                                the tracks it shows after one lap, or as far as it gets in LAP
                                seconds
    run N                       N updates, going on where the last run stopped: the seconds taken

FILE holds little-endian f32: for every person of every frame x1, y1, x2, y2, score and DIM numbers
of how they look.
"""

import gc
import sys
import time

import numpy as np

import peers


class Course:
    """One tracker on one scene."""

    def __init__(self, name, with_embeddings, path, people, dim):
        self.peer = peers.build(name, {}, with_embeddings=with_embeddings)
        data = np.fromfile(path, dtype="<f4").reshape(-1, people, 5 + dim)
        self.frames = []
        for rows in data:
            looks = np.ascontiguousarray(rows[:, 5:]) if with_embeddings else None
            boxes = np.ascontiguousarray(rows[:, :4])
            self.frames.append(self.peer.prepare(boxes, rows[:, 4].copy(), looks))
        self.next = 0

    def run(self, updates):
        update, frames, place = self.peer.update, self.frames, self.next
        started = time.perf_counter()
        for _ in range(updates):
            result = update(frames[place])
            place += 1
            if place == len(frames):
                place = 0
        taken = time.perf_counter() - started
        self.next = place
        self.tracks = len(self.peer.rows(result))
        return taken


def main():
    # Answers go to the true stdout; what packages print does not get between them.
    answers, sys.stdout = sys.stdout, sys.stderr
    name, with_embeddings = sys.argv[1], "--embeddings" in sys.argv
    course = None
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "scene":
            course = Course(name, with_embeddings, rest[0], int(rest[1]), int(rest[2]))
            lap = 0.0
            for _ in course.frames:
                lap += course.run(1)
                if lap > float(rest[3]):
                    break
            gc.collect()
            print("tracks", course.tracks, file=answers, flush=True)
        else:
            print(course.run(int(rest[0])), file=answers, flush=True)


if __name__ == "__main__":
    main()
