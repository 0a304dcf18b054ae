r"""The first hour on an accelerator: are its numbers right, how fast is it, and whole tables.

    python tests/benchmarks/accelerator.py --out=DIR
    python tests/benchmarks/accelerator.py --out=DIR --only=tables --data=images.npz \
        --config=configs/few_labels.py --cells=labels=10
    python tests/benchmarks/accelerator.py --prepare=images.npz --config=configs/few_labels.py \
        --data_dir=IMAGES       first, on a machine with TensorFlow and the images

Parts: `check` (three steps of every method against the CPU's, in float32 at the highest precision),
`times` (milliseconds a step, share of the rate of `a @ b`, memory), `twins` (PyTorch's beside ours,
in turns; needs PyTorch) and `tables` (the cells of a config file's sweep; seeds train as one
program). The others need neither TensorFlow nor a network, only jax, flax, optax, ml_collections,
absl-py, numpy. Rows are written as they come, and no cell begins after --seconds. Exit codes: 0
done, 1 a loss differs by more than TOLERANCE.

images.npz holds pixels and ids of patients: keep it where those may be.
"""

import argparse
import functools
import itertools
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = map(str, (REPOSITORY, REPOSITORY / "tests", REPOSITORY / "tests/benchmarks"))

from cases import (  # noqa: E402
    WIDTH,
    compiled,
    config_of,
    many_steps,
    single_step,
    stacked,
    stepper,
    without_shift,
)
from timing import alternate, count_flops, program_memory, seconds  # noqa: E402
from tiny import METHODS  # noqa: E402
from tiny import batch as batch_of  # noqa: E402

import ssl_gan_jax  # noqa: E402
from ssl_gan_jax.commands import sweep  # noqa: E402
from ssl_gan_jax.data import dataset  # noqa: E402
from ssl_gan_jax.data.records import Records  # noqa: E402
from ssl_gan_jax.data.scale import to_float  # noqa: E402
from ssl_gan_jax.evaluation import calibration, metrics  # noqa: E402
from ssl_gan_jax.nets import convolution  # noqa: E402
from ssl_gan_jax.types import Batch  # noqa: E402

TOLERANCE = 1e-3  # of a loss in the first three steps, relative to 1 + its size
FIELDS = ("image", "label", "patient", "path", "split", "site", "classes")  # of Records
USUAL = {"batch": 64, "precision": "float32", "steps": 1, "replicas": 1}
OTHER = {  # one setting at a time is changed in USUAL
    "batch": (10, 256, 2048),
    "precision": ("tensorfloat32", "bfloat16"),
    "steps": (20,),
    "replicas": (5, 20),
}
TIMED = ("three_n_gan", "ssl_gan", "supervised")


# --- check -------------------------------------------------------------------------------------


def check(options):
    """The largest difference of a loss to the CPU's; on a CPU, of its convolutions to XLA's."""
    device, cpu = jax.devices()[0], jax.devices("cpu")[0]
    forms = ("auto", "auto") if device.platform != "cpu" else ("xla", "cpu")
    for name in in_time(options, options.methods or METHODS):
        ours, cpus = (losses(name, *at) for at in zip((device, cpu), forms, strict=True))
        gap = float((np.abs(ours - cpus) / (1 + np.abs(cpus))).max())
        yield {"method": name, "difference": gap, "agrees": gap <= TOLERANCE}


def losses(name, device, form):
    """[3, terms] the losses of the first three steps."""
    config = config_of(name, 16, width=8)
    batch = jax.tree.map(np.asarray, batch_of(name, 8, 16))
    found = []
    with (
        jax.default_device(device),
        jax.default_matmul_precision("highest"),
        convolution.form(form),
    ):
        method = ssl_gan_jax.build(config)
        state, step = jax.jit(method.init)(jax.random.key(0), batch), jax.jit(method.train_step)
        for _ in range(3):
            state, terms = step(state, batch)
            found.append(jax.tree.leaves(jax.device_get(terms)))
    return np.array(found)


# --- times -------------------------------------------------------------------------------------


