#!/usr/bin/env python3
"""Times PyTorch on a GPU, beside which `mtmc bench --device cuda` stands: eager and torch.compile, in
f32, f16 and bf16, networks of the same architecture with random weights. One JSON object a line.

  python3 gpu-peers.py [--device cuda] [--seconds 3] [--only WORD] [--dry-run]
  python3 gpu-peers.py --table FOLDER    # of gpu-check.sh: one table of what it measured

Needs torch; ResNet-50 is torchvision's, RT-DETR-l is Ultralytics' (as it comes, unread) and
RT-DETR-R50 is transformers', each where it is installed; what is not is reported as missing.
"""
import argparse
import json
import pathlib
import re
import statistics
import sys
import time

# work, network, batches
INFERENCE = [
    ("detect", "rtdetr-l", [1, 4, 16, 64]),
    ("detect", "rtdetr-r50", [1, 4, 16, 64]),
    ("embed", "clip-reid-vit-b16", [64, 256]),
    ("embed", "resnet50-reid", [64, 256]),
]
TRAINING = [("train", "resnet50-reid", [64]), ("train", "clip-reid-vit-b16", [64])]


def vit_b16():
    """CLIP's ViT-B/16 for 256×128: 128 patches and the class, pre-norm blocks, QuickGELU."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self, size=768, heads=12):
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
            self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
            self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

        def forward(self, x):
            b, n, c = x.shape
            qkv = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, c // self.heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v)
            x = x + self.out(mixed.transpose(1, 2).reshape(b, n, c))
            y = self.up(self.norm2(x))
            return x + self.down(y * torch.sigmoid(1.702 * y))

    class Vit(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 768, 16, 16, bias=False)
            self.cls = nn.Parameter(torch.randn(1, 1, 768) * 0.02)
            self.places = nn.Parameter(torch.randn(1, 129, 768) * 0.02)
            self.pre, self.post = nn.LayerNorm(768), nn.LayerNorm(768)
            self.blocks = nn.Sequential(*[Block() for _ in range(12)])
            self.project = nn.Linear(768, 512, bias=False)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.places
            return self.project(self.post(self.blocks(self.pre(x))[:, 0]))

    return Vit()


def build(network):
    """The network and the height and width of its images."""
    if network == "clip-reid-vit-b16":
        return vit_b16(), (256, 128)
    if network == "resnet50-reid":
        import torchvision

        model = torchvision.models.resnet50(weights=None)
        # Last stride 1, as re-identification has it.
        model.layer4[0].conv2.stride = (1, 1)
        model.layer4[0].downsample[0].stride = (1, 1)
        return model, (256, 128)
    if network == "rtdetr-l":
        from ultralytics import RTDETR

        return RTDETR("rtdetr-l.yaml").model, (640, 640)
    from transformers import RTDetrConfig, RTDetrForObjectDetection

    config = RTDetrConfig(use_pretrained_backbone=False)
    return RTDetrForObjectDetection(config), (640, 640)


def timed(step, seconds, synchronise):
    """Median seconds of a step, after warming up."""
    for _ in range(3):
        step()
    synchronise()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 1000):
        start = time.perf_counter()
        step()
        synchronise()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def run(args, work, network, batch, precision, compiled):
    import torch

    row = {"peer": "torch.compile" if compiled else "torch eager", "torch": torch.__version__,
           "work": work, "network": network, "batch": batch, "precision": precision}
    if args.dry_run:
        return {**row, "would": "run"}
    device = torch.device(args.device)
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[precision]
    torch.manual_seed(0)
    model, (height, width) = build(network)
    model = model.to(device)
    x = torch.rand(batch, 3, height, width, device=device)

    def synchronise():
        if device.type == "cuda":
            torch.cuda.synchronize()

    if work == "train":
        # As is usual: parameters in f32, the forward pass in the shorter type.
        model.train()
        step_of = torch.compile(model) if compiled else model
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def step():
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype, enabled=precision != "f32"):
                loss = step_of(x).float().square().mean()
            loss.backward()
            optimiser.step()
    else:
        model = model.eval().to(dtype)
        x = x.to(dtype)
        # Small batches are bound by launches: graphs are what compiled programs use against it.
        run_model = torch.compile(model, mode="max-autotune") if compiled else model

        def step():
            with torch.inference_mode():
                run_model(x)

    seconds = timed(step, args.seconds, synchronise)
    return {**row, "ms": round(seconds * 1e3, 3), "images_per_second": round(batch / seconds, 1)}


# What `mtmc bench` calls a row of a work here.
WORKS = {"detect": "forward", "embed": "forward", "train": "train"}


def rows_of(path):
    """The JSON objects of a file of lines; none where there is no such file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def best(rows, **wanted):
    """Milliseconds of the quickest row that has all of `wanted`; None without one."""
    times = [row.get("ms", row.get("milliseconds")) for row in rows
             if all(row.get(key) == value for key, value in wanted.items())]
    return min((time for time in times if time), default=None)


