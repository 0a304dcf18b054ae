"""Writes a trained classifier in a form that other programs run.

    python -m ssl_gan_jax.export --workdir=RUN --format=onnx        writes RUN/export/model.onnx
    python -m ssl_gan_jax.export --workdir=RUN --format=stablehlo   RUN/export/model.stablehlo
    python -m ssl_gan_jax.export --workdir=RUN --format=savedmodel --out=DIR     DIR/saved_model/

All take images float32 [B,S,S,1] in [-1,1], for any B, and return `predict`'s probabilities [B,K]
and ood scores [B] (NaN if the run has no calibration). preprocessing.json in the same folder says
how to make that input from an image, and what the outputs mean. `jax.export.deserialize` reads
stablehlo on CPU, GPU and TPU; TensorFlow 2.16 or newer reads savedmodel; onnxruntime and others
read onnx (pip install 'ssl_gan_jax[export]'). Exit codes: 0 done, 2 bad input.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from ssl_gan_jax import inference
from ssl_gan_jax.commands import arguments, ending
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation.calibration import POINTS
from ssl_gan_jax.files import atomic_write, user_error, write_json
from ssl_gan_jax.inference import FinishedRun
from ssl_gan_jax.nets import convolution
from ssl_gan_jax.targets import FINDINGS
from ssl_gan_jax.types import Array

PLATFORMS = ("cpu", "cuda", "tpu")


def portable(run: FinishedRun) -> Callable[[Array], tuple[Array, Array]]:
    """Images [B,S,S,1] in [-1,1] -> probabilities [B,K] and ood scores [B], in plain operations.

    It is traced for one image and mapped over the batch. So B may be symbolic, and converters see
    neither Flax modules nor the convolution for CPUs.
    """
    inference.require(run, "classifier")
    size = run.config["data"]["size"]

    def answer(images: Array) -> tuple[Array, Array]:
        logits, ood = inference.predict(run, images)
        return (jax.nn.sigmoid if run.target is FINDINGS else jax.nn.softmax)(logits), ood

    with convolution.form("xla"):
        traced = jax.make_jaxpr(answer)(jnp.zeros((1, size, size, 1)))
    evaluate = jax.extend.core.jaxpr_as_fun(traced)
    return jax.vmap(lambda image: tuple(out[0] for out in evaluate(image[None])))


def preprocessing(run: FinishedRun) -> dict[str, Any]:
    """How to make the model's input, and what its outputs mean; JSON-ready."""
    data, size = run.config["data"], run.config["data"]["size"]
    equalize, aspect = data["equalize"], data["aspect"]
    fitted, has_threshold = run.calibration, run.target.has_threshold(len(run.classes))
    points, decision = fitted.operating_points, "the most probable class"
    if run.target is FINDINGS:
        points = POINTS if any(of["operating_points"] for of in fitted.findings) else ()
        decision = "each finding whose probability >= its threshold"
    elif has_threshold:
        decision = f"{run.classes[-1]} if its probability >= threshold"
    return {
        "input": {
            "shape": ["batch", size, size, 1],
            "dtype": "float32",
            "steps": [
                "decode to one gray channel in [0,1], black 0; files deeper than 8 bits are "
                "scaled by their own least and greatest value",
                f"equalise the histogram at full resolution: {equalize} (hist: each gray level of "
                "65536 becomes the share of pixels that are not brighter)",
                f"resize to {size}x{size} ({aspect}), bilinear and anti-aliased as Pillow's, on "
                "floats",
                "round to uint8 in 0..255",
                "x / 127.5 - 1",
            ],
            "reference": "ssl_gan_jax.data.images.read_image, then prepare",
        },
        "outputs": {
            "probability": {"shape": ["batch", len(run.classes)], "classes": list(run.classes)},
            "ood_score": {
                "shape": ["batch"],
                "meaning": "above 1: unlike the images of the run, its probability means nothing",
                "known": run.calibration.ood_detector is not None,
            },
        },
        "temperature": np.asarray(fitted.scale).tolist(),  # included in the model
        "threshold": np.asarray(fitted.threshold()).tolist() if has_threshold else None,
        "operating_points": {n: np.asarray(fitted.threshold(n)).tolist() for n in points},
        "decision": decision,
        "method": run.config["method"]["name"],
        "notice": "not for clinical use",
    }


def stablehlo(run: FinishedRun, out: Path) -> Path:
    """Writes model.stablehlo for PLATFORMS, with the weights, in `jax.export`'s format."""
    size = run.config["data"]["size"]
    (batch,) = jax.export.symbolic_shape("b")
    image = jax.ShapeDtypeStruct((batch, size, size, 1), jnp.float32)
    exported = jax.export.export(jax.jit(portable(run)), platforms=PLATFORMS)(image)
    with atomic_write(path := out / "model.stablehlo", "wb") as file:
        file.write(exported.serialize())
    return path


def savedmodel(run: FinishedRun, out: Path) -> Path:
    """Writes the folder saved_model, with the signature `serving_default`."""
    from jax.experimental import jax2tf

    from ssl_gan_jax.data import tf_import

    tf = tf_import.tensorflow()
    size = run.config["data"]["size"]
    model = jax2tf.convert(
        portable(run),
        polymorphic_shapes=[f"(b,{size},{size},1)"],
        with_gradient=False,
        native_serialization_platforms=PLATFORMS,
    )

    def serve(image: Any) -> dict[str, Any]:  # noqa: ANN401
        probability, ood = model(image)
        return {"probability": probability, "ood_score": ood}

    spec = tf.TensorSpec([None, size, size, 1], tf.float32, name="image")
    module = tf.Module()
    module.serve = tf.function(serve, input_signature=[spec], autograph=False)
    path = out / "saved_model"
    with user_error(path):
        path.mkdir(parents=True, exist_ok=True)
        tf.saved_model.save(module, str(path), signatures=module.serve)
    return path


def onnx(run: FinishedRun, out: Path) -> Path:
    """Writes model.onnx. Raises UserError without jax2onnx."""
    try:
        import jax2onnx
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install 'ssl_gan_jax[export]'") from None
    for name in ("jax2onnx", "onnx_ir"):  # they warn of unused plug-ins
        logging.getLogger(name).setLevel(logging.ERROR)
    size = run.config["data"]["size"]
    model = jax2onnx.to_onnx(
        portable(run),
        [("B", size, size, 1)],
        model_name="ssl_gan_jax",
        input_names=["image"],
        output_names=["probability", "ood_score"],
    )
    with atomic_write(path := out / "model.onnx", "wb") as file:
        file.write(model.SerializeToString())
    return path


FORMATS = {"stablehlo": stablehlo, "savedmodel": savedmodel, "onnx": onnx}

PARSER = arguments.Parser("export", __doc__)
PARSER.add_argument("--format", choices=sorted(FORMATS), required=True)
PARSER.add_output("--out", "DIR", help="default: RUN/export")


def main(args: argparse.Namespace) -> None:
    """Writes the model and preprocessing.json."""
    run = inference.open_run(args.workdir)
    out = args.out or arguments.output(run.workdir / "export", "--out", folder=True)
    path = FORMATS[args.format](run, out)
    write_json(out / "preprocessing.json", preprocessing(run))
    ending.print_result(args.json, model=str(path), preprocessing=str(out / "preprocessing.json"))


if __name__ == "__main__":
    arguments.run(main, PARSER)
