"""Makes an ONNX file of InSPyReNet (SwinB) from the checkpoint of the package transparent-background.

    python tools/export_inspyrenet.py --size 1024 ckpt_base.pth inspyrenet-1024.onnx
    python tools/export_inspyrenet.py --size 384 ckpt_fast.pth inspyrenet-384.onnx
    python tools/export_inspyrenet.py --size 384 --random inspyrenet-random.onnx    to try it out, without a checkpoint

Input: `input`, f32, 1 × 3 × size × size: RGB / 255, less ImageNet's mean, by its deviation. Outputs, both 1 × 1 × size
× size: `probability`, which is what the package uses: sigmoid, then stretched from the least to the greatest value; and
`logits`, from before either, by which one can tell that there is no subject. Opset 16, one file of about 400 MB.

The file is run and compared with the package's own network before it is left there. Exit status 1: they differ by more
than LIMIT, and nothing is written.

The network: Kim et al., "Revisiting Image Pyramid Structure for High Resolution Salient Object Detection", ACCV 2022.
"""

import argparse
import hashlib
import os
import pathlib
import sys
import tempfile
import types
import warnings

import numpy as np
import onnx
import onnxruntime
import torch

with warnings.catch_warnings():
    # The package looks for its graphical interface, which nobody needs here.
    warnings.simplefilter("ignore")
    from transparent_background.InSPyReNet import InSPyReNet_SwinB

PACKAGE = "transparent-background 1.3.4"
OPSET = 16
# Greatest difference of any probability. A byte of alpha is 0.004.
LIMIT = 1e-4
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1)


class TwoOutputs(torch.nn.Module):
    """The package's `forward_inference` with `threshold=None` (one pass, no pyramid of pictures), and the logits."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        logits = self.network.forward_inspyre(x)["saliency"][3]
        p = torch.sigmoid(logits)
        return (p - p.min()) / (p.max() - p.min() + 1e-8), logits


def pictures(size, seed):
    """Normalised inputs to compare on: noise, a disc on a gradient, and a picture of one colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    disc = np.stack([x, y, 1 - x], axis=0)
    disc[:, (x - 0.45) ** 2 + (y - 0.55) ** 2 < 0.08] = np.array([[0.9], [0.1], [0.2]], np.float32)
    for picture in (rng.random((3, size, size), dtype=np.float32), disc, np.full((3, size, size), 0.5, np.float32)):
        yield (picture[None] - MEAN) / STD


def build(size):
    # `base_size` is baked in: the attention's context is computed at that size.
    return InSPyReNet_SwinB(depth=64, pretrained=False, base_size=[size, size], threshold=None).eval()


def load(network, checkpoint):
    # weights_only: a checkpoint is a pickle, and would run whatever is in it.
    network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True), strict=True)


def randomise(network, size, seed):
    """Weights as before training, but such that all parts take part and the logits have a usable range."""
    for name, parameter in network.named_parameters():
        # The gates of the self-attention begin at 0, which would hide mistakes behind them.
        if name.endswith("gamma"):
            parameter.data.fill_(0.5)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        # Without momentum the statistics are the mean over these pictures.
        norm.train()
        norm.momentum = None
    with torch.no_grad():
        for picture in pictures(size, seed):
            network(torch.from_numpy(picture))
    for norm in norms:
        norm.eval()
    # Each level adds to the logits what it finds; at their full range one of the pictures would be all 0 or all 1.
    for level, head in enumerate((network.attention2, network.attention1, network.attention0)):
        with torch.no_grad():
            found = [network.forward_inspyre(torch.from_numpy(x))["laplacian"][level] for x in pictures(size, seed)]
        head.conv_out4.bn.weight.data *= 2.0 / max(float(x.abs().max()) for x in found)