def table(folder):
    """Every line of what is compared: ours, eager, compiled, and how much quicker ours is than the
    quicker one of them (above 1 is quicker)."""
    folder = pathlib.Path(folder)
    peers = rows_of(folder / "pytorch.txt")
    lines = ["| work | batch | precision | mtmc, ms | eager, ms | torch.compile, ms | mtmc against the best |",
             "| --- | --- | --- | --- | --- | --- | --- |"]
    show = lambda time: "" if time is None else f"{time:.2f}"
    for work, network, batches in INFERENCE + TRAINING:
        for batch in batches:
            for precision in ["f32", "f16", "bf16"]:
                same = {"network": network, "batch": batch}
                files = [f"bench-{precision}.txt"] + [
                    f"bench-{precision}-{way}.txt" for way in ["columns", "implicit"]]
                own = [row for file in files for row in rows_of(folder / file)]
                ours = best(own, what=WORKS[work], **same)
                of = {"work": work, "precision": precision, **same}
                eager = best(peers, peer="torch eager", **of)
                compiled = best(peers, peer="torch.compile", **of)
                if ours is None and eager is None and compiled is None:
                    continue
                quicker = min((time for time in [eager, compiled] if time), default=None)
                ratio = f"{quicker / ours:.2f} ×" if ours and quicker else ""
                lines.append(f"| {work} {network} | {batch} | {precision} | {show(ours)} | {show(eager)}"
                             f" | {show(compiled)} | {ratio} |")
    lines += ["", "| streams | frames a second | streams of 30 |", "| --- | --- | --- |"]
    for file in sorted(folder.glob("streams-*.txt"), key=lambda file: int(file.stem.split("-")[1])):
        found = re.search(r"([\d.]+) a second", file.read_text(encoding="utf-8"))
        if found:
            rate = float(found[1])
            lines.append(f"| {file.stem.split('-')[1]} | {rate:.1f} | {rate / 30:.1f} |")
    for file in sorted(folder.glob("limit-*.txt")):
        lines += ["", file.read_text(encoding="utf-8").splitlines()[0]]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=3.0, help="time a measurement")
    parser.add_argument("--only", default="", help="only rows with this word in them")
    parser.add_argument("--max-batch", type=int, default=1 << 20)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--dry-run", action="store_true", help="say what would be timed")
    parser.add_argument("--table", metavar="FOLDER", help="print a table of what gpu-check.sh measured")
    args = parser.parse_args()
    if args.table:
        print(table(args.table))
        return
    import torch

    torch.backends.cudnn.benchmark = True
    failed = 0
    for work, network, batches in INFERENCE + TRAINING:
        for batch in batches:
            for precision in ["f32", "f16", "bf16"]:
                if work == "train" and precision == "f16" or batch > args.max_batch:
                    continue  # f16 needs a scaler of the loss; bf16 is what is used
                for compiled in [False, True]:
                    name = f"{work} {network} {batch} {precision} {'compile' if compiled else 'eager'}"
                    if args.only not in name or compiled and args.eager:
                        continue
                    try:
                        row = run(args, work, network, batch, precision, compiled)
                    except Exception as error:  # what is missing or does not fit is a row too
                        row = {"row": name, "error": f"{type(error).__name__}: {error}"[:300]}
                        failed += 1
                        if args.device == "cuda":
                            torch.cuda.empty_cache()
                    print(json.dumps(row), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
