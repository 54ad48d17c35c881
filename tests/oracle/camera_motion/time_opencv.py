"""Times BoT-SORT's camera motion in OpenCV for benches/camera_motion.rs, which starts it.

    python time_opencv.py METHOD WIDTH HEIGHT FRAME.rgb ...

For each line on standard input it goes through the frames once, on one thread, and prints the mean
milliseconds a frame, without the first. Frames are decoded, and features of a frame are made once,
as BoT-SORT does.
"""

import sys
import time

import cv2
import numpy as np


def reduced(frame):
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    height, width = grey.shape
    return cv2.resize(grey, (width // 2, height // 2))


class SparseFlow:
    def prepare(self, frame):
        grey = reduced(frame)
        corners = cv2.goodFeaturesToTrack(
            grey,
            mask=None,
            maxCorners=1000,
            qualityLevel=0.01,
            minDistance=1,
            blockSize=3,
            useHarrisDetector=False,
            k=0.04,
        )
        return grey, corners

    def compare(self, before, after):
        found, status, _ = cv2.calcOpticalFlowPyrLK(before[0], after[0], before[1], None)
        kept = status.ravel() == 1
        cv2.estimateAffinePartial2D(before[1][kept], found[kept], method=cv2.RANSAC)


class Orb:
    def __init__(self):
        self.detector = cv2.FastFeatureDetector_create(20)
        self.extractor = cv2.ORB_create()
        self.matcher = cv2.BFMatcher(cv2.NORM_HAMMING)

    def prepare(self, frame):
        grey = reduced(frame)
        height, width = grey.shape
        mask = np.zeros_like(grey)
        mask[int(0.02 * height):int(0.98 * height), int(0.02 * width):int(0.98 * width)] = 255
        points, descriptors = self.extractor.compute(grey, self.detector.detect(grey, mask))
        return cv2.KeyPoint_convert(points), descriptors

    def compare(self, before, after):
        matches = self.matcher.knnMatch(before[1], after[1], 2)
        pairs = [(m.queryIdx, m.trainIdx) for m, n in matches if m.distance < 0.9 * n.distance]
        pairs = np.array(pairs)
        cv2.estimateAffinePartial2D(
            before[0][pairs[:, 0]], after[0][pairs[:, 1]], method=cv2.RANSAC
        )


class Ecc:
    def prepare(self, frame):
        grey = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (3, 3), 1.5)
        height, width = grey.shape
        return cv2.resize(grey, (width // 2, height // 2))

    def compare(self, before, after):
        criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 5000, 1e-6)
        start = np.eye(2, 3, dtype=np.float32)
        cv2.findTransformECC(before, after, start, cv2.MOTION_EUCLIDEAN, criteria, None, 1)


def main():
    cv2.setNumThreads(1)
    method = {"sparse_flow": SparseFlow, "orb": Orb, "ecc": Ecc}[sys.argv[1]]()
    width, height = int(sys.argv[2]), int(sys.argv[3])
    frames = []
    for path in sys.argv[4:]:
        pixels = np.fromfile(path, np.uint8).reshape(height, width, 3)
        frames.append(np.ascontiguousarray(pixels[:, :, ::-1]))
    for _ in sys.stdin:
        before = method.prepare(frames[0])
        start = time.perf_counter()
        for frame in frames[1:]:
            after = method.prepare(frame)
            method.compare(before, after)
            before = after
        elapsed = time.perf_counter() - start
        print(elapsed * 1e3 / (len(frames) - 1), flush=True)


if __name__ == "__main__":
    main()
