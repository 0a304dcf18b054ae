"""What a config's train step would cost on TPUs, compiled for them on a machine without any.

    pip install libtpu
    python launch/aot.py --config=configs/chex.py --topology=v5e:16x16 --batch=4096
    python launch/aot.py --config=configs/chex.py --topology=v5e:16x16 --batch=4096 --table
    python launch/aot.py --config=configs/chex.py --batch=64 --export

The first prints what the compiled program (of two classes) needs and sends on each chip, and a
predicted time; --table does so over parts of the topology: strong scaling (the batch is the same)
and weak (its share of a chip is). --export lowers the step for `cuda` and `tpu` and says what came
out. Without libtpu, the step is compiled for as many virtual CPU devices: the collectives are then
those of the same partitioner, and nothing else is predicted.

The prediction is a roofline: the larger of FLOPs / peak and bytes / memory bandwidth, then each
collective after the other: 2 x bytes / bandwidth of a link (a ring over the longest axis; half the
bandwidth where that does not close, which it does at 16 chips of v5e and v6e and at multiples of 4
of v4 and v5p) and 1 us, assumed, for each hop. FLOPs and bytes are XLA's count of its own program.
Nothing is overlapped, no chip reaches its peak, hosts take time to feed it: no measurement.
"""

import importlib.util
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from absl import flags

from ssl_gan_jax.commands import experiment
from ssl_gan_jax.errors import UserError, check_choice

flags.adopt_module_key_flags(experiment)
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "KIND:SHAPE, such as v5e:16x16, v4:4x4x4.")
_BATCH = flags.DEFINE_integer("batch", 0, "Global batch; 0: the config's.")
_TABLE = flags.DEFINE_bool("table", False, "Strong and weak scaling over 1, 4, 16, ... chips.")
_EXPORT = flags.DEFINE_bool("export", False, "Only lower for cuda and tpu.")


class Chip(NamedTuple):
    """Peaks of one chip, as cloud.google.com/tpu/docs/v4, v5e, v5p and v6e have them."""

    flops: float  # of bfloat16 products, which float32 ones also use by default
    hbm: float  # bytes/s
    link: float  # bytes/s of one interconnect link, both ways together


CHIPS = {
    # No figure for a link there: that of jax-ml.github.io/scaling-book/tpus.
    "v4": Chip(275e12, 1200e9, 90e9),
    # The vendor's figure for a chip, both ways, over its 4 links (v5p: 600 GB/s one way, 6 links).
    "v5e": Chip(197e12, 819e9, 100e9),
    "v5p": Chip(459e12, 2765e9, 200e9),
    "v6e": Chip(918e12, 1638e9, 200e9),
}
HOP_S = 1e-6
# Shapes of 1, 4, 16, 64 and 256 chips, by the number of axes.
PARTS = {
    2: [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16)],
    3: [(1, 1, 1), (2, 2, 1), (2, 2, 4), (4, 4, 4), (4, 8, 8)],
}