def times(options):
    """Milliseconds of a training step; each setting differs from USUAL in one thing."""
    settings = [USUAL, *(USUAL | {key: value} for key in OTHER for value in OTHER[key])]
    cells = itertools.product(settings, options.sizes, options.methods or TIMED)
    for setting, size, name in in_time(options, cells):
        cell = {"method": name, "size": size, **setting}
        yield cell | timed(name, size, options.width, **setting)


def timed(name, size, width, batch, precision, steps, replicas):
    """The measured columns of a row; what does not fit into the memory has only the reason."""
    config = config_of(name, size, width=width)
    if precision == "bfloat16":
        config.dtype = precision
    images, method = batch_of(name, batch, size), ssl_gan_jax.build(config)
    try:
        with jax.default_matmul_precision(precision):
            state = jax.jit(method.init)(jax.random.key(0), images)
            gflop = count_flops(*without_shift(config, state, images)) / 1e9 * replicas
            step = method.train_step
            if replicas > 1:
                step = jax.vmap(step)
                state, images = stacked(state, replicas), stacked(images, replicas)
            if steps > 1:
                program, images = many_steps(step, steps), stacked(images, steps)
            else:
                program = jax.jit(step, donate_argnums=0)
            program = program.lower(state, images).compile()
            s = alternate({"step": stepper(program, state, images)}, 1.0)["step"] / steps
    except jax.errors.JaxRuntimeError as error:
        return {"failed": str(error).splitlines()[0][:100]}
    return {
        "ms": 1e3 * s,
        "images_s": batch * replicas / s,
        "gflops": gflop / s,
        "of_matrix_rate": gflop / s / matrix_rate(precision),
        "program_mb": program_memory(program) / 1e6,
    }


@functools.cache
def matrix_rate(precision):
    """GFLOP/s of `a @ b` at this precision."""
    n = 1024 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((n, n), jnp.bfloat16 if precision == "bfloat16" else jnp.float32)
    with jax.default_matmul_precision(precision):
        product = jax.jit(jnp.matmul)
        product(a, a).block_until_ready()
        return (
            2e-9 * n**3 / min(seconds(lambda: product(a, a).block_until_ready()) for _ in "abcde")
        )


# --- twins -------------------------------------------------------------------------------------


def twins(options):
    """Milliseconds of our step and of its PyTorch twin's, in turns, for each way to compute."""
    import torch

    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if where.type != ("cpu" if jax.default_backend() == "cpu" else "cuda"):
        print(f"twins: left out, because PyTorch is on {where} and JAX is not")
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    batches = (10, USUAL["batch"]) if where.type == "cuda" else (USUAL["batch"],)
    cells = itertools.product(options.methods or TIMED, options.sizes, batches)
    for name, size, b in in_time(options, cells):
        config, batch = config_of(name, size, width=options.width), batch_of(name, b, size)
        runs = dict(ours(config, batch)) | dict(theirs(name, config, batch, where))
        ms = {f"{way}_ms": 1e3 * s for way, s in alternate(runs, 3.0).items()}
        best = min(value for way, value in ms.items() if not way.startswith("ours"))
        ratio = best / min(value for way, value in ms.items() if way.startswith("ours"))
        yield {"method": name, "size": size, "batch": b, **ms, "torch_over_ours": ratio}


def ours(config, batch):
    """`(name, run(n))` of our step with TensorFloat-32 products, and in bfloat16."""
    for precision, dtype in (("tensorfloat32", "float32"), ("bfloat16", "bfloat16")):
        changed = config.copy_and_resolve_references()
        changed.dtype = dtype
        method = ssl_gan_jax.build(changed)
        with jax.default_matmul_precision(precision):
            state = jax.jit(method.init)(jax.random.key(0), batch)
            step = compiled(single_step(method), state, batch)
        yield f"ours_{precision}", stepper(step, state, batch)


