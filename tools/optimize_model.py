"""Makes a copy of a model that ONNX Runtime has optimised beforehand, so that a session loads faster.

    python tools/optimize_model.py MODEL.onnx OUT.onnx

Make it on the machine that will run it, or one of the same kind, and with the same version of ONNX Runtime: the copy
holds layouts and fused operators of this processor and this version, which another may run slowly or refuse. It is for
the CPU; TensorRT has engines of its own. Exit status 1: the copy answers differently, and nothing is written.
"""

import argparse
import hashlib
import os
import pathlib
import sys
import tempfile
import time

import numpy as np
import onnxruntime

# The optimised graph adds up in another order; this is far below one byte of alpha.
LIMIT = 1e-4
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def session(path, level, optimised=None):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    # At this level it warns that the file fits this hardware only, which is what it is for.
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = os.fspath(optimised)
    begin = time.perf_counter()
    made = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return made, time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, default=1024, help="side to try it with, where the model leaves it open")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    levels = onnxruntime.GraphOptimizationLevel

    with tempfile.TemporaryDirectory(dir=arguments.out.resolve().parent, prefix=".optimise-") as folder:
        draft = pathlib.Path(folder) / "model.onnx"
        plain, cold = session(arguments.model, levels.ORT_ENABLE_ALL, draft)
        # As the worker loads it: nothing is left to optimise, and looking costs time.
        ready, warm = session(draft, levels.ORT_DISABLE_ALL)
        taken = plain.get_inputs()[0]
        if taken.type not in TYPES:
            sys.exit(f"the input is {taken.type}; give a model that takes floats")
        open_sides = [1, 3, arguments.size, arguments.size]
        shape = [side if isinstance(side, int) else open_sides[i] for i, side in enumerate(taken.shape)]
        x = np.random.default_rng(1).normal(size=shape).astype(TYPES[taken.type])
        pairs = zip(plain.run(None, {taken.name: x}), ready.run(None, {taken.name: x}), strict=True)
        worst = max(float(np.abs(a.astype(np.float32) - b.astype(np.float32)).max()) for a, b in pairs)
        version = onnxruntime.__version__
        print(f"load {cold:.2f} s, optimised {warm:.2f} s; max abs diff {worst:.1e}; ONNX Runtime {version}")
        # Not `>`: NaN is no agreement either.
        if not worst <= LIMIT:
            print(f"more than {LIMIT:g}: nothing is written", file=sys.stderr)
            return 1
        os.replace(draft, arguments.out)
    content = arguments.out.read_bytes()
    print(f"{hashlib.sha256(content).hexdigest()}  {len(content)}  {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
