"""The project's networks in PyTorch: NCHW; layers and their weights have their Flax names.

Two liberties, both in PyTorch's favour: weight norm is folded into the kernel, and M's "upsample,
then convolve" is one transposed convolution, as ours is. PyTorch's running variance is the
unbiased one, Flax's is not: no training loss sees it.
"""

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def empty(*shape):
    return nn.Parameter(torch.empty(shape))


class Conv(nn.Module):
    """4x4, stride 2, padding 1."""

    def __init__(self, c, f, bias):
        super().__init__()
        self.kernel, self.bias = empty(f, c, 4, 4), empty(f) if bias else None

    def forward(self, x):
        return F.conv2d(x, self.kernel, self.bias, 2, 1)


class ConvTranspose(nn.Module):
    """The transpose of such a convolution; its kernel may come from a 3x3 one that upsamples."""

    def __init__(self, c, f, bias, upsample):
        super().__init__()
        self.upsample = upsample
        self.kernel = empty(f, c, 3, 3) if upsample else empty(c, f, 4, 4)
        self.bias = empty(f) if bias else None

    def forward(self, x):
        kernel = self.kernel
        if self.upsample:
            flipped = kernel.flip(2, 3).transpose(0, 1)
            kernel = sum(F.pad(flipped, (b, 1 - b, a, 1 - a)) for a in (0, 1) for b in (0, 1))
        return F.conv_transpose2d(x, kernel, self.bias, 2, 1)


class WeightNorm(nn.Module):
    """A linear layer or `Conv` with w = scale v / |v|; a hidden layer's scale stays as it is."""

    def __init__(self, *shape, learn_scale=False):
        super().__init__()
        self.kernel, self.bias, scale = empty(*shape), empty(shape[0]), empty(shape[0])
        if learn_scale:
            self.scale = scale
        else:
            self.register_buffer("scale", scale.data)

    def forward(self, x):
        v = self.kernel
        length = torch.rsqrt(v.square().sum(tuple(range(1, v.ndim))) + 1e-12)
        w = v * (self.scale * length).view(-1, *[1] * (v.ndim - 1))
        return F.conv2d(x, w, self.bias, 2, 1) if v.ndim == 4 else F.linear(x, w, self.bias)


class Dense(nn.Module):
    def __init__(self, inputs, outputs, bias):
        super().__init__()
        self.kernel, self.bias = empty(outputs, inputs), empty(outputs) if bias else None

    def forward(self, x):
        return F.linear(x, self.kernel, self.bias)


