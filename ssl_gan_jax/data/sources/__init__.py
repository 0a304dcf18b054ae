"""The data sets: `records.load("NAME", ...)` imports the module NAME of this package.

A new one is such a file with two things, as in `kermany`:

    def index(data_dir: Path, **options) -> Index     what there is, without reading a pixel
    class Builder(SourceBuilder)                      prepares what `index` lists; a few lines
"""
