"""The distances of `quality` in a second space: features of ImageNet (`imagenet.py`).

    python tests/benchmarks/generated.py --data_dir=DIR --out=generated_imagenet.jsonl RUN [RUN ...]

Appends a JSON row a run, for as many samples as there are validation images. Minutes a run, because
a core computes the features of about 6 images a second. Exit codes: 0 done, 2 bad input.
"""

import rows
from imagenet import features_of

from ssl_gan_jax import inference
from ssl_gan_jax.commands import quality
from ssl_gan_jax.data.scale import to_uint8

COMMAND = "python tests/benchmarks/generated.py --data_dir=DIR --out=OUT RUN"
SAMPLES = 500


def main(args):
    known = {}  # the real images of runs with other seeds are the same

    def features(x):
        levels = to_uint8(x)
        key = levels.tobytes()
        if key not in known:
            known[key] = features_of(levels).astype("float64")
        return known[key]

    for folder in args.runs:
        run = inference.open_run(folder)
        inference.require(run, "generator")
        samples = quality.measure(run, features, args.data_dir, SAMPLES)
        row = {"cell": run.result["cell"], "features": "EfficientNet-Lite0", "samples": samples}
        rows.append(args.out, row, COMMAND)


if __name__ == "__main__":
    rows.run(main, "generated", __doc__)
