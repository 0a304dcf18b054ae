"""Pure Flax Linen networks: G, D and C of both papers, and the layers that they are made of."""
