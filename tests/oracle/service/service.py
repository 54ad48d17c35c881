"""Starts the real binary for the scripts beside this one, and looks at its process from outside (Linux)."""

import argparse
import atexit
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import time

CAMERAS = ["c09", "c12", "c13", "c16"]
KEY = "for-these-tests-alone-0123456789abcdef"
TASKS = "/api/v1/detection-processing-tasks"
# A floor that is no floor: enough to project people and to have a health check that is well.
MADE_UP = {
    "image_points": [[0, 200], [768, 200], [768, 576], [0, 576]],
    "map_points": [[0, 20], [30, 20], [20, 0], [10, 0]],
}


def arguments(about):
    """The options that all scripts share."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", default="target/release/mtmc")
    parser.add_argument("--weights", required=True, help="detector (.safetensors)")
    parser.add_argument("--reid", required=True, help="re-ID encoder (.safetensors)")
    parser.add_argument("--video", required=True, help="what each of the four cameras shows")
    parser.add_argument("--folder", required=True, help="a new folder for data and logs")
    parser.add_argument("--port", type=int, default=8471)
    return parser


class Service:
    """A running `mtmc serve` with one environment, `lane`, of four cameras that show the same video.

    Its callers are known by `KEY`: a key made by one of the requests would close the door to all others.
    """

    def __init__(self, options, *flags):
        self.folder = pathlib.Path(options.folder)
        self.folder.mkdir(parents=True)
        self.port = options.port
        self.address = f"127.0.0.1:{options.port}"
        environment = self.folder / "lane.toml"
        environment.write_text(lane(pathlib.Path(options.video).resolve()))
        for camera in CAMERAS:
            path = self.folder / "homography_data" / f"{camera}_homography.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"image_size": [768, 576], "calibration_points": MADE_UP}))
        command = [options.binary, "serve", "--listen", self.address]
        command += ["--data-dir", self.folder / "data", "--environment", environment]
        command += ["--weights", options.weights, "--reid", options.reid, "--rate-limit", "0"]
        command += flags
        self.log = open(self.folder / "serve.log", "wb")
        known = {**os.environ, "MTMC_ADMIN_KEY": KEY}
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=known)
        atexit.register(self.process.kill)
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"mtmc serve ended; see {self.folder}/serve.log")
            try:
                if self.call("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit("mtmc serve does not get ready")

    def call(self, method, path, body=None):
        """Status and JSON (or text) of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {KEY}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        kind = answer.getheader("Content-Type", "")
        return answer.status, json.loads(text) if "json" in kind else text

    def start(self, prefix=TASKS, **more):
        """The ID of a new task."""
        status, body = self.call("POST", f"{prefix}/start", {"environment_id": "lane", **more})
        if status != 202:
            raise RuntimeError(f"start: {status} {body}")
        return body["task_id"]

    def ended(self, task, prefix=TASKS):
        """The last status of a task, once it has one."""
        for _ in range(1200):
            status, body = self.call("GET", f"{prefix}/{task}/status")
            if status != 200:
                raise RuntimeError(f"status: {status} {body}")
            if body["status"] in ("COMPLETED", "FAILED", "STOPPED"):
                return body["status"]
            time.sleep(0.1)
        raise RuntimeError(f"{task} does not end")

    def upload(self, video):
        """Tracks a clip by upload; the answer."""
        edge = "edge-of-parts"
        head = f'--{edge}\r\nContent-Disposition: form-data; name="video"; filename="clip.mp4"\r\n'
        body = head.encode() + b"Content-Type: video/mp4\r\n\r\n"
        body += pathlib.Path(video).read_bytes() + f"\r\n--{edge}--\r\n".encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        headers = {"Authorization": f"Bearer {KEY}"}
        headers["Content-Type"] = f"multipart/form-data; boundary={edge}"
        connection.request("POST", "/api/inference/video", body, headers)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"upload: {answer.status} {found}")
        return found

    def metric(self, name):
        """The sum of a metric's samples."""
        text = self.call("GET", "/metrics")[1]
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+]+)", text, re.M)
        return sum(float(value) for value in found)

    def measures(self):
        """Resident memory in MiB, open files, threads, child processes, and MiB of the data folder."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        take = lambda key: int(re.search(rf"^{key}:\s+(\d+)", status, re.M).group(1))
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {
            "rss_mib": round(take("VmRSS") / 1024, 1),
            "peak_mib": round(take("VmHWM") / 1024, 1),
            "files": len(os.listdir(f"/proc/{self.process.pid}/fd")),
            "threads": take("Threads"),
            "children": len(children.read_text().split()),
            "data_mib": round(size(self.folder / "data") / 2**20, 2),
        }

    def stop(self):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def lane(video):
    """Four cameras in a row, each overlapping with the next."""
    text = 'id = "lane"\n'
    for place, camera in enumerate(CAMERAS):
        zones = []
        if place > 0:
            zones.append(f'{{ x_max = 0.3, to = ["{CAMERAS[place - 1]}"] }}')
        if place + 1 < len(CAMERAS):
            zones.append(f'{{ x_min = 0.7, to = ["{CAMERAS[place + 1]}"] }}')
        text += f'[[cameras]]\nid = "{camera}"\nsource = {json.dumps(str(video))}\n'
        text += f"zones = [{', '.join(zones)}]\n"
    for first, second in zip(CAMERAS, CAMERAS[1:]):
        text += f'[[links]]\ncameras = ["{first}", "{second}"]\noverlap = true\n'
    return text


def size(folder):
    """Bytes of all files below; what vanishes meanwhile does not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except OSError:
                pass
    return total


def share(values, part):
    """The value below which `part` of the sorted values lie."""
    return values[min(int(len(values) * part), len(values) - 1)] if values else float("nan")
