"""Ten training steps of a small ResNet re-ID network by PyTorch, in double precision.

Forward, label-smoothed cross-entropy and batch-hard triplets, backward, Adam with L2 decay, batch
norms in training mode: `resnet18-reid-x0.25` with BNNeck from made-up weights. Writes
tests/goldens/train/steps.json.

Ten steps amplify rounding, whoever takes them: rounding decides the sign of a gradient that is next to
nothing, and Adam's first steps are signs; a unit that is next to its ReLU's edge counts or not. At the
recipe's rate of 3.5e-4, which is far too large for these made-up weights (a step moves the losses by
a third), noise of single precision's size moves losses by 1e-3 to 2e-2. So the rate is 1e-6 here, at
which a step moves them by about 0.01, and the images are the first ones for which such noise, on
weights and gradients, moves no loss by more than 3e-5; the script looks for them. What the steps did
to the tensors is stored in units of the rate.

Run from the repository with torch 2.x and numpy:
    python tests/oracle/train_steps.py
Made with torch 2.15.0.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from made_up import fill, made_up

PEOPLE, IMAGES, STEPS = 4, 2, 10
RATE = 1e-6
# Noise on first weights as a share of themselves, on gradients as a share of their deviation; what it
# may do to losses.
WEIGHT_NOISE, NOISE, TRIALS, MOST = 1e-6, 1e-5, 8, 3e-5
WIDTH = 16


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            conv = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(after))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        before = WIDTH
        for stage, stride in enumerate([1, 2, 2, 1]):
            after = WIDTH << stage
            stages = nn.Sequential(Block(before, after, stride), Block(after, after, 1))
            setattr(self, f"layer{stage + 1}", stages)
            before = after

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.bn = nn.BatchNorm1d(WIDTH * 8)
        self.classifier = nn.Linear(WIDTH * 8, PEOPLE, bias=False)

    def forward(self, x):
        pooled = self.backbone(x).mean((2, 3))
        return pooled, self.classifier(self.bn(pooled))


def triplet(features, people):
    same = people[:, None] == people[None, :]
    distances = (features[:, None] - features[None]).square().sum(2).clamp(min=1e-12).sqrt()
    positive = distances.masked_fill(~same, float("-inf")).max(1).values
    negative = distances.masked_fill(same, float("inf")).min(1).values
    return F.margin_ranking_loss(negative, positive, torch.ones_like(positive), margin=0.3)


def train(series, noisy=False, seed=0):
    random = torch.Generator().manual_seed(seed)
    net = Net()
    fill(net.state_dict())
    net = net.double().train()
    first = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    # BNNeck: its bias is not learnt.
    net.bn.bias.requires_grad_(False)
    learnt = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in learnt if noisy else ():
        drawn = torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)
        parameter.data *= 1 + WEIGHT_NOISE * drawn
    optimizer = torch.optim.Adam(learnt, lr=RATE, weight_decay=5e-4)
    people = torch.arange(PEOPLE).repeat_interleave(IMAGES)
    steps = []
    for step in range(STEPS):
        pixels = made_up(f"pixels.{series}.{step}", (PEOPLE * IMAGES, 3, 64, 32))
        metric, logits = net(torch.from_numpy(pixels).double() * 40)
        identity = F.cross_entropy(logits, people, label_smoothing=0.1)
        metric_loss = triplet(metric, people)
        optimizer.zero_grad()
        (identity + metric_loss).backward()
        for parameter in learnt if noisy else ():
            gradient = parameter.grad
            drawn = torch.randn(gradient.shape, generator=random, dtype=gradient.dtype)
            gradient += drawn * NOISE * gradient.std()
        optimizer.step()
        steps.append([x.item() for x in (identity, metric_loss)])
    return {name: tensor - first[name] for name, tensor in net.state_dict().items()}, steps


def withstands_noise(series, steps):
    for seed in range(TRIALS):
        _, others = train(series, True, seed)
        off = max(abs(a - b) for pair in zip(steps, others) for a, b in zip(*pair))
        print(f"series {series}: noise moves losses by {off:.0e}", flush=True)
        if off > MOST:
            return False
    return True


def main():
    series = 0
    while True:
        moved, steps = train(series)
        if withstands_noise(series, steps):
            break
        series += 1
    steps = [[float(f"{x:.9g}") for x in pair] for pair in steps]
    tensors = {}
    for name, tensor in moved.items():
        if not name.endswith("num_batches_tracked"):
            numbers = tensor.double().flatten()
            if "running_" not in name:
                numbers = numbers / RATE
            tensors[name] = [float(f"{x:.9g}") for x in (numbers.mean(), numbers.norm())]
    goldens = {"torch": torch.__version__, "series": series, "rate": RATE, "steps": steps}
    goldens["moved_mean_and_norm"] = tensors
    path = Path(__file__).parent.parent / "goldens" / "train" / "steps.json"
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in goldens.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
