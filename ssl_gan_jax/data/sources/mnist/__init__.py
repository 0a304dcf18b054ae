"""MNIST digits."""
