"""Values and gradients of the training losses by PyTorch, in double precision.

Writes tests/goldens/train/losses.json. Run from the repository with torch 2.x and numpy:
    python tests/oracle/train_losses.py
Made with torch 2.15.0.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

from made_up import made_up

ROWS, CLASSES, DIM = 12, 7, 6
PEOPLE = [row // 3 for row in range(ROWS)]
LABELS = [(row * 5) % CLASSES for row in range(ROWS)]


def tensor(name, shape):
    return torch.from_numpy(made_up(name, shape)).double().requires_grad_()


def rounded(x):
    return [float(f"{value:.8g}") for value in x.flatten().tolist()]


def cross_entropy(smoothing):
    logits = tensor("logits", (ROWS, CLASSES))
    loss = F.cross_entropy(logits * 3, torch.tensor(LABELS), label_smoothing=smoothing)
    loss.backward()
    return {"value": rounded(loss)[0], "gradient": rounded(logits.grad)}


def triplet(margin, distance):
    """Batch-hard mining over the matrix of distances, the anchor among its own positives."""
    features = tensor("features", (ROWS, DIM))
    people = torch.tensor(PEOPLE)
    same = people[:, None] == people[None, :]
    if distance == "cosine":
        unit = F.normalize(features, dim=1)
        distances = 1 - unit @ unit.t()
    else:
        squares = (features[:, None] - features[None]).square().sum(2)
        distances = squares.clamp(min=1e-12).sqrt()
    positive = distances.masked_fill(~same, float("-inf")).max(1).values
    negative = distances.masked_fill(same, float("inf")).min(1).values
    ones = torch.ones_like(positive)
    if margin is None:
        loss = F.soft_margin_loss(negative - positive, ones)
    else:
        loss = F.margin_ranking_loss(negative, positive, ones, margin=margin)
    loss.backward()
    return {"value": rounded(loss)[0], "gradient": rounded(features.grad)}


def centre():
    features = tensor("features", (ROWS, DIM))
    centres = tensor("centres", (CLASSES, DIM))
    squares = (features[:, None] - centres[None]).square().sum(2)
    loss = squares.gather(1, torch.tensor(LABELS)[:, None]).mean()
    loss.backward()
    return {
        "value": rounded(loss)[0],
        "gradient": rounded(features.grad),
        "centres": rounded(centres.grad),
    }


def main():
    goldens = {
        "torch": torch.__version__,
        "cross_entropy": cross_entropy(0.0),
        "cross_entropy_smooth": cross_entropy(0.1),
        "triplet_euclidean": triplet(0.3, "euclidean"),
        "triplet_euclidean_soft": triplet(None, "euclidean"),
        "triplet_cosine": triplet(0.3, "cosine"),
        "triplet_cosine_soft": triplet(None, "cosine"),
        "centre": centre(),
    }
    folder = Path(__file__).parent.parent / "goldens" / "train"
    folder.mkdir(exist_ok=True)
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in goldens.items()]
    (folder / "losses.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