class BatchNorm(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.scale, self.bias = empty(c), empty(c)
        self.register_buffer("mean", torch.empty(c))
        self.register_buffer("var", torch.empty(c))

    def forward(self, x, keep):
        """Normalises by the batch; `keep`: its statistics enter the running ones."""
        mean, var = (self.mean, self.var) if keep else (None, None)
        return F.batch_norm(x, mean, var, self.scale, self.bias, True, 0.1, 1e-5)


class VirtualBatchNorm(nn.Module):
    def __init__(self, c, references):
        super().__init__()
        self.scale, self.bias, self.references = empty(c), empty(c), references

    def forward(self, x, keep):
        del keep  # no running statistics
        r = self.references
        mean, square = x.mean((2, 3)), x.square().mean((2, 3))  # [N,C]
        mean, square = (
            torch.cat([s[:r].mean(0).expand(r, -1), (s[r:] + r * s[:r].mean(0)) / (r + 1)])
            for s in (mean, square)
        )
        a = self.scale * torch.rsqrt((square - mean.square()).clamp_min(0) + 1e-5)
        b = self.bias - mean * a
        return torch.addcmul(b[..., None, None], x, a[..., None, None])


class Discriminator(nn.Module):
    def __init__(self, outputs, config, norm):
        super().__init__()
        self.noise, (self.drop_x, self.drop_h) = config.noise, config.dropout
        self.stages = int(math.log2(config.size / 4))
        widths = [1, *(min(2**i, 8) * config.width for i in range(self.stages))]
        self.weight_norm, self.layers = norm == "weight", nn.ModuleDict()
        for i, (c, f) in enumerate(pairwise(widths)):
            if self.weight_norm:
                self.layers[f"WeightNorm_{i}"] = WeightNorm(f, c, 4, 4)
            else:
                self.layers[f"StridedConv_{i}"] = Conv(c, f, bias=i == 0)
                if i:
                    self.layers[f"BatchNorm_{i - 1}"] = BatchNorm(f)
        if self.weight_norm:
            last = WeightNorm(outputs, 16 * f, learn_scale=True)
            self.layers[f"WeightNorm_{self.stages}"] = last
        else:
            self.layers["Dense_0"] = Dense(16 * f, outputs, bias=True)

    def forward(self, x, keep=True):
        """Images [N,1,H,W] -> logits [N,outputs]; `keep` as batch norm has it."""
        layers = self.layers
        h = x + self.noise * torch.randn_like(x) if self.noise else x
        h = F.dropout(h, self.drop_x) if self.drop_x else h
        for i in range(self.stages):
            h = layers[f"WeightNorm_{i}" if self.weight_norm else f"StridedConv_{i}"](h)
            if i and not self.weight_norm:
                h = layers[f"BatchNorm_{i - 1}"](h, keep)
            h = F.leaky_relu(h, 0.2, inplace=True)
            if i == 0 and self.drop_h:
                h = F.dropout(h, self.drop_h)
        h = h.flatten(1)
        h = F.dropout(h, self.drop_h) if self.drop_h else h
        return layers[f"WeightNorm_{self.stages}" if self.weight_norm else "Dense_0"](h)


class Generator(nn.Module):
    def __init__(self, config, reference):
        super().__init__()
        self.upsample = config.generator == "upsample"
        self.smallest = 8 if self.upsample else 4
        self.stages = int(math.log2(config.size / self.smallest))
        self.reference = reference
        widths = [min(2**i, 8) * config.width for i in reversed(range(self.stages))]
        self.layers = nn.ModuleDict(
            {"Dense_0": Dense(config.z_dim, self.smallest**2 * widths[0], bias=False)}
        )
        self.norm = "BatchNorm" if reference is None else "VirtualBatchNorm"
        for i, (c, f) in enumerate(pairwise([*widths, 1])):
            norm = BatchNorm(c) if reference is None else VirtualBatchNorm(c, len(reference))
            self.layers[f"{self.norm}_{i}"] = norm
            conv = ConvTranspose(c, f, bias=f == 1, upsample=self.upsample)
            self.layers[f"StridedConvTranspose_{i}"] = conv

    def forward(self, z):
        layers, references = self.layers, 0 if self.reference is None else len(self.reference)
        h = z if self.reference is None else torch.cat([self.reference, z])
        h = layers["Dense_0"](h).unflatten(1, (-1, self.smallest, self.smallest))
        for i in range(self.stages):
            h = layers[f"{self.norm}_{i}"](h, True)
            h = F.leaky_relu(h, 0.2, inplace=True) if self.upsample else F.relu(h, inplace=True)
            h = layers[f"StridedConvTranspose_{i}"](h)
        return torch.tanh(h[references:])


def to_torch(leaf, player, smallest):
    """A Flax leaf in PyTorch's layout: OIHW kernels, and maps flattened in CHW order."""
    if leaf.ndim == 4:
        leaf = leaf.transpose(3, 2, 0, 1)
    elif leaf.ndim == 2 and player == "G":
        leaf = leaf.reshape(len(leaf), smallest, smallest, -1).transpose(3, 1, 2, 0)
        leaf = leaf.reshape(-1, leaf.shape[-1])
    elif leaf.ndim == 2:
        leaf = leaf.reshape(smallest, smallest, -1, leaf.shape[-1]).transpose(3, 2, 0, 1)
        leaf = leaf.reshape(len(leaf), -1)
    return np.ascontiguousarray(leaf)
