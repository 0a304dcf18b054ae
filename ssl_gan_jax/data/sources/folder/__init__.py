"""Your own folder of images."""
