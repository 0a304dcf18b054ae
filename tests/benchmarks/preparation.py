"""One row of the section `preparation`, as JSON: `python preparation.py KIND COUNT`.

KIND: jpeg, tiff, film (to see that memory does not grow with COUNT) or phantom.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from PIL import Image
from timing import seconds

from ssl_gan_jax.data import records

KINDS = {  # width, height, type, suffix, how many of the files differ
    "jpeg": (224, 224, np.uint8, ".jpg", 10**6),
    "tiff": (2500, 2048, np.uint16, ".tif", 20),
    "film": (2000, 2000, np.uint16, ".tif", 20),
}


def write_images(folder, count, width, height, dtype, suffix, different):
    """Smooth random images, in one sub-folder for each of two classes; copies are hard links."""
    random, paths = np.random.default_rng(0), []
    for i in range(count):
        path = folder / "ab"[i % 2] / f"{i:05d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i >= different:
            os.link(paths[i % different], path)
            continue
        coarse = Image.fromarray(random.uniform(0, 255, (14, 14)).astype(np.float32))
        fine = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        fine = fine.clip(0, 255) * (np.iinfo(dtype).max // 255)
        Image.fromarray(fine.astype(dtype)).save(path, quality=90)
        paths.append(path)


def main(kind, count):
    with tempfile.TemporaryDirectory() as folder:
        source, name = (None, "phantom") if kind == "phantom" else (Path(folder, kind), "folder")
        options = {"images": count} if kind == "phantom" else {}
        if source:
            write_images(source, count, *KINDS[kind])

        def prepare(*args, **options):
            records.load(*args, cache_dir=f"{folder}/cache", **options)

        prepare("phantom", None, 32, images=8)  # imports, and what TFDS does once
        start = time.process_time()
        s = seconds(lambda: prepare(name, source, 64, **options))
        busy = time.process_time() - start  # of all threads: what company does not change much
    width, height, dtype, suffix, different = KINDS.get(kind, (64, 64, np.uint8, "", count))
    row = {"images": f"{kind} {width}x{height} {np.dtype(dtype)}{suffix}", "count": count}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of all threads; no processes
    row |= {"different": min(count, different), "images_s": count / s}
    row |= {"cpu_ms_an_image": 1e3 * busy / count, "peak_mb": peak / 1024}
    print(json.dumps(row | {"cores": os.cpu_count(), "load": os.getloadavg()[0]}))


main(sys.argv[1], int(sys.argv[2]))