_KINDS = (
    "all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|"
    "collective-broadcast"
)
_COLLECTIVE = re.compile(rf"= (?P<shape>\S.*?) (?P<kind>{_KINDS})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+?(\d+)\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One instruction of a compiled program that sends data between chips."""

    kind: str
    sizes: tuple[int, ...]  # elements of each array
    bytes: int


def collectives(hlo: str) -> list[Collective]:
    """The collectives in the text of a compiled program."""
    found = []
    for match in _COLLECTIVE.finditer(hlo):
        arrays = []
        for _, bits, shape in _ARRAY.findall(match["shape"]):
            size = math.prod(map(int, filter(None, shape.split(","))))
            arrays.append((size, size * max(int(bits or 8), 8) // 8))
        if match["start"] and match["kind"] != "all-reduce":
            arrays = arrays[-1:]  # (operands, results, ...)
        sizes, sent = zip(*arrays, strict=True)
        found.append(Collective(match["kind"], sizes, sum(sent)))
    return found


class Step(NamedTuple):
    """A compiled train step, on one chip of several."""

    chips: int
    batch: int
    flops: float
    bytes: float
    memory: int
    collectives: list[Collective]

    def seconds(self, kind: str, shape: Sequence[int]) -> tuple[float, float, float]:
        """Predicted time of arithmetic, memory traffic and communication."""
        chip = CHIPS[kind]
        closed = max(shape) % (16 if len(shape) == 2 else 4) == 0
        hops = sum(shape) if self.chips > 1 else 0  # there and back, half of each axis
        sent = sum(
            2 * c.bytes / (chip.link if closed else chip.link / 2) + hops * HOP_S
            for c in self.collectives
        )
        return self.flops / chip.flops, self.bytes / chip.hbm, sent

    def predicted(self, kind: str, shape: Sequence[int]) -> str:
        """The prediction in words; empty without libtpu."""
        if not has_libtpu():
            return ""
        arithmetic, traffic, sent = (1e3 * t for t in self.seconds(kind, shape))
        total = max(arithmetic, traffic) + sent
        return (
            f"{total:.2f} ms a step ({arithmetic:.2f} arithmetic, {traffic:.2f} memory, {sent:.2f} "
            f"sent), {1e3 * self.batch / total:,.0f} images/s"
        )


def lowerable(config: Any, batch: int) -> tuple[Callable, Any, Any]:  # noqa: ANN401
    """The train step of a config with its state and its batch of raw images, as shapes."""
    import jax

    from ssl_gan_jax import methods
    from ssl_gan_jax.training.compiled import scaled
    from ssl_gan_jax.types import Batch

    method = methods.build({**config.method, "num_classes": 2})
    size, more = config.data.size, config.train.unlabeled_batch_size
    more = batch * more // config.train.batch_size  # in the config's proportion
    raw = Batch(
        image=jax.ShapeDtypeStruct((batch, size, size, 1), "uint8"),
        label=jax.ShapeDtypeStruct((batch,), "int32"),
        unlabeled=jax.ShapeDtypeStruct((more, size, size, 1), "uint8"),
    )
    init = lambda key, raw: method.init(key, scaled(raw))  # noqa: E731
    step = lambda state, raw: method.train_step(state, scaled(raw))  # noqa: E731
    return step, jax.eval_shape(init, jax.random.key(0), raw), raw


def compile_step(config: Any, devices: Sequence[Any], batch: int) -> Step:  # noqa: ANN401
    """Compiles the step with the batch divided over `devices`, as train.py would."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from ssl_gan_jax.training.devices import data_mesh, replicated

    step, state, raw = lowerable(config, batch)
    mesh = data_mesh(batch, raw.unlabeled.shape[0], devices=devices)
    split, whole = NamedSharding(mesh, PartitionSpec("data")), replicated(mesh)
    jitted = jax.jit(step, donate_argnums=0, in_shardings=(whole, split))
    program = jitted.lower(state, raw).compile()
    cost, memory = program.cost_analysis(), program.memory_analysis()
    return Step(
        chips=len(devices),
        batch=batch,
        flops=cost.get("flops", 0.0),
        bytes=cost.get("bytes accessed", 0.0),
        memory=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        collectives=collectives(program.as_text()),
    )


def has_libtpu() -> bool:
    """Whether TPU programs can be compiled here."""
    return importlib.util.find_spec("libtpu") is not None


def devices_of(kind: str, shape: Sequence[int]) -> list[Any]:
    """The devices of a TPU topology, on which nothing can run; of the CPU without libtpu."""
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")  # libtpu compiles, and nothing else
    os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}

    if not has_libtpu():
        return jax.devices("cpu")[: math.prod(shape)]
    name = f"{kind}:{'x'.join(map(str, shape))}"
    options = {"chips_per_host_bounds": (1, 1, 1)} if math.prod(shape) == 1 else {}
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as its runtime has it
    try:
        return topologies.get_topology_desc(name, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology={name}: {str(error).splitlines()[0]}") from error


def parse_topology(text: str) -> tuple[str, tuple[int, ...]]:
    """`"v5e:4x4"` -> `("v5e", (4, 4))`."""
    kind, _, shape = text.partition(":")
    check_choice("--topology", kind, CHIPS)
    axes = 2 if kind in ("v5e", "v6e") else 3
    if not re.fullmatch(r"\d+" + r"x\d+" * (axes - 1), shape):
        raise UserError(f"--topology={text}: write {kind}:{'x'.join('4' * axes)}, {axes} sizes")
    return kind, tuple(map(int, shape.split("x")))


def report(config: Any, kind: str, shape: tuple[int, ...], batch: int) -> Iterator[str]:  # noqa: ANN401
    """Lines on the step on one topology: needs, collectives, what they carry, time."""
    import jax

    step = compile_step(config, devices_of(kind, shape), batch)
    yield (
        f"{step.chips} chips, global batch {step.batch}; each chip: {step.flops / 1e9:.1f} GFLOP, "
        f"{step.bytes / 1e9:.2f} GB moved, {step.memory / 1e9:.2f} GB of memory"
    )
    for name in sorted({c.kind for c in step.collectives}):
        sent = [c.bytes for c in step.collectives if c.kind == name]
        yield f"{name}: {len(sent)} instructions, {sum(sent) / 1e6:.3f} MB"
    players = lowerable(config, batch)[1].players.values()
    kernels = [x.size for x in jax.tree.leaves([p.params for p in players]) if x.ndim > 1]
    sizes = Counter(size for c in step.collectives for size in c.sizes)
    gradients = sizes & Counter(kernels)
    others = list((sizes - gradients).elements())
    yield (
        f"they carry: the gradients of {gradients.total()} of {len(kernels)} kernels "
        f"({sum(kernels):,} elements), {len(others)} other arrays (biases, statistics, metrics; "
        f"{sum(others):,} elements, the largest {max(others, default=0):,})"
    )
    if time := step.predicted(kind, shape):
        yield f"predicted: {time}"


def table(config: Any, kind: str, shape: tuple[int, ...], batch: int) -> Iterator[str]:  # noqa: ANN401
    """Lines of a Markdown table over parts of a topology, as they are compiled."""
    import jax

    yield "| scaling | chips | batch | memory a chip | sent a chip | predicted |"
    yield "|---|---|---|---|---|---|"
    chips = math.prod(shape)
    for scaling in ("strong", "weak"):
        for part in (p for p in PARTS[len(shape)] if math.prod(p) <= chips):
            n = math.prod(part)
            size = batch if scaling == "strong" else batch * n // chips
            try:
                step = compile_step(config, devices_of(kind, part), size)
            except jax.errors.JaxRuntimeError as error:
                used = re.search(r"Used (\S+) of (\S+) hbm", str(error))
                why = f"does not fit: {used[1]} of {used[2]}" if used else str(error)[:80]
                yield f"| {scaling} | {n} | {size} | {why} | | |"
                continue
            sent = sum(c.bytes for c in step.collectives) / 1e6
            needs = f"{step.memory / 1e9:.2f} GB | {sent:.1f} MB"
            yield f"| {scaling} | {n} | {size} | {needs} | {step.predicted(kind, part)} |"


def exported(config: Any, batch: int) -> Iterator[str]:  # noqa: ANN401
    """Lowers the step for GPUs and TPUs; one line for each."""
    import jax

    step, *args = lowerable(config, batch)
    for platform in ("cuda", "tpu"):
        program = jax.export.export(jax.jit(step), platforms=(platform,))(*args)
        text = program.mlir_module()
        yield (
            f"{platform}: {text.count('stablehlo.convolution')} convolutions, "
            f"{text.count('stablehlo.dot_general')} matrix products, {len(text) / 1e6:.1f} MB"
        )


def main(argv: Sequence[str]) -> None:
    """Prints what the flags ask for."""
    config = experiment.CONFIG.value
    if len(argv) > 1 or config is None:
        raise UserError("give --config=FILE and flags that begin with --; try --help")
    kind, shape = parse_topology(_TOPOLOGY.value)
    batch = _BATCH.value or config.train.batch_size
    import jax

    jax.config.update("jax_num_cpu_devices", math.prod(shape))
    if not has_libtpu() and not _EXPORT.value:
        print("libtpu is not installed: compiled for virtual CPU devices, see the docstring")
    if _EXPORT.value:
        lines = exported(config, batch)
    else:
        lines = (table if _TABLE.value else report)(config, kind, shape, batch)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    experiment.run(main)
