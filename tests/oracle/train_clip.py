"""CLIP-ReID's training by its authors' own code, in double precision: texts, losses, steps.

    OMP_NUM_THREADS=1 python tests/oracle/train_clip.py CLIP_REID

CLIP_REID is a checkout of CLIP-ReID (MIT, commit eb1898b), whose tokenizer and `timm` are not needed
and stand empty. Made with torch 2.15.0. Writes tests/goldens/train/clip.json:

- `texts`: vectors of made-up people's prompts over all 77 places, for small sizes and, every eighth
  number, for CLIP ViT-B/16's.
- `contrastive`: the supervised contrastive loss, with gradients.
- `prompts`: steps of the first stage on the small sizes.
- `images`: steps of the second stage, the texts being those of the start.
"""

import json
import pathlib
import sys
import unittest.mock

import torch
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from made_up import fill, made_up  # noqa: E402

EMPTY = (
    "timm", "timm.models", "timm.models.layers", "model.clip.simple_tokenizer", "ftfy", "turtle"
)
# Of `clip-reid-vit-tiny` on images of 64×32, and of ViT-B/16.
TINY = dict(width=48, layers=3, heads=3, projection=32, text_layers=2, text_heads=2)
BASE = dict(projection=512, text_layers=12, text_heads=8)
PLACES, PEOPLE, IMAGES, STEPS = 77, 4, 2, 5


def import_reference(checkout):
    sys.path.insert(0, checkout)
    for name in EMPTY:
        sys.modules[name] = unittest.mock.MagicMock()
    from loss.softmax_loss import CrossEntropyLabelSmooth
    from loss.supcontrast import SupConLoss
    from loss.triplet_loss import TripletLoss
    from model import make_model_clipreid
    from model.clip import model as clip

    # Norms go by way of single precision there.
    clip.LayerNorm.forward = nn.LayerNorm.forward
    return make_model_clipreid, clip, SupConLoss, TripletLoss, CrossEntropyLabelSmooth


def rounded(x, digits=9):
    return [float(f"{value:.{digits}g}") for value in x.detach().flatten().tolist()]


class Model(nn.Module):
    """The reference's `build_transformer` in what its stages touch."""

    def __init__(self, reference, clip, sizes, images=True):
        super().__init__()
        width = sizes["projection"]
        mask = torch.full((PLACES, PLACES), float("-inf")).triu(1).double()
        whole = type("Clip", (), {})()
        whole.transformer = clip.Transformer(
            width, sizes["text_layers"], sizes["text_heads"], attn_mask=mask
        )
        whole.positional_embedding = nn.Parameter(torch.empty(PLACES, width))
        whole.ln_final = clip.LayerNorm(width)
        whole.text_projection = nn.Parameter(torch.empty(width, width))
        whole.dtype = torch.float64
        self.text_encoder = reference.TextEncoder(whole)
        learner = reference.PromptLearner.__new__(reference.PromptLearner)
        nn.Module.__init__(learner)
        learner.cls_ctx = nn.Parameter(torch.empty(PEOPLE, 4, width))
        learner.register_buffer("token_prefix", torch.empty(1, 5, width))
        learner.register_buffer("token_suffix", torch.empty(1, 68, width))
        self.prompt_learner = learner
        # "A photo of a X X X X person." as CLIP's tokenizer has it.
        tokens = torch.zeros(1, PLACES, dtype=torch.long)
        tokens[0, :12] = torch.tensor(
            [49406, 320, 1125, 539, 320, 343, 343, 343, 343, 2533, 269, 49407]
        )
        self.tokens = tokens
        if images:
            self.image_encoder = clip.VisionTransformer(
                4, 2, 16, 16, sizes["width"], sizes["layers"], sizes["heads"], width
            )
            self.bottleneck = nn.BatchNorm1d(sizes["width"])
            self.bottleneck_proj = nn.BatchNorm1d(width)
            self.bottleneck.bias.requires_grad_(False)
            self.bottleneck_proj.bias.requires_grad_(False)
            self.classifier = nn.Linear(sizes["width"], PEOPLE, bias=False)
            self.classifier_proj = nn.Linear(width, PEOPLE, bias=False)
        fill(self.state_dict())
        self.double().train()

    def texts(self, people):
        return self.text_encoder(self.prompt_learner(people), self.tokens)

    def images(self, pixels):
        """As the reference's vision transformer, whose eleventh layer of twelve is the last but one."""
        x = self.image_encoder
        y = x.conv1(pixels).flatten(2).transpose(1, 2)
        first = x.class_embedding + torch.zeros(len(y), 1, y.shape[2])
        y = x.ln_pre(torch.cat([first, y], 1) + x.positional_embedding).transpose(0, 1)
        blocks = list(x.transformer.resblocks)
        for block in blocks[:-1]:
            y = block(y)
        full = x.ln_post(blocks[-1](y).transpose(0, 1))[:, 0]
        features = [y.transpose(0, 1)[:, 0], full, full @ x.proj]
        scores = [
            self.classifier(self.bottleneck(features[1])),
            self.classifier_proj(self.bottleneck_proj(features[2])),
        ]
        return scores, features


