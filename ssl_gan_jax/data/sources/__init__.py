"""The data sets. `ssl_gan_jax.data.records.load("<name>", ...)` finds `<name>` here by its path.

A new data set is a new package `<name>/` with a `<name>_dataset_builder.py` (the layout that TFDS
prescribes) that holds two things:

    def index(data_dir: Path, **options) -> Index     what there is, without reading a pixel
    class Builder(SourceBuilder)                      prepares what `index` lists; a few lines

See `ssl_gan_jax.data.source` for both types, and `kermany` for an example.
"""
