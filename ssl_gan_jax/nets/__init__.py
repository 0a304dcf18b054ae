"""Flax Linen networks, G, D and C of both papers, and their layers."""
