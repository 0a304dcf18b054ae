"""The data sets: `records.load("NAME", ...)` imports the module NAME of this package.

A new one is such a file with three things, as in `kermany`:

    def index(data_dir: Path, **options) -> Index     what there is, without reading a pixel
    DESCRIPTION                                       one sentence
    INSTRUCTIONS                                      what data.dir must hold; None: nothing is read
"""
