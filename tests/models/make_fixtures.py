"""Makes fixtures/models/*.onnx: tiny networks shaped like the real ones, and some that must be refused.

    python tests/models/make_fixtures.py            writes the files, prints sizes and SHA-256
    python tests/models/make_fixtures.py --check    writes nothing; fails unless the files are what this script makes

The good ones look for what differs from the colour of the picture's border, so a test can judge a mask by eye and by
number: a disc on a plain ground gives a disc, a plain picture gives logits of about -4.5 everywhere. Names of inputs
and outputs are those of the exports in use, which agree in nothing: whoever runs a model has to read them from it.
"""

import argparse
import hashlib
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "models"

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ISNET = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))

# A pixel this far from the border's colour (root mean square over the channels, 0..1) has the logit 0.
THRESHOLD = 0.15
SLOPE = 30.0


class Graph:
    """Nodes and constants of one model, in the order in which they are added."""

    def __init__(self):
        self.nodes = []
        self.constants = []

    def add(self, operator, inputs, output=None, **attributes):
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, value, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def save(self, name, inputs, outputs):
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        model = helper.make_model(
            graph,
            producer_name="concept-worker fixtures",
            opset_imports=[helper.make_opsetid("", 16)],
            # What goes with opset 16; newer versions need a newer runtime.
            ir_version=8,
        )
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)