def theirs(name, config, batch, where):
    """The same of the twin: eager, channels_last in 16 bits, and compiled with CUDA graphs."""
    import torch
    from twins import Twin, tensors

    state = jax.jit(ssl_gan_jax.build(config).init)(jax.random.key(0), batch)
    ways = {  # layout, whether in 16 bits, mode of torch.compile
        "eager": (torch.contiguous_format, False, None),
        "channels_last_16": (torch.channels_last, True, None),
    }
    if where.type == "cuda":
        ways["graphs_16"] = torch.channels_last, True, "reduce-overhead"
    for way, (layout, half, mode) in ways.items():
        with where:
            twin, data = Twin(name, config, state, layout), tensors(batch)
        if mode:
            twin.compile(mode=mode)

        def run(n, twin=twin, data=data, half=half):
            with where, torch.autocast(where.type, torch.bfloat16, enabled=half):
                for _ in range(n):
                    twin.step(*data)
            if where.type == "cuda":
                torch.cuda.synchronize()

        yield way, run


# --- tables ------------------------------------------------------------------------------------


def tables(options):
    """Test scores of a sweep's cells, as rows for `ssl_gan_jax.report`."""
    with np.load(options.data, allow_pickle=False) as arrays:
        fields = {key: arrays[key] for key in FIELDS}
    records = Records(**fields | {"classes": tuple(fields["classes"].tolist())}, quarantined=())
    file, _, arg = options.config.partition(":")
    cells = sweep.cells(file, arg, options.change, options.sweep)
    cells = [
        cell for cell in sweep.select(cells, options.cells) if cell.config.method.name != "dcgan"
    ]
    about = {"experiment": Path(file).stem, "device": jax.devices()[0].device_kind}
    about |= {"jax": jax.__version__, **sweep.provenance()}
    for group in in_time(options, sweep.groups(cells, options.together)):
        start = time.monotonic()
        for row in trained(group, records):
            yield row | about | {"wall_s": round(time.monotonic() - start, 1)}


def trained(group, records):
    """The rows of cells that differ only in seed or labels, after training as one program.

    As in `train.train`: the best of the evaluated states by validation AUROC is tested. Images come
    in epochs, in another order than tf.data's.
    """
    data = [dataset.assign(records, c.config.data, c.config.train.seed) for c in group]
    config, k = group[0].config.train, len(records.classes)
    method = ssl_gan_jax.build({**group[0].config.method, "num_classes": k})
    image = jnp.asarray(records.image)

    def batch(i, label, j):
        return Batch(to_float(image[i]), label, to_float(image[j]))

    orders = [orders_of(one, cell.config.train) for one, cell in zip(data, group, strict=True)]
    i, j = (jnp.stack(part, axis=1) for part in zip(*orders, strict=True))  # [steps, R, B]
    label = jnp.asarray(records.label)[i]
    keys = jnp.stack([jax.random.key(cell.config.train.seed) for cell in group])
    state = jax.jit(jax.vmap(lambda key, *x: method.init(key, batch(*x))))(
        keys, i[0], label[0], j[0]
    )
    steps = jax.jit(
        lambda state, x: jax.lax.scan(
            jax.vmap(lambda s, x: method.train_step(s, batch(*x))), state, x
        ),
        donate_argnums=0,
    )
    classify = jax.jit(lambda state, images: method.classify(state, images)[:1])

    def scores(state, rows):
        (logits,) = metrics.batched(functools.partial(classify, state), records.image[rows], 200)
        return calibration.tempered(logits, 1.0), logits

    best = [(-1.0, 0, None)] * len(group)
    for step in range(0, config.steps, config.evaluate_every):
        part = slice(step, min(step + config.evaluate_every, config.steps))
        state, _ = steps(state, (i[part], label[part], j[part]))
        for r, one in enumerate(data):
            mine = jax.tree.map(lambda x, r=r: x[r], state)
            auroc = metrics.scores(scores(mine, one.val)[0], records.label[one.val])["auroc"]
            if auroc is not None and auroc > best[r][0]:
                best[r] = auroc, part.stop, mine
    for cell, one, (_, step, mine) in zip(group, data, best, strict=True):
        found, threshold = {}, 0.5
        for name, rows in (("validation", one.val), ("test", one.test)):
            (probs, logits), truth = scores(mine, rows), records.label[rows]
            if name == "validation" and k == 2:
                threshold = metrics.choose_threshold(probs, truth)
            found[name] = metrics.report(
                probs, truth, records.patient[rows], threshold, logits=logits
            )
        data_of, train = cell.config.data, cell.config.train
        yield {
            "method": cell.config.method.name,
            "data": data_of.name,
            "labels_per_class": data_of.labels_per_class or None,
            "images": data_of.images or None,
            "labelled": len(one.labeled),
            "unlabelled": len(one.unlabeled) if train.unlabeled_batch_size else 0,
            "size": data_of.size,
            "seed": train.seed,
            "steps": train.steps,
            "best_step": step,
            "classes": list(records.classes),
            "replicas": len(group),
            "cell": dict(cell.table_cell),
            **found,
        }


