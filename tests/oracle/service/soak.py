"""Work back to back on the running binary, and whether its memory stays flat.

    pip install websockets==17.4
    python tests/oracle/service/soak.py --weights W --reid R --video clip.mp4 --folder /tmp/soak --minutes 8

A round is a task of four cameras with clients that come at once, come late, leave early, or read slowly;
some tasks are stopped, some only pass frames on, some environments are cleaned up, and there are
uploads. After each round, with no client left, memory, files, threads and sizes are sampled into
samples.jsonl. `--simulated-hours 24` goes on until that much time of the cameras was worked through. The exit
code is 1 if something failed, or memory after the warm-up grew by more than `--allowed` MiB.
"""

import asyncio
import collections
import json
import random
import sys
import time

import websockets

import service

RAW = "/api/v1/raw-processing-tasks"


async def watch(served, task, kind, tally):
    """One client: `stays`, `late`, `leaves` (after some messages) or `slow`."""
    if kind == "late":
        await asyncio.sleep(1)
    images = "none" if kind == "late" else "both"
    url = f"ws://{served.address}/ws/detection-tracking/{task}?since=0&images={images}"
    headers = {"Authorization": f"Bearer {service.KEY}"}
    taken, last, expected = 0, None, 1
    async with websockets.connect(
        url, additional_headers=headers, max_size=None, compression=None
    ) as socket:
        async for text in socket:
            message = json.loads(text)
            taken += 1
            if message["message_type"] in ("lagged", "gap"):
                tally[message["message_type"]] += 1
                expected = None
            elif message["message_type"] != "heartbeat":
                if expected is not None and message["seq"] != expected:
                    tally["breaks in seq"] += 1
                expected = message["seq"] + 1
            if message["message_type"] == "status_update":
                last = message["status"]
            if kind == "leaves" and taken == 5:
                return
            if kind == "slow":
                await asyncio.sleep(0.05)
    tally[f"watched to {last}"] += 1


def upload(served, video):
    """Tracks the clip by upload, and deletes the result."""
    place = f"/api/inference/video/{served.upload(video)['inference_id']}"
    if served.call("DELETE", place)[0] != 204:
        raise RuntimeError("the upload cannot be deleted")


def wait(served, prefix, task, stop):
    """Until the task has ended; its last status."""
    if stop:
        time.sleep(0.7)
        served.call("DELETE", f"{prefix}/{task}/stop")
    return served.ended(task, prefix)


async def one_round(served, options, number, tally):
    prefix = RAW if number % 4 == 3 else service.TASKS
    task = served.start(prefix)
    kinds = ["stays"] + random.choices(["stays", "late", "leaves", "slow"], k=options.clients - 1)
    clients = [watch(served, task, kind, tally) for kind in kinds]
    stop = number % 5 == 4
    ended = asyncio.to_thread(wait, served, prefix, task, stop)
    *_, status = await asyncio.gather(*clients, ended)
    tally[status] += 1
    if status == "FAILED":
        raise RuntimeError(f"{task} failed")
    for path in (service.TASKS, "/api/v1/people", "/health/detection", "/metrics"):
        status, answer = served.call("GET", path)
        tally[f"{status} {path}"] += 1
    if number % 6 == 5:
        await asyncio.to_thread(upload, served, options.video)
        tally["uploads"] += 1
    if number % 10 == 9:
        path = f"{service.TASKS}/environment/lane/cleanup"
        tally[f"{served.call('DELETE', path)[0]} cleanup"] += 1


def soak(served, options, tally):
    """Samples after each round."""
    samples, began, number = [], time.time(), 0
    with open(served.folder / "samples.jsonl", "w") as out:
        while True:
            asyncio.run(one_round(served, options, number, tally))
            number += 1
            frames = served.metric("mtmc_frames_processed_total")
            hours = frames / len(service.CAMERAS) / options.fps / 3600
            minutes = (time.time() - began) / 60
            sample = {"minutes": round(minutes, 2), "round": number, "frames": int(frames)}
            samples.append({**sample, "hours": round(hours, 3), **served.measures()})
            print(json.dumps(samples[-1]), file=out, flush=True)
            enough = hours >= options.simulated_hours if options.simulated_hours else False
            if enough or not options.simulated_hours and minutes >= options.minutes:
                return samples


def slope(samples):
    """Growth of memory in MiB an hour: least squares."""
    times = [s["minutes"] / 60 for s in samples]
    values = [s["rss_mib"] for s in samples]
    middle = sum(times) / len(times), sum(values) / len(values)
    over = sum((t - middle[0]) * (v - middle[1]) for t, v in zip(times, values))
    return over / max(sum((t - middle[0]) ** 2 for t in times), 1e-9)


def report(samples, options):
    """Growth of memory from the first to the last fifth of what came after the warm-up, in MiB."""
    warm = [s for s in samples if s["minutes"] >= options.warm_up] or samples
    part = max(len(warm) // 5, 1)
    mean = lambda some, key: sum(s[key] for s in some) / len(some)
    first, last = warm[:part], warm[-part:]
    end = samples[-1]
    print(f"{end['round']} rounds, {end['frames']} frames, {end['hours']} h of the cameras' time")
    for key in ("rss_mib", "files", "threads", "data_mib"):
        spread = min(s[key] for s in warm), max(s[key] for s in warm)
        print(f"{key}: first {mean(first, key):.1f}, last {mean(last, key):.1f}, from, to {spread}")
    print(f"after {options.warm_up} min: {slope(warm):.1f} MiB an hour; peak {end['peak_mib']} MiB")
    return mean(last, "rss_mib") - mean(first, "rss_mib")


def main():
    parser = service.arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--simulated-hours", type=float, help="instead of minutes")
    parser.add_argument("--fps", type=float, default=10, help="frames a second of the clip")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--warm-up", type=float, default=2, help="minutes that do not count")
    parser.add_argument("--allowed", type=float, default=64, help="MiB of growth")
    options, more = parser.parse_known_args()
    random.seed(1)
    served = service.Service(options, "--log-format", "json", "--log-level", "warn", *more)
    tally = collections.Counter()
    samples = soak(served, options, tally)
    code = served.stop()
    grown = report(samples, options)
    print(dict(sorted(tally.items())), "exit code", code)
    warnings = (served.folder / "serve.log").read_text().count("\n")
    print(f"lines of warnings in the log: {warnings}")
    sys.exit(code != 0 or grown > options.allowed)


if __name__ == "__main__":
    main()
