"""Steps of training a re-ID encoder in PyTorch, in turn with `cargo bench -p mtmc-models --bench training`.

    python training.py OURS ARCHITECTURE BATCH THREADS [STEPS]

OURS is the bench's program (cargo tells where it lies), ARCHITECTURE resnet50-reid or osnet-x1.0.
Both take the same step: images of 256x128, forwards in training mode, cross-entropy over 751 people
and batch-hard triplets, back, Adam with L2 decay, f32. After every step of one the other one makes
its own; the first of each is not counted. Prints each step's seconds, then medians and the ratio.

Needs torch 2.15.0 and torchvision; for OSNet also torchreid's `osnet.py` where Python finds modules
(deep-person-reid, `torchreid/models`).
"""

import os
import statistics
import subprocess
import sys
import time

PEOPLE, IMAGES_A_PERSON = 751, 4


def resnet50(torch):
    import torchvision

    net = torchvision.models.resnet50()
    for layer in (net.layer4[0].conv2, net.layer4[0].downsample[0]):
        layer.stride = (1, 1)
    net.fc = torch.nn.Identity()
    return net, 2048


def encoder(torch, name):
    if name == "resnet50-reid":
        return resnet50(torch)
    import osnet

    # In training mode its features come after those that a classifier sees.
    net = osnet.osnet_x1_0(num_classes=1, pretrained=False)
    net.classifier = torch.nn.Identity()
    return net, net.feature_dim


class Peer:
    def __init__(self, name, batch, threads):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.net, dim = encoder(torch, name)
        self.classifier = torch.nn.Linear(dim, PEOPLE, bias=False)
        self.net.train()
        parameters = [*self.net.parameters(), *self.classifier.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=3.5e-4, weight_decay=5e-4)
        self.pixels = torch.rand(batch, 3, 256, 128) * 4 - 2
        self.people = torch.arange(batch) // IMAGES_A_PERSON
        self.same = self.people[:, None] == self.people[None, :]

    def step(self):
        torch, f = self.torch, self.torch.nn.functional
        started = time.perf_counter()
        features = self.net(self.pixels)
        identity = f.cross_entropy(self.classifier(features), self.people)
        squares = features.square().sum(1, keepdim=True)
        distances = (squares + squares.T - 2 * features @ features.T).clamp(min=1e-6).sqrt()
        positive = distances.masked_fill(~self.same, 0).max(1).values
        negative = distances.masked_fill(self.same, float("inf")).min(1).values
        loss = identity + f.relu(positive - negative + 0.3).mean()
        forward = time.perf_counter()
        self.optimizer.zero_grad()
        loss.backward()
        backward = time.perf_counter()
        self.optimizer.step()
        done = time.perf_counter()
        return done - started, forward - started, backward - forward, done - backward


class Ours:
    def __init__(self, program, name, batch, threads):
        command = [program, name, str(batch), f"threads={threads}", "turns"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline().strip()
        print("  ours", line, flush=True)
        words = line.replace(",", " ").replace(";", " ").split()
        after = {word: float(words[at + 1]) for at, word in enumerate(words[:-1]) if word.isalpha()
                 and words[at + 1].replace(".", "").isdigit()}
        return float(words[0]), after["forwards"], after["back"], after["update"]


def main():
    program, name, batch, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    steps = int(sys.argv[5]) if len(sys.argv) > 5 else 7
    os.environ["OMP_NUM_THREADS"] = str(threads)
    ours, peer = Ours(program, name, batch, threads), Peer(name, batch, threads)
    ours.step(), peer.step()
    times = {"ours": [], "torch": []}
    for _ in range(steps):
        times["ours"].append(ours.step())
        times["torch"].append(peer.step())
        print("  torch", " ".join(f"{part:.3f}" for part in times["torch"][-1]), flush=True)
    medians = {}
    for who, measured in times.items():
        medians[who] = [statistics.median(part) for part in zip(*measured)]
        whole, forward, backward, update = medians[who]
        print(
            f"{who}: {whole:.3f} s a step (forwards {forward:.3f}, back {backward:.3f}, "
            f"update {update:.3f}), {batch / whole:.2f} images/s"
        )
    ratios = [there / here for here, there in zip(medians["ours"], medians["torch"])]
    print(
        f"{name}, batch {batch}, {threads} threads: {ratios[0]:.2f} of PyTorch's speed "
        f"(forwards {ratios[1]:.2f}, back {ratios[2]:.2f}, update {ratios[3]:.2f})"
    )


if __name__ == "__main__":
    main()
