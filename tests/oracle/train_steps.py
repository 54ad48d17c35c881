"""Ten training steps of a small ResNet re-ID network by PyTorch, in double precision.

Forward, label-smoothed cross-entropy and batch-hard triplets, backward, Adam with L2 decay, batch
norms in training mode: `resnet18-reid-x0.25` with BNNeck from made-up weights. Writes
tests/goldens/train/steps.json. Run from the repository with torch 2.x and numpy:
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


def main():
    net = Net()
    fill(net.state_dict())
    net = net.double().train()
    # BNNeck: its bias is not learnt.
    net.bn.bias.requires_grad_(False)
    learnt = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learnt, lr=3.5e-4, weight_decay=5e-4)
    people = torch.arange(PEOPLE).repeat_interleave(IMAGES)
    steps = []
    for step in range(STEPS):
        pixels = made_up(f"pixels.{step}", (PEOPLE * IMAGES, 3, 64, 32))
        metric, logits = net(torch.from_numpy(pixels).double() * 40)
        identity = F.cross_entropy(logits, people, label_smoothing=0.1)
        metric_loss = triplet(metric, people)
        optimizer.zero_grad()
        (identity + metric_loss).backward()
        optimizer.step()
        steps.append([float(f"{x.item():.9g}") for x in (identity, metric_loss)])
    tensors = {}
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            numbers = tensor.double().flatten()
            tensors[name] = [float(f"{x:.9g}") for x in (numbers.mean(), numbers.norm())]
    goldens = {"torch": torch.__version__, "steps": steps, "mean_and_norm": tensors}
    path = Path(__file__).parent.parent / "goldens" / "train" / "steps.json"
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in goldens.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
