"""What the packages that people use make of a picture and a model, number by number, for comparison.

    python tests/models/goldens.py CONTRACT MODEL.onnx OUT PICTURE...

writes OUT/<picture's name without its suffix>/:

    input_u8.bin     the picture at the model's size: height × width × 3 bytes, RGB
    input_f32.bin    what the model gets: 1 × 3 × height × width
    output_f32.bin   the output that the contract uses, untouched: 1 × 1 × height × width
    mask_f32.bin     the mask at the picture's size, before it becomes bytes
    mask_u8.bin      the mask at the picture's size, as the package has it
    meta.json        shapes, names, checksums, versions

All numbers little endian, rows from the top. Contracts and where they were read:

    inspyrenet           transparent-background 1.3.4, Remover.process, resize="static"
    birefnet             BiRefNet's README and model card (torchvision, PIL)
    birefnet-inference   BiRefNet's inference.py, the resizing back; the rest as above
    isnet                DIS, IS-Net/Inference.py
    rembg-u2net, rembg-isnet, rembg-birefnet
                         rembg 2.0.86, sessions/{base,u2net,u2netp,silueta,dis_general_use,birefnet_general}.py

birefnet and rembg's three make bytes at the model's size and resize those, so they have no mask of floats at the
picture's size. There mask_f32.bin is the map itself, resized by the same filter: what the package would have without
its 8 bits in between.
"""

import argparse
import hashlib
import json
import pathlib
import sys

import numpy as np
import onnxruntime
import PIL
from PIL import Image, ImageOps

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


def bilinear(plane, height, width, align_corners):
    """torch.nn.functional.interpolate(mode="bilinear", antialias=False) of one plane of f32, in f32 as there."""

    def taps(count, size):
        i = np.arange(size, dtype=np.float32)
        if align_corners:
            at = i * np.float32((count - 1) / (size - 1) if size > 1 else 0.0)
        else:
            scale = np.float32(count / size)
            at = np.maximum((i + np.float32(0.5)) * scale - np.float32(0.5), np.float32(0.0))
        low = np.minimum(at.astype(np.int64), count - 1)
        high = np.minimum(low + 1, count - 1)
        return low, high, np.clip(at - low.astype(np.float32), 0.0, 1.0).astype(np.float32)

    y0, y1, fy = taps(plane.shape[0], height)
    x0, x1, fx = taps(plane.shape[1], width)
    one = np.float32(1.0)
    rows = plane[:, x0] * (one - fx) + plane[:, x1] * fx
    return rows[y0] * (one - fy)[:, None] + rows[y1] * fy[:, None]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def stretch(p):
    low, high = p.min(), p.max()
    return (p - low) / (high - low)


def resize_float(plane, size, resample):
    return np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, resample))


# ---- each takes a PIL picture and the model's size (width, height): bytes [H, W, 3] and floats [3, H, W] of it ----


def before_inspyrenet(picture, size):
    small = picture.convert("RGB").resize(size, Image.BILINEAR)
    x = np.array(small, dtype=np.float32)
    # In place on f32, but mean and deviation are f64 for a moment: as there.
    x /= 255
    x -= IMAGENET_MEAN
    x /= IMAGENET_STD
    return np.array(small), x.transpose(2, 0, 1)


def before_birefnet(picture, size):
    # torchvision's Resize of a PIL picture is PIL's own, which averages over what it shrinks.
    small = np.array(picture.convert("RGB").resize(size, Image.BILINEAR))
    x = small.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    mean = np.array(IMAGENET_MEAN, np.float32).reshape(3, 1, 1)
    std = np.array(IMAGENET_STD, np.float32).reshape(3, 1, 1)
    return small, (x - mean) / std


def before_isnet(picture, size):
    # Two taps, however much the picture shrinks; then bytes, cut off.
    planes = np.array(picture.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)
    small = np.stack([bilinear(plane, size[1], size[0], align_corners=False) for plane in planes]).astype(np.uint8)
    x = small.astype(np.float32) / np.float32(255) - np.float32(0.5)
    return small.transpose(1, 2, 0).copy(), x


def before_rembg(mean, std):
    def before(picture, size):
        small = np.array(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS))
        # By the brightest value of the picture, not by 255.
        x = small / max(np.max(small), 1e-6)
        return small, ((x - mean) / std).transpose(2, 0, 1).astype(np.float32)

    return before


# ---- each takes a plane of the model's output and the picture's size, and returns floats and bytes of that size ----


def after_inspyrenet(plane, size):
    mask = bilinear(plane, size[1], size[0], align_corners=True)
    return mask, (mask * 255).astype(np.uint8)