def tensor(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def smooth(graph, x, radius):
    """A box of 2·radius + 1 pixels a side over the picture reflected at its edges, as a convolution."""
    side = 2 * radius + 1
    pads = graph.constant([0, 0, radius, radius] * 2, np.int64)
    padded = graph.add("Pad", [x, pads], mode="reflect")
    return graph.add("Conv", [padded, graph.constant(np.full((1, 1, side, side), 1.0 / side**2))])


def subject(graph, x, mean, std, output=None):
    """Logits [N, 1, H, W] of a normalised picture [N, 3, H, W]: how far a pixel is from the border's mean colour."""
    scale = graph.constant(np.diag(std).reshape(3, 3, 1, 1))
    picture = graph.add("Conv", [x, scale, graph.constant(mean)])
    # Four strips of four pixels, averaged. Every strip has its own count of pixels, which matters little here.
    strips = []
    for axis in (2, 3):
        for begin, end in ((0, 4), (-4, 2**31 - 1)):
            bounds = [graph.constant([value], np.int64) for value in (begin, end, axis)]
            strip = graph.add("Slice", [picture, *bounds])
            strips.append(graph.add("ReduceMean", [strip], axes=[2, 3], keepdims=1))
    border = graph.add("Mean", strips)
    difference = graph.add("Sub", [picture, border])
    square = graph.add("Mul", [difference, difference])
    distance = graph.add("Sqrt", [graph.add("ReduceMean", [square], axes=[1], keepdims=1)])
    distance = smooth(graph, distance, 1)
    scaled = graph.add("Mul", [distance, graph.constant(SLOPE)])
    return graph.add("Add", [scaled, graph.constant(-SLOPE * THRESHOLD)], output)


def inspyrenet():
    """transparent-background 1.3.4 in `fast` mode, as tools/export_inspyrenet.py exports it."""
    graph = Graph()
    logits = subject(graph, "input", *IMAGENET, output="logits")
    p = graph.add("Sigmoid", [logits])
    low = graph.add("ReduceMin", [p], keepdims=1)
    high = graph.add("ReduceMax", [p], keepdims=1)
    span = graph.add("Add", [graph.add("Sub", [high, low]), graph.constant(1e-8)])
    graph.add("Div", [graph.add("Sub", [p, low]), span], "probability")
    shape = [1, 1, 384, 384]
    return graph.save(
        "inspyrenet", [tensor("input", [1, 3, 384, 384])], [tensor("probability", shape), tensor("logits", shape)]
    )


def u2netp():
    """Seven maps, the fused one first, then the side outputs, each coarser than the one before."""
    graph = Graph()
    logits = subject(graph, "input.1", *IMAGENET)
    outputs = []
    for i in range(7):
        graph.add("Sigmoid", [logits if i == 0 else smooth(graph, logits, 2 * i)], str(1959 + i))
        outputs.append(tensor(str(1959 + i), [1, 1, 320, 320]))
    return graph.save("u2netp", [tensor("input.1", [1, 3, 320, 320])], outputs)


def birefnet():
    """Logits, which need a sigmoid. The real one is 1024 a side."""
    graph = Graph()
    subject(graph, "input_image", *IMAGENET, output="output_image")
    return graph.save("birefnet", [tensor("input_image", [1, 3, 256, 256])], [tensor("output_image", [1, 1, 256, 256])])


def isnet():
    """A map, with a normalisation of its own. The real one is 1024 a side."""
    graph = Graph()
    graph.add("Sigmoid", [subject(graph, "img", *ISNET)], "mask")
    return graph.save("isnet", [tensor("img", [1, 3, 256, 256])], [tensor("mask", [1, 1, 256, 256])])


def dynamic():
    """Any batch and any size: sides are symbols, which a session reports as -1. Logits, as BiRefNet's."""
    graph = Graph()
    subject(graph, "pixel_values", *IMAGENET, output="logits")
    return graph.save(
        "dynamic",
        [tensor("pixel_values", ["batch", 3, "height", "width"])],
        [tensor("logits", ["batch", 1, "height", "width"])],
    )


def float16():
    """Half precision at both ends, as BiRefNet's own notebook exports it. Logits."""
    graph = Graph()
    x = graph.add("Cast", ["input_image"], to=TensorProto.FLOAT)
    logits = subject(graph, x, *IMAGENET)
    graph.add("Cast", [logits], "output_image", to=TensorProto.FLOAT16)
    half = TensorProto.FLOAT16
    return graph.save(
        "float16", [tensor("input_image", [1, 3, 256, 256], half)], [tensor("output_image", [1, 1, 256, 256], half)]
    )


def rank3():
    """No batch axis."""
    graph = Graph()
    graph.add("ReduceMean", ["input"], "mask", axes=[0], keepdims=1)
    return graph.save("rank3", [tensor("input", [3, 64, 64])], [tensor("mask", [1, 64, 64])])


def wrong_channels():
    """Takes a grey picture."""
    graph = Graph()
    graph.add("Sigmoid", ["input"], "mask")
    return graph.save("wrong_channels", [tensor("input", [1, 1, 64, 64])], [tensor("mask", [1, 1, 64, 64])])


def int_input():
    """Takes bytes."""
    graph = Graph()
    x = graph.add("Cast", ["input"], to=TensorProto.FLOAT)
    mean = graph.add("ReduceMean", [x], axes=[1], keepdims=1)
    graph.add("Div", [mean, graph.constant(255.0)], "mask")
    return graph.save(
        "int_input", [tensor("input", [1, 3, 64, 64], TensorProto.UINT8)], [tensor("mask", [1, 1, 64, 64])]
    )


def classifier():
    """Says what is in a picture, not where: the input is right, the output is a row of scores."""
    graph = Graph()
    pooled = graph.add("Flatten", [graph.add("GlobalAveragePool", ["input"])])
    graph.add("Softmax", [pooled], "scores", axis=1)
    return graph.save("classifier", [tensor("input", [1, 3, 64, 64])], [tensor("scores", [1, 3])])


def nan():
    """Loads, runs, and answers with nothing but NaN (0 / 0)."""
    graph = Graph()
    mean = graph.add("ReduceMean", ["input"], axes=[1], keepdims=1)
    zero = graph.add("Sub", [mean, mean])
    graph.add("Div", [zero, zero], "mask")
    return graph.save("nan", [tensor("input", [1, 3, 64, 64])], [tensor("mask", [1, 1, 64, 64])])


def hungry():
    """Loads, and asks for 192 TiB when it runs: more than a process can address, so no overcommitment grants it."""
    graph = Graph()
    shape = graph.constant([2**28, 3, 256, 256], np.int64)
    huge = graph.add("Expand", ["input", shape])
    graph.add("ReduceMax", [huge], "mask", axes=[0, 1], keepdims=1)
    return graph.save("hungry", [tensor("input", [1, 3, 256, 256])], [tensor("mask", [1, 1, 256, 256])])


MODELS = (
    inspyrenet, u2netp, birefnet, isnet, dynamic, float16,
    rank3, wrong_channels, int_input, classifier, nan, hungry,
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    FOLDER.mkdir(parents=True, exist_ok=True)
    different = []
    total = 0
    for build in MODELS:
        content = build()
        path = FOLDER / f"{build.__name__}.onnx"
        if not check:
            path.write_bytes(content)
        elif not path.is_file() or path.read_bytes() != content:
            different.append(path.name)
        total += len(content)
        print(f"{hashlib.sha256(content).hexdigest()}  {len(content):6}  {path.name}")
    print(f"{total} bytes in {len(MODELS)} files")
    if different:
        sys.exit(f"not what this script makes: {', '.join(different)}")


if __name__ == "__main__":
    main()
