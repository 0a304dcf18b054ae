"""Makes the pictures of the READMEs, all of made radiographs or of committed rows.

    python -m ssl_gan_jax.main --config=configs/phantom.py --workdir=runs/phantom
    python tests/benchmarks/pictures.py --workdir=runs/phantom --out=configs/results

Writes generated.png (made radiographs above what the run's generator makes), learning.svg (AUROC
over labels, from plco.jsonl) and, if there is a Chromium, report.png (the top of the run's report).
Exit codes: 0 done, 1 done but for report.png.
"""

import argparse
import base64
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageOps

from ssl_gan_jax import inference
from ssl_gan_jax.report import figures, rows

ROWS = Path(__file__).parents[2] / "configs/results/plco.jsonl"
COUNT = 8  # images in a row of the strip
ZOOM = 3
GAP = 12  # pixels between the two rows


def strip(workdir: Path) -> Image.Image:
    """COUNT test images of the phantom, and below them as many of the run's generator."""
    run = inference.open_run(workdir)
    if run.config["data"]["name"] != "phantom":
        raise SystemExit(f"{workdir}: not a run on the phantom; its images may show patients")
    dataset = inference.dataset_of(run)
    made = dataset.records.image[dataset.test[:COUNT], ..., 0]
    z = run.method.draw_z(jax.random.key(0), COUNT)
    generated = np.asarray(run.method.generate(run.state, z))[..., 0]
    generated = np.clip((generated + 1) * 127.5, 0, 255).round().astype(np.uint8)
    row_size = COUNT * made.shape[1] * ZOOM, made.shape[1] * ZOOM
    picture = Image.new("L", (row_size[0], 2 * row_size[1] + GAP), 255)
    for i, images in enumerate((made, generated)):
        row = Image.fromarray(np.concatenate(list(images), axis=1))
        picture.paste(row.resize(row_size, Image.Resampling.BICUBIC), (0, i * (row_size[1] + GAP)))
    return picture


def learning_curve() -> bytes:
    """AUROC over labels of `ssl_gan` and `supervised` on Kermany et al.'s images, as SVG."""
    (panel,) = rows.find([ROWS]).panels
    plain = [run for run in panel.runs if not run.changes]
    auroc = [p for p in figures.learning_curves(panel._replace(runs=plain)) if "AUROC" in p.alt]
    return base64.b64decode(auroc[0].uri.partition(",")[2])


def screenshot(page: Path, out: Path) -> bool:
    """The top of an HTML page in a window of 900 pixels; False if there is no Chromium."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        return False
    flags = ("--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=900,1000")
    subprocess.run(
        [browser, *flags, f"--screenshot={out}", page.resolve().as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    framed = ImageOps.expand(Image.open(out).convert("RGB"), border=1, fill="#bbbbbb")
    framed.quantize(64).save(out, optimize=True)
    return True


def main() -> int:
    """Makes the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    strip(args.workdir).save(args.out / "generated.png", optimize=True)
    (args.out / "learning.svg").write_bytes(learning_curve())
    if not screenshot(args.workdir / "report.html", args.out / "report.png"):
        print("report.png needs Chromium: install it, or keep the picture", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
