"""PyTorch twins of the six methods' training steps, written as a good PyTorch user would.

A twin has the networks, losses, optimisers, running averages and order of updates of its method
file, and starts from the same Flax state, so `compare` can ask for the same losses.
"""

import contextlib

import jax
import numpy as np
import torch
import torch.nn.functional as F
from cases import HASTE, config_of, started
from tiny import batch as batch_of
from twin_nets import Discriminator, Generator, to_torch

from ssl_gan_jax.nets.generator import latent

PLAYERS = {
    "supervised": "C",
    "dcgan": "GD",
    "ssl_gan": "GD",
    "multitask": "GD",
    "ec_gan": "GDC",
    "three_n_gan": "GDC",
}


class Twin:
    """One method's players in PyTorch and its training step."""

    def __init__(self, name, config, state, memory_format=torch.contiguous_format):
        self.config, self.losses, self.steps = config, globals()[name], 0
        reference = {key: torch.tensor(np.array(r)) for key, r in state.reference.items()}
        k = config.num_classes
        outputs = {"D": {"ssl_gan": k + 1, "multitask": k + 1}.get(name, 1), "C": k}
        norm = "weight" if name == "ssl_gan" else config.get("norm", "batch")
        self.nets, self.optimizers, self.live, self.ema = {}, {}, {}, {}
        for player in PLAYERS[name]:
            if player == "G":
                net = Generator(config, reference.get("G"))
            else:
                net = Discriminator(outputs[player], config, norm)
            net.to(memory_format=memory_format)
            rate = config.get(f"lr_{player.lower()}", config.get("lr"))
            self.optimizers[player] = torch.optim.Adam(
                net.parameters(), rate, betas=(config.beta1, 0.999), eps=1e-8, fused=True
            )
            self.nets[player] = net
            self.live[player] = [t.detach() for t in (*net.parameters(), *net.buffers())]
            self.ema[player] = [t.clone() for t in self.live[player]]
        load(self, state)

    def compile(self, **how):
        for net in self.nets.values():
            net.compile(dynamic=False, **how)

    def step(self, x, y, u, z=None):
        """x [B,1,H,W], y [B], u [U,1,H,W] -> metrics; z [N,Z] is drawn where it is not given."""
        metrics = self.losses(self, x, y, u, z)
        self.steps += 1
        return {name: value.detach() for name, value in metrics.items()}

    def generate(self, n, z, shift):
        z = torch.randn(n, self.config.z_dim) if z is None else z
        return shifted(self.nets["G"](z), shift)

    def update(self, player, loss):
        optimizer = self.optimizers[player]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        decay = self.config.ema
        decay *= (1 - decay**self.steps) / (1 - decay ** (self.steps + 1))
        torch._foreach_lerp_(self.ema[player], self.live[player], 1 - decay)

    @contextlib.contextmanager
    def frozen(self, *players):
        """G's step needs no gradients of the others' weights."""
        for player in players:
            self.nets[player].requires_grad_(False)
        yield
        for player in players:
            self.nets[player].requires_grad_(True)


def load(twin, state):
    """Copies weights and running statistics of a Flax state into the twin, averages included."""
    for player, net in twin.nets.items():
        smallest = getattr(net, "smallest", 4)
        flax = state.players[player]
        for path, leaf in jax.tree_util.tree_leaves_with_path((flax.params, flax.stats)):
            names = [key.key for key in path[1:]]
            target = getattr(net.layers[names[0]], names[-1]).detach()
            target.copy_(torch.from_numpy(to_torch(np.array(leaf), player, smallest)))
        for average, live in zip(twin.ema[player], twin.live[player], strict=True):
            average.copy_(live)


def shifted(x, shift):
    """Each image moved by up to `shift` pixels, edges repeated: one gather."""
    if not shift:
        return x
    n, _, h, w = x.shape
    moves = torch.randint(-shift, shift + 1, (2, n, 1))
    rows = (torch.arange(h) + moves[0]).clamp_(0, h - 1)
    cols = (torch.arange(w) + moves[1]).clamp_(0, w - 1)
    index = (rows[:, :, None] * w + cols[:, None]).flatten(1)
    return x.flatten(1).gather(1, index).view(n, 1, h, w)


