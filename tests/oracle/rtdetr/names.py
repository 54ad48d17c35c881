"""Names of RT-DETR's tensors: from those of other code bases to the authors' PyTorch names.

A name maps to (canonical name, part): part is None for the whole tensor, 0 to 2 for the query's,
key's and value's third of a packed projection. None stands for a tensor that inference lacks.
"""

import re

# transformers 5: patterns of whole names, and what they become.
HUGGING_FACE = [
    (r"model\.backbone\.model\.embedder\.embedder\.(\d)\.(.*)", r"backbone.conv1.conv1_\1.\2"),
    (
        r"model\.backbone\.model\.encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.1\.(.*)",
        r"backbone.res_layers.\1.blocks.\2.short.conv.\3",
    ),
    (
        r"model\.backbone\.model\.encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.(.*)",
        r"backbone.res_layers.\1.blocks.\2.short.\3",
    ),
    (
        r"model\.backbone\.model\.encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.(.*)",
        r"backbone.res_layers.\1.blocks.\2.branch2\3.\4",
    ),
    (r"model\.encoder_input_proj\.(.*)", r"encoder.input_proj.\1"),
    (r"model\.encoder\.aifi\.0\.layers\.0\.(.*)", r"encoder.encoder.0.layers.0.\1"),
    (r"model\.encoder\.(.*)", r"encoder.\1"),
    (r"model\.decoder_input_proj\.(\d)\.0\.(.*)", r"decoder.input_proj.\1.conv.\2"),
    (r"model\.decoder_input_proj\.(\d)\.1\.(.*)", r"decoder.input_proj.\1.norm.\2"),
    (r"model\.decoder\.class_embed\.(.*)", r"decoder.dec_score_head.\1"),
    (r"model\.decoder\.bbox_embed\.(.*)", r"decoder.dec_bbox_head.\1"),
    (r"model\.decoder\.query_pos_head\.(.*)", r"decoder.query_pos_head.\1"),
    (r"model\.decoder\.layers\.(.*)", r"decoder.decoder.layers.\1"),
    (r"model\.(enc_.*)", r"decoder.\1"),
]
# Parts of the names, once the place is right.
HUGGING_FACE_PARTS = [
    (".convolution.", ".conv."),
    (".normalization.", ".norm."),
    (".mlp.fc1.", ".linear1."),
    (".mlp.fc2.", ".linear2."),
    (".self_attn_layer_norm.", ".norm1."),
    (".encoder_attn_layer_norm.", ".norm2."),
    (".encoder_attn.", ".cross_attn."),
    (".o_proj.", ".out_proj."),
]


def from_hugging_face(name: str):
    if name.startswith("model.denoising_class_embed."):
        return None
    for pattern, replacement in HUGGING_FACE:
        match = re.fullmatch(pattern, name)
        if match:
            mapped = match.expand(replacement)
            break
    else:
        raise KeyError(name)
    mapped = re.sub(r"conv1_(\d)", lambda m: f"conv1_{int(m[1]) + 1}", mapped)
    mapped = re.sub(r"branch2(\d)", lambda m: "branch2" + "abc"[int(m[1])], mapped)
    for old, new in HUGGING_FACE_PARTS:
        mapped = mapped.replace(old, new)
    # The third norm of a decoder layer is the second of an encoder layer.
    last_norm = ".norm3." if mapped.startswith("decoder.") else ".norm2."
    mapped = mapped.replace(".final_layer_norm.", last_norm)
    match = re.fullmatch(r"(.*\.self_attn)\.([qkv])_proj\.(weight|bias)", mapped)
    if match:
        return f"{match[1]}.in_proj_{match[3]}", "qkv".index(match[2])
    return mapped, None


# Which layers of Ultralytics' model files are what; blocks of each stage of the backbone.
BLOCKS = {"rtdetr-l": [1, 1, 3, 1], "rtdetr-x": [1, 2, 5, 2]}


def ultralytics_places(architecture: str) -> dict:
    """From a layer's number to the prefix of its canonical names."""
    places = {0: "backbone.stem"}
    layer = 1
    for stage, blocks in enumerate(BLOCKS[architecture]):
        if stage > 0:
            places[layer] = f"backbone.stages.{stage}.downsample"
            layer += 1
        for block in range(blocks):
            places[layer] = f"backbone.stages.{stage}.blocks.{block}"
            layer += 1
    # Up-sampling and concatenation have numbers too, but no weights.
    neck = [
        "encoder.input_proj.2",
        "encoder.encoder.0.layers.0",
        "encoder.lateral_convs.0",
        None,
        "encoder.input_proj.1",
        None,
        "encoder.fpn_blocks.0",
        "encoder.lateral_convs.1",
        None,
        "encoder.input_proj.0",
        None,
        "encoder.fpn_blocks.1",
        "encoder.downsample_convs.0",
        None,
        "encoder.pan_blocks.0",
        "encoder.downsample_convs.1",
        None,
        "encoder.pan_blocks.1",
        "decoder",
    ]
    for offset, place in enumerate(neck):
        if place is not None:
            places[layer + offset] = place
    return places


def from_ultralytics(name: str, places: dict):
    match = re.fullmatch(r"model\.(\d+)\.(.*)", name)
    place, rest = places[int(match[1])], match[2]
    if rest.startswith("denoising_class_embed."):
        return None
    if ".blocks." in place and place.startswith("backbone."):
        rest = re.sub(r"^m\.(\d)\.", r"layers.\1.", rest)
        rest = re.sub(r"^sc\.", "aggregation.0.", rest)
        rest = re.sub(r"^ec\.", "aggregation.1.", rest)
    elif place.startswith("encoder.input_proj."):
        rest = rest.replace("conv.", "0.").replace("bn.", "1.")
    elif place.startswith("encoder.encoder."):
        rest = rest.replace("ma.", "self_attn.").replace("fc", "linear")
    elif place.startswith("encoder."):
        rest = rest.replace("cv1.", "conv1.").replace("cv2.", "conv2.").replace("bn.", "norm.")
        rest = re.sub(r"^m\.(\d)\.", r"bottlenecks.\1.", rest)
    elif place == "decoder":
        rest = re.sub(r"^input_proj\.(\d)\.0\.", r"input_proj.\1.conv.", rest)
        rest = re.sub(r"^input_proj\.(\d)\.1\.", r"input_proj.\1.norm.", rest)
        rest = re.sub(r"^decoder\.layers\.", "decoder.layers.", rest)
    return f"{place}.{rest}", None
