"""The data sets. `records.load("NAME", ...)` finds `NAME/NAME_dataset_builder.py` by its path.

A new one is such a package (the layout that TFDS prescribes) with two things, as in `kermany`:

    def index(data_dir: Path, **options) -> Index     what there is, without reading a pixel
    class Builder(SourceBuilder)                      prepares what `index` lists; a few lines
"""
