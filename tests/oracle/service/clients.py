"""How long a frame takes from the pipeline to clients of the running binary, over sockets on loopback.

    pip install websockets==17.4
    python tests/oracle/service/clients.py --weights W --reid R --video clip.avi --folder /tmp/clients \
        --clients 200 --pictured 4 --frames 60

The service logs (level trace) when the pipeline is done with a frame, before its pictures are encoded;
a client notes when it has the whole message. Both are of the same clock. Clients take turns on the
interpreter, so what this program itself takes is in the numbers too.
"""

import asyncio
import datetime
import json
import re
import time

import websockets

import service

FRAME = re.compile(r'"camera_id":"(\w+)","frame_number":(\d+)')
DONE = "mtmc::service::live::feed=trace"


class Client:
    """One socket: when it had each frame, and what it was told of losses."""

    def __init__(self, address, task, images):
        self.url = f"ws://{address}/ws/detection-tracking/{task}?since=0&images={images}"
        self.received = {}
        self.seqs = []
        self.dropped = {"dropped_images": 0, "dropped_messages": 0}
        self.last = None
        self.bytes = 0

    async def run(self):
        headers = {"Authorization": f"Bearer {service.KEY}"}
        async with websockets.connect(
            self.url, additional_headers=headers, max_size=None, compression=None
        ) as socket:
            async for text in socket:
                self.take(text, time.time())
        return socket.close_code

    def take(self, text, now):
        self.bytes += len(text)
        kind = re.search(r'"message_type":"(\w+)"', text[:200]).group(1)
        if kind == "detection_update":
            # Pictures are long: only the beginning, which names the frame, and the end are read.
            camera, frame = FRAME.search(text[:400]).groups()
            self.received[camera, int(frame)] = now
        elif kind == "lagged":
            message = json.loads(text)
            for key in self.dropped:
                self.dropped[key] += message[key]
        elif kind == "status_update":
            self.last = json.loads(text)["status"]
        if kind not in ("lagged", "gap", "heartbeat"):
            self.seqs.append(int(re.search(r'"seq":(\d+)', text[-40:]).group(1)))


def done(log):
    """When the pipeline was done with each frame, in seconds since 1970."""
    found = {}
    for line in log.read_text().splitlines():
        if "frame done" in line:
            entry = json.loads(line)
            when = datetime.datetime.fromisoformat(entry["timestamp"]).timestamp()
            fields = entry.get("fields", entry)
            found[fields["camera"], int(fields["frame"])] = when
    return found


async def measure(served, options):
    """All clients of one task, and the most memory that the service took meanwhile."""
    task = served.start(max_frames=options.frames)
    kinds = ["both"] * options.pictured + ["none"] * (options.clients - options.pictured)
    clients = [Client(served.address, task, images) for images in kinds]
    began = time.time()
    codes = await asyncio.gather(*(client.run() for client in clients))
    return clients, codes, time.time() - began


def report(clients, codes, seconds, finished, pictured):
    frames = set(finished)
    for name, some in (("with pictures", clients[:pictured]), ("without", clients[pictured:])):
        took = sorted(c.received[k] - finished[k] for c in some for k in c.received)
        if took:
            shares = [f"{1e3 * service.share(took, part):.1f}" for part in (0.5, 0.99, 1)]
            missed = sum(len(frames - set(c.received)) for c in some)
            lost = {key: sum(c.dropped[key] for c in some) for key in some[0].dropped}
            size = sum(c.bytes for c in some) / len(took) / 1e3
            print(f"{len(some)} {name}: median, p99, most: {', '.join(shares)} ms of {len(took)}")
            print(f"  {size:.0f} kB a message; frames not received {missed}; told as lost {lost}")
    gaps = sum(1 for c in clients for a, b in zip(c.seqs, c.seqs[1:]) if b != a + 1)
    ends = {status: sum(c.last == status for c in clients) for status in {c.last for c in clients}}
    print(f"{len(frames)} frames in {seconds:.1f} s; breaks in seq {gaps}")
    print(f"last status {ends}; closed with {sorted(set(codes))}")


def main():
    parser = service.arguments(__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--pictured", type=int, default=4, help="clients that get both pictures")
    parser.add_argument("--frames", type=int, default=60, help="of each camera")
    options, more = parser.parse_known_args()
    flags = ["--log-format", "json", "--log-level", f"warn,{DONE}"]
    served = service.Service(options, *flags, *more)
    clients, codes, seconds = asyncio.run(measure(served, options))
    print("service:", served.measures(), "exit code", served.stop())
    report(clients, codes, seconds, done(served.folder / "serve.log"), options.pictured)


if __name__ == "__main__":
    main()