def orders_of(data, config):
    """The rows of the labelled and the unlabelled images of each step, [steps,B] and [steps,U]."""
    rng, found = np.random.default_rng(config.seed), []
    sizes = config.batch_size, config.unlabeled_batch_size
    for rows, size in zip((data.labeled, data.unlabeled), sizes, strict=True):
        epochs = -(-config.steps * size // len(rows))
        order = [rng.permutation(rows) for _ in range(epochs)] or [rows[:0]]
        found.append(np.concatenate(order)[: config.steps * size].reshape(config.steps, size))
    return found


def prepare(options):
    """Writes images.npz: the records of a config's data, prepared at its size."""
    import runpy

    file, _, arg = options.config.partition(":")
    config = runpy.run_path(file)["get_config"](arg)
    config.data.dir = options.data_dir
    records = dataset.load(config.data)
    np.savez(options.prepare, **{key: np.asarray(getattr(records, key)) for key in FIELDS})


# --- command -----------------------------------------------------------------------------------


def main(argv=None):
    options = parse(argv)
    if options.prepare:
        return prepare(options)
    options.out.mkdir(parents=True, exist_ok=True)
    options.until, agrees = time.monotonic() + options.seconds, True
    for name in options.only:
        with open(options.out / f"{name}.jsonl", "a") as file:
            for row in PARTS[name](options):
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(f"{name}: {brief(row)}", flush=True)
                agrees &= row.get("agrees", True)
    return int(not agrees)


PARTS = {"check": check, "times": times, "twins": twins, "tables": tables}


def in_time(options, cells):
    """The cells, as long as there is time to begin one."""
    for cell in cells:
        if time.monotonic() > options.until:
            print("no time for more cells; give --seconds, or --only what is missing")
            return
        yield cell


def brief(row):
    """A row as one line, without what only the report reads."""
    if row.get("test"):
        row = row["cell"] | {key: row["test"][key]["value"] for key in ("accuracy", "auroc")}
    shown = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in row.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def parse(argv):
    def listed(kind):
        return lambda text: [kind(part) for part in text.split(",")]

    def change(text):
        key, _, value = text.partition("=")
        return key, json.loads(value)

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("accelerator"), metavar="DIR")
    parser.add_argument("--only", type=listed(str), metavar="PARTS")
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--methods", type=listed(str), help="of check, times and twins")
    parser.add_argument(
        "--sizes", type=listed(int), default=(32, 64, 128), help="of times and twins"
    )
    parser.add_argument("--width", type=int, default=WIDTH, help="of times and twins")
    parser.add_argument("--data", type=Path, metavar="NPZ", help="of tables")
    parser.add_argument("--config", metavar="FILE", help="of tables, or with --prepare")
    parser.add_argument("--sweep", default="sweep", help="function of the config file")
    parser.add_argument("--cells", default="", metavar="KEY=VALUE", help="as sweep's --only")
    parser.add_argument("--together", type=int, default=5, help="seeds in one program")
    parser.add_argument("--change", type=change, action="append", default=[], metavar="KEY=JSON")
    parser.add_argument("--prepare", type=Path, metavar="NPZ")
    parser.add_argument("--data_dir", default="", help="with --prepare: the images")
    options = parser.parse_args(argv)
    options.change = dict(options.change)
    options.only = options.only or ["check", "times", *(["tables"] if options.data else [])]
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"--only: no {', '.join(unknown)} among {', '.join(PARTS)}")
    if (options.prepare or "tables" in options.only) and not options.config:
        parser.error("--config: which file?")
    if "tables" in options.only and not options.data and not options.prepare:
        parser.error("--data: which file? --prepare makes one")
    return options


if __name__ == "__main__":
    sys.exit(main())
