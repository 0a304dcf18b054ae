"""One row of the section `replicas`, as JSON: `python replicas.py METHOD R SECONDS`."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
from cases import compiled, config_of, single_step, started, stepper
from timing import alternate
from tiny import batch as batch_of

from ssl_gan_jax.commands.jax_setup import prepare_jax
from ssl_gan_jax.training.devices import Devices


def main(name, r, budget_s):
    prepare_jax(replicas=r)
    batch = batch_of(name, 10, 32)
    method, state = started(config_of(name, 32), batch)
    single = stepper(compiled(single_step(method), state, batch), state, batch)
    if r == 1:
        together = single
    else:
        devices = Devices(r)
        states, batches = devices.put_states([state] * r), devices.put([[batch]] * r)
        program = devices.compile(method.train_step).lower(states, batches).compile()
        together = stepper(program, states, batches)
    s = alternate({"single": single, "together": together}, budget_s)
    row = {"method": name, "replicas": r, "devices": jax.device_count()}
    row |= {f"{key}_ms": 1e3 * value for key, value in s.items()}
    print(json.dumps(row | {"together_over_single": s["together"] / (r * s["single"])}))


main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