def attention_mask(height, width, window, shift):
    """Swin's mask of shifted windows [windows, window², window²]: 0 within a region, -100 across (Liu et al., 2021)."""

    def regions(count):
        padded = -(-count // window) * window
        region = np.zeros(padded, np.int64)
        region[padded - window : padded - shift] = 1
        region[padded - shift :] = 2
        return region

    label = regions(height)[:, None] * 3 + regions(width)[None, :]
    rows, columns = label.shape[0] // window, label.shape[1] // window
    label = label.reshape(rows, window, columns, window).transpose(0, 2, 1, 3).reshape(rows * columns, window * window)
    return torch.from_numpy(np.where(label[:, :, None] == label[:, None, :], 0.0, -100.0).astype(np.float32))


def forward_without_mask(self, x, height, width):
    """BasicLayer.forward with the mask as a constant: the package writes it in place, slice by slice."""
    for block in self.blocks:
        block.H, block.W = height, width
        x = block(x, self.attention_mask)
    if self.downsample is None:
        return x, height, width, x, height, width
    return x, height, width, self.downsample(x, height, width), (height + 1) // 2, (width + 1) // 2


def make_exportable(network, size):
    side = size // 4
    for layer in network.backbone.layers:
        layer.register_buffer("attention_mask", attention_mask(side, side, layer.window_size, layer.shift_size))
        layer.forward = types.MethodType(forward_without_mask, layer)
        side = (side + 1) // 2


def export(network, size, path):
    with warnings.catch_warnings():
        # Sizes become constants. That is meant: the size is fixed.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            TwoOutputs(network).eval(),
            (torch.zeros(1, 3, size, size),),
            path,
            input_names=["input"],
            output_names=["probability", "logits"],
            opset_version=OPSET,
            do_constant_folding=True,
            # The newer exporter begins at opset 18.
            dynamo=False,
        )


def describe(path, size, source):
    model = onnx.load(path)
    onnx.checker.check_model(model)
    onnx.helper.set_model_props(model, {
        "network": "InSPyReNet SwinB",
        "package": PACKAGE,
        "checkpoint": source,
        "input": f"RGB {size}x{size}, /255, mean 0.485 0.456 0.406, std 0.229 0.224 0.225",
        "outputs": "probability: sigmoid, min-max; logits: before both",
        "licence": "MIT",
    })  # fmt: skip
    onnx.save(model, path)


def compare(network, size, path):
    """Greatest differences of probability and logits over the test pictures, and the greatest logit."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    worst = np.zeros(3)
    for x in pictures(size, seed=1):
        with torch.no_grad():
            expected = network(torch.from_numpy(x)).numpy()
            raw = network.forward_inspyre(torch.from_numpy(x))["saliency"][3].numpy()
        probability, logits = session.run(None, {"input": x})
        differences = np.abs(probability - expected).max(), np.abs(logits - raw).max(), np.abs(raw).max()
        worst = np.maximum(worst, differences)
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, choices=(384, 1024), required=True, help="side of the model's input")
    parser.add_argument("--random", action="store_true", help="random weights; no checkpoint is given then")
    parser.add_argument("--seed", type=int, default=1, help="of the random weights (default 1)")
    parser.add_argument(
        "files", nargs="+", metavar="[CHECKPOINT] OUT", help="the .pth file, and the .onnx file to write"
    )
    arguments = parser.parse_args()
    if len(arguments.files) != (1 if arguments.random else 2):
        parser.error("give CHECKPOINT and OUT, or --random and OUT")
    out = pathlib.Path(arguments.files[-1])

    torch.manual_seed(arguments.seed)
    network = build(arguments.size)
    if arguments.random:
        randomise(network, arguments.size, arguments.seed)
        source = f"random, seed {arguments.seed}"
    else:
        checkpoint = pathlib.Path(arguments.files[0])
        load(network, checkpoint)
        source = f"{checkpoint.name} sha256:{hashlib.sha256(checkpoint.read_bytes()).hexdigest()}"

    # Beside the target, so that it can be renamed: whoever finds OUT finds a file that was compared.
    with tempfile.TemporaryDirectory(dir=out.resolve().parent, prefix=".export-") as folder:
        draft = os.path.join(folder, "model.onnx")
        exportable = build(arguments.size)
        exportable.load_state_dict(network.state_dict(), strict=True)
        make_exportable(exportable, arguments.size)
        export(exportable, arguments.size, draft)
        del exportable
        describe(draft, arguments.size, source)
        probability, logits, greatest = compare(network, arguments.size, draft)
        print(f"max abs diff to torch: probability {probability:.2e}, logits {logits:.2e} (of {greatest:.1f} at most)")
        # Not `>`: NaN is no agreement either.
        if not probability <= LIMIT:
            print(f"more than {LIMIT:g}: nothing is written", file=sys.stderr)
            return 1
        os.replace(draft, out)
    content = out.read_bytes()
    print(f"{hashlib.sha256(content).hexdigest()}  {len(content)}  {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