def after_birefnet(plane, size):
    p = sigmoid(plane)
    small = Image.fromarray((p * 255).astype(np.uint8), mode="L")
    # `resize` without a filter is bicubic for such a picture.
    return resize_float(p, size, Image.BICUBIC), np.asarray(small.resize(size, Image.BICUBIC))


def after_birefnet_inference(plane, size):
    mask = bilinear(sigmoid(plane), size[1], size[0], align_corners=True)
    # torchvision's ToPILImage cuts off.
    return mask, (mask * 255).astype(np.uint8)


def after_isnet(plane, size):
    mask = stretch(bilinear(plane, size[1], size[0], align_corners=False))
    return mask, (mask * 255).astype(np.uint8)


def after_rembg(logits):
    def after(plane, size):
        p = stretch(sigmoid(plane) if logits else plane)
        small = Image.fromarray((p.clip(0, 1) * 255).astype("uint8"), mode="L")
        lanczos = Image.Resampling.LANCZOS
        return resize_float(p, size, lanczos), np.asarray(small.resize(size, lanczos))

    return after


# Name: before, after, which of the model's outputs, whether the picture is turned by its EXIF orientation first.
CONTRACTS = {
    "inspyrenet": (before_inspyrenet, after_inspyrenet, 0, False),
    "birefnet": (before_birefnet, after_birefnet, -1, False),
    "birefnet-inference": (before_birefnet, after_birefnet_inference, -1, False),
    "isnet": (before_isnet, after_isnet, 0, False),
    "rembg-u2net": (before_rembg(IMAGENET_MEAN, IMAGENET_STD), after_rembg(logits=False), 0, True),
    "rembg-isnet": (before_rembg([0.5] * 3, [1.0] * 3), after_rembg(logits=False), 0, True),
    "rembg-birefnet": (before_rembg(IMAGENET_MEAN, IMAGENET_STD), after_rembg(logits=True), 0, True),
}


def write(folder, name, array, dtype):
    array = np.ascontiguousarray(array, dtype=dtype)
    (folder / name).write_bytes(array.tobytes())
    return list(array.shape)


def golden(session, model, contract, size, path, out):
    before, after, index, turn = CONTRACTS[contract]
    content = path.read_bytes()
    picture = Image.open(path)
    if turn:
        picture = ImageOps.exif_transpose(picture)
    small, x = before(picture, size)
    taken = session.get_inputs()[0]
    given = x[None].astype(np.float16 if taken.type == "tensor(float16)" else np.float32)
    output = session.run(None, {taken.name: given})[index].astype(np.float32)
    floats, mask = after(output[0, 0], picture.size)

    folder = out / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    meta = {
        "contract": contract,
        "picture": {"name": path.name, "sha256": hashlib.sha256(content).hexdigest(), "size": list(picture.size)},
        "model": model,
        "input": {"name": taken.name, "shape": list(given.shape)},
        "output": {
            "name": session.get_outputs()[index].name,
            "shape": list(output.shape),
            "range": [float(output.min()), float(output.max())],
        },
        "files": {
            "input_u8.bin": write(folder, "input_u8.bin", small, "<u1"),
            "input_f32.bin": write(folder, "input_f32.bin", x[None], "<f4"),
            "output_f32.bin": write(folder, "output_f32.bin", output, "<f4"),
            "mask_f32.bin": write(folder, "mask_f32.bin", floats, "<f4"),
            "mask_u8.bin": write(folder, "mask_u8.bin", mask, "<u1"),
        },
        "mask_mean": float(mask.mean() / 255),
        "versions": {
            "numpy": np.__version__,
            "onnxruntime": onnxruntime.__version__,
            "pillow": PIL.__version__,
        },
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(f"{folder}: mean {meta['mask_mean']:.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, default=1024, help="side, where the model leaves it open (default 1024)")
    parser.add_argument("contract", choices=sorted(CONTRACTS))
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("pictures", type=pathlib.Path, nargs="+")
    arguments = parser.parse_args()
    if len({path.stem for path in arguments.pictures}) < len(arguments.pictures):
        sys.exit("two pictures have the same name without its suffix")

    options = onnxruntime.SessionOptions()
    # One thread: the same sums in the same order, on any machine of the same kind.
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(arguments.model, options, providers=["CPUExecutionProvider"])
    model = {"name": arguments.model.name, "sha256": hashlib.sha256(arguments.model.read_bytes()).hexdigest()}
    height, width = (side if isinstance(side, int) else arguments.size for side in session.get_inputs()[0].shape[2:])
    for path in arguments.pictures:
        golden(session, model, arguments.contract, (width, height), path, arguments.out)


if __name__ == "__main__":
    main()