def says_real(logit):
    return F.softplus(-logit).mean()


def says_fake(logit):
    return F.softplus(logit).mean()


def pseudo_label(logits, config):
    """L_u, the share of images kept, and kept pseudo-labels of each class."""
    p, label = logits.detach().softmax(1).max(1)
    kept = (p > config.tau).float()
    loss = (F.cross_entropy(logits, label, reduction="none") * kept).sum() / kept.sum().clamp_min(1)
    return loss, kept.mean(), kept @ F.one_hot(label, logits.shape[1]).float()


def supervised(twin, x, y, u, z):
    l_s = F.cross_entropy(twin.nets["C"](shifted(x, twin.config.shift)), y)
    twin.update("C", l_s)
    return {"L_s": l_s}


def dcgan(twin, x, y, u, z):
    d, shift = twin.nets["D"], twin.config.shift
    fake, x = twin.generate(len(x), z, shift), shifted(x, shift)
    real_logit, fake_logit = d(x), d(fake.detach())
    j_d = 0.5 * says_real(real_logit) + 0.5 * says_fake(fake_logit)
    twin.update("D", j_d)
    with twin.frozen("D"):
        j_g = 0.5 * says_real(d(fake, keep=False))
        twin.update("G", j_g)
    seen = {"D_real": real_logit.sigmoid().mean(), "D_fake": fake_logit.sigmoid().mean()}
    return {"J_D": j_d, "J_G": j_g, **seen}


def ssl_gan(twin, x, y, u, z):
    d, config, b, n = twin.nets["D"], twin.config, len(x), len(u)

    def real_logit(logits):
        return logits[:, :-1].logsumexp(1) - logits[:, -1]

    fake = twin.generate(n, z, config.shift)
    logits = d(torch.cat([shifted(x, config.shift), shifted(u, config.shift), fake.detach()]))
    l_labeled = F.cross_entropy(logits[:b, :-1], y)
    l_unlabeled = says_real(real_logit(logits[b : b + n]))
    l_generated = says_fake(real_logit(logits[b + n :]))
    loss = l_labeled + config.w * (l_unlabeled + l_generated)
    twin.update("D", loss)
    with twin.frozen("D"):
        l_g = says_real(real_logit(d(fake)))
        twin.update("G", l_g)
    terms = {"L_labeled": l_labeled, "L_unlabeled": l_unlabeled, "L_generated": l_generated}
    return {"L": loss, **terms, "L_G": l_g}


def multitask(twin, x, y, u, z):
    d, shift, k = twin.nets["D"], twin.config.shift, twin.config.num_classes
    fake, x = twin.generate(len(x), z, shift), shifted(x, shift)
    real, generated = d(x), d(fake.detach(), keep=False)
    l_s = F.cross_entropy(real[:, :k], y)
    l_d = says_real(real[:, k]) + says_fake(generated[:, k])
    twin.update("D", l_s + l_d)
    with twin.frozen("D"):
        l_g = says_real(d(fake, keep=False)[:, k])
        twin.update("G", l_g)
    return {"L_D": l_s + l_d, "L_s": l_s, "L_d": l_d, "L_g": l_g}


def ec_gan(twin, x, y, u, z):
    d, c, config = twin.nets["D"], twin.nets["C"], twin.config
    fake, x = twin.generate(len(x), z, config.shift), shifted(x, config.shift)
    shown = fake.detach()
    l_d = says_real(d(x)) + says_fake(d(shown))
    twin.update("D", l_d)
    l_s = F.cross_entropy(c(x), y)
    l_u, mask_rate, counts = pseudo_label(c(shown, keep=False), config)
    l_c = l_s + config.lambda_ * l_u
    twin.update("C", l_c)
    with twin.frozen("D"):
        l_g = says_real(d(fake, keep=False))
        twin.update("G", l_g)
    metrics = {"L_C": l_c, "L_s": l_s, "L_u": l_u, "L_d": l_d, "L_g": l_g, "mask_rate": mask_rate}
    return metrics | {f"pseudo_labels_{i}": n for i, n in enumerate(counts)}