def contrastive(loss):
    people, others = torch.tensor([0, 1, 0, 2, 2]), torch.tensor([2, 1, 0, 0, 2, 1, 3])
    rows = torch.from_numpy(made_up("rows", (5, 6))).double().requires_grad_()
    columns = torch.from_numpy(made_up("columns", (7, 6))).double().requires_grad_()
    value = loss(rows * 4, columns, people, others)
    value.backward()
    return {
        "value": rounded(value)[0],
        "rows": rounded(rows.grad, 8),
        "columns": rounded(columns.grad, 8),
    }


def prompts(model, loss):
    features = torch.from_numpy(made_up("features", (12, TINY["projection"]))).double()
    people = torch.arange(12) % PEOPLE
    contexts = model.prompt_learner.cls_ctx
    optimizer = torch.optim.Adam([contexts], lr=3.5e-4, weight_decay=1e-4)
    steps = []
    for step in range(STEPS):
        chosen = (torch.arange(6) * 5 + step) % 12
        images, target = features[chosen], people[chosen]
        texts = model.texts(target)
        to_texts = loss(images, texts, target, target)
        to_images = loss(texts, images, target, target)
        optimizer.zero_grad()
        (to_texts + to_images).backward()
        optimizer.step()
        steps.append([rounded(x)[0] for x in (to_texts, to_images)])
    return {"steps": steps, "contexts": rounded(contexts, 8)[::4]}


def images(model, triplet, smooth):
    with torch.no_grad():
        texts = model.texts(torch.arange(PEOPLE))
    people = torch.arange(PEOPLE).repeat_interleave(IMAGES)
    rate, groups = 1e-4, []
    for name, value in model.named_parameters():
        if "text_encoder" in name or "prompt_learner" in name or not value.requires_grad:
            continue
        # As `make_optimizer_2stage`.
        own = rate * 2 if "bias" in name else rate
        groups.append({"params": [value], "lr": own, "weight_decay": 1e-4})
    optimizer = torch.optim.Adam(groups)
    steps = []
    for step in range(STEPS):
        pixels = torch.from_numpy(made_up(f"pixels.{step}", (PEOPLE * IMAGES, 3, 64, 32)))
        scores, features = model.images(pixels.double() * 40)
        identity = sum(smooth(score, people) for score in scores) * 0.25
        metric = sum(triplet(feature, people)[0] for feature in features)
        text = smooth(features[2] @ texts.t(), people)
        optimizer.zero_grad()
        (text + identity + metric).backward()
        optimizer.step()
        steps.append([rounded(x)[0] for x in (identity, metric, text)])
    tensors = {}
    for name, tensor in model.state_dict().items():
        own = name.startswith(("image_encoder.", "bottleneck", "classifier"))
        if own and not name.endswith("num_batches_tracked"):
            numbers = tensor.double().flatten()
            tensors[name] = [float(f"{x:.9g}") for x in (numbers.mean(), numbers.norm())]
    return {"steps": steps, "mean_and_norm": tensors}


def main():
    torch.set_default_dtype(torch.float64)
    reference, clip, sup_con, triplet, smooth = import_reference(sys.argv[1])
    everybody = torch.arange(PEOPLE)
    # Masks and ones of its losses are single precision, but whole numbers.
    loss = sup_con("cpu")
    base = Model(reference, clip, BASE, images=False)
    with torch.no_grad():
        big = base.texts(everybody[:2])
        small = Model(reference, clip, TINY).texts(everybody)
    goldens = {
        "torch": torch.__version__,
        "texts": {"tiny": rounded(small), "base": rounded(big)[::8]},
        "contrastive": contrastive(loss),
        "prompts": prompts(Model(reference, clip, TINY), loss),
        "images": images(
            Model(reference, clip, TINY), triplet(0.3), smooth(PEOPLE, use_gpu=False)
        ),
    }
    path = HERE.parent / "goldens" / "train" / "clip.json"
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in goldens.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
