"""From files to batches: `sources` -> `records` -> `splits` -> `pipeline`.

    images.py     one file -> one gray image; resizing and equalisation
    dicom.py      the same for DICOM
    tables.py     CSV tables
    sources/      what a data set holds and how it is laid out on disk, one package each
    source.py     what the sources share: the index, and the TFDS builder that prepares it
    records.py    a prepared data set in memory
    splits.py     who trains, who validates, who tests, and whose labels are known
    pipeline.py   the order of the images, as a pure function of (seed, step)

TensorFlow is imported where data are prepared or batched, and not before.
"""