def three_n_gan(twin, x, y, u, z):
    d, c, config = twin.nets["D"], twin.nets["C"], twin.config
    fake, x = twin.generate(len(x), z, config.shift), shifted(x, config.shift)
    shown = fake.detach()
    l_d = says_real(d(x)) + says_fake(d(shown))
    twin.update("D", l_d)
    real, generated = c(x), c(shown, keep=False)
    l_s = F.cross_entropy(real, y)
    l_u, mask_rate, counts = pseudo_label(generated, config)
    p, log_q = real.detach().softmax(1).mean(0), generated.softmax(1).mean(0).log()
    l_kl = (p * (p.log() - log_q)).sum()
    l_c = l_s + config.lambda_ * l_u + config.alpha * l_kl
    twin.update("C", l_c)
    with twin.frozen("D", "C"):
        l_cu, _, _ = pseudo_label(c(fake, keep=False), config)
        l_g = says_real(d(fake, keep=False)) + config.lambda_g * l_cu
        twin.update("G", l_g)
    metrics = {"L_c": l_c, "L_s": l_s, "L_u": l_u, "L_kl": l_kl, "L_d": l_d, "L_g": l_g}
    metrics |= {"L_cu": l_cu, "mask_rate": mask_rate}
    return metrics | {f"pseudo_labels_{i}": n for i, n in enumerate(counts)}


def tensors(batch):
    """A batch as the twins take it, on PyTorch's default device."""
    x, y, u = (torch.tensor(np.array(a)) for a in (batch.image, batch.label, batch.unlabeled))
    return x.permute(0, 3, 1, 2).contiguous(), y.long(), u.permute(0, 3, 1, 2).contiguous()


def quiet(width):
    """Settings under which z alone is random, and two right programs stay together.

    Every pseudo-label is kept. Learning rates are small, and another for each player: Adam's first
    steps are the gradients' signs, and where rounding decides one (or on which side of a leaky
    ReLU's kink an activation lies) the programs part by as much as the rate. The effects add up
    over the weights, so the rates fall with the width.
    """
    rate = 8e-5 / width
    rates = {"lr": rate, "lr_c": rate, "lr_d": 2 * rate, "lr_g": 3 * rate}
    return {"noise": 0.0, "dropout": (0.0, 0.0), "shift": 0, "tau": 0.5, **rates}


def compare(name, size, width, b, seed=0, **changes):
    """Two steps of both from one state: `{metric: (ours, the twin's)}`.

    Beside the metrics that the method returns, there is how far each player's averaged weights
    have moved: the sum of the absolute differences, in learning rates.
    """
    config = config_of(name, size, width=width, **quiet(width), **changes)
    batch = batch_of(name, b, size, seed)
    method, state = started(config, batch)
    twin = Twin(name, config, state)
    starts = {key: [t.clone() for t in values] for key, values in twin.ema.items()}
    first = jax.device_get({key: player.params for key, player in state.players.items()})
    step, pairs = jax.jit(method.train_step, compiler_options=HASTE), {}
    for i in (1, 2):
        z = None
        if "G" in state.players:
            key, n = state.keys("z").z, len(batch.unlabeled) or b
            z = torch.from_numpy(np.array(latent(key, n, z_dim=config.z_dim)))
        state, ours = step(state, batch)
        theirs = twin.step(*tensors(batch), z)
        assert ours.keys() == theirs.keys(), (ours.keys(), theirs.keys())
        pairs |= {f"{key}, step {i}": (float(ours[key]), float(theirs[key])) for key in ours}
    for key, player in state.players.items():
        parameters = len(list(twin.nets[key].parameters()))  # statistics come after them
        theirs = zip(twin.ema[key][:parameters], starts[key], strict=False)
        theirs = float(sum((a - b).abs().sum() for a, b in theirs))
        ours = jax.tree.map(lambda a, b: np.abs(a - b).sum(), player.ema["params"], first[key])
        ours = float(sum(jax.tree.leaves(ours)))
        rate = twin.optimizers[key].param_groups[0]["lr"]
        pairs[f"{key}'s weights moved"] = ours / rate, theirs / rate
    return pairs


def disagreements(pairs, tolerance=1e-4):
    """The pairs that differ by more than `tolerance`, relative above 1 and absolute below."""
    return {
        key: (a, b)
        for key, (a, b) in pairs.items()
        if not abs(a - b) <= tolerance * max(1.0, abs(a))
    }
