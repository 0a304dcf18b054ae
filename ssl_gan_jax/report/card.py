"""A run's model card: its training data, scores, intended use and warnings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_gan_jax.evaluation import calibration, metrics
from ssl_gan_jax.evaluation.calibration import Calibration
from ssl_gan_jax.evaluation.groups import SMALLEST
from ssl_gan_jax.files import atomic_write, write_json
from ssl_gan_jax.report.markdown import markdown_table, plain

USE = (
    "Research on semi-supervised learning with few labels. **Not for clinical use**: it is no "
    "medical device, was tested only on the images below, and must not inform a patient's care."
)
WARNINGS = (
    "Generated X-rays are synthetic: they show no patient, and say nothing about a patient. A "
    "generator may repeat or blend training images: do not publish its images as anonymous data "
    "without a check of their distance to the training images.",
    "Training with generated images can amplify biases of the few labelled images. Scores on "
    "images of another hospital are usually lower.",
    "The threshold was chosen on validation images, whose share of positives may differ from that "
    "of the place of use; predictive values depend on that share.",
    "The out-of-distribution score detects images that are not chest X-rays, or are rotated or "
    "inverted. It does not detect all mirrored images and all images of other hospitals.",
)


def describe(
    config: Mapping[str, Any], result: Mapping[str, Any], fitted: Calibration
) -> dict[str, Any]:
    """The card as JSON: intended use, warnings, config, result and calibration."""
    places = ("dir", "cache_dir")  # folders of the machine
    data = {key: value for key, value in config["data"].items() if key not in places}
    return {
        "intended_use": USE.replace("**", ""),
        "warnings": list(WARNINGS),
        "config": {**config, "data": data},
        "result": dict(result),
        "calibration": fitted.as_json(),
    }


def render(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    result, data, fitted = card["result"], card["config"]["data"], card["calibration"]
    size, scores = data["size"], {"test": result.get("test")}
    scores |= {f"test, {group}": v for group, v in result.get("test_by_group", {}).items()}
    scores = {k: v for k, v in {**scores, "validation": result.get("validation")}.items() if v}
    parts_of = result.get("splits", {}).values()
    by_image = any(part["patients"] is None for part in parts_of)
    unit, why = ("image", ": no patients were given") if by_image else ("patient", "")
    of_findings = result.get("target") == "findings"
    kind = "findings" if of_findings else "classes"
    among = " (those with labels among them)" if result["labelled"] and result["unlabelled"] else ""
    parts = [
        f"# Model card: {result['method']} on {data['name']}",
        f"`{result['method']}` of ssl_gan_jax, on chest X-rays of {size}x{size} pixels; {kind}: "
        f"{', '.join(map(plain, result['classes']))}. {result['steps']} steps with seed "
        f"{result['seed']}; the weights are those of step {result['best_step']}.",
        *_adaptation(result.get("adaptation")),
        "## Use",
        USE,
        "\n".join(f"- {text}" for text in WARNINGS),
        "## Data",
        f"`{data['name']}`: {result['labelled']} training images with labels, "
        f"{result['unlabelled']} without{among}. Splits are by {unit}{why}.",
    ]
    rows = []
    for name, p in result.get("splits", {}).items():
        patients = "–" if by_image else p["patients"]
        counts = _counts(p.get("classes")), _counts(p.get("sites"))
        rows.append([name, p["images"], patients, *counts])
    parts += markdown_table(["part", "images", "patients", "images a class", "sites"], rows)
    parts += ["## Metrics"]
    if scores:
        rows = [[k, s["n"], *(_interval(s[m]) for m in metrics.METRICS)] for k, s in scores.items()]
        parts += [
            ("" if of_findings else _positive(result["classes"]))
            + f"With 95 % intervals from a bootstrap over {unit}s, which say nothing about other "
            "seeds. Validation chose weights and threshold, so its own scores are optimistic. "
            f"Subgroups are those of the data's own tables, of {SMALLEST} images or more.",
            *markdown_table(["images of", "n", *metrics.METRICS], rows),
        ]
        if of_findings:
            parts += _scores_of_findings(result["classes"], next(iter(scores.items())))
    else:
        parts += ["None: this run has no classifier, or was not tested."]
    if validation := fitted["validation"]:
        shown = ("sensitivity", "specificity")
        rows = [
            [k, f"{p['threshold']:.4f}", *(_interval(p[m]) for m in shown)]
            for k, p in fitted["operating_points"].items()
        ]
        temperature = f"{fitted['temperature']:.3g}"
        if of_findings:
            rows = _points_of_findings(result["classes"], fitted["findings"], shown)
            temperature = "and thresholds are those of each finding"
        parts += [
            "## Calibration and operating points",
            f"Temperature {temperature}, from {validation['n']} validation images"
            + (_calibration_error(validation) if validation["ece"] is not None else "")
            + ".",
            *markdown_table(["point", "threshold", *shown], rows),
        ]
    if samples := result.get("samples"):
        parts += [
            "## Generated images",
            f"Median distance to the nearest training image: {samples['nearest_train']:.1f} gray "
            f"levels (validation images: {samples['nearest_train_of_validation']:.1f}). "
            f"{samples['copies']:.0%} of the samples are nearer than 99 % of the validation "
            "images. Images are compared pixel by pixel, shifted (and mirrored) as in training; "
            "copies that are shifted further, rotated, scaled, brighter or blended are not found.",
        ]
    return "\n\n".join(parts) + "\n"


def write_card(workdir: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Writes model_card.json and MODEL_CARD.md into the folder of a finished run."""
    card = describe(config, result, calibration.load(workdir))
    write_json(workdir / "model_card.json", card)
    with atomic_write(workdir / "MODEL_CARD.md") as file:
        file.write(render(card))


def _adaptation(about: Mapping[str, Any] | None) -> list[str]:
    """What the command `adapt` did to the run that this card is about otherwise."""
    if not about:
        return []
    before, after = (_counts(about[key]) for key in ("called_before", "called_after"))
    title, tested = (
        "## Adapted, and not tested",
        "**Nothing was tested there: it may be worse than the run that it began with.**",
    )
    if scores := about.get("before"):
        title, now = "## Adapted to another place", about["after"]
        shown = (f"{k} {_interval(scores[k])} before, {_interval(now[k])} after" for k in scores)
        tested = f"Both were tested on other images of that place, at .5: {'; '.join(shown)}."
    how = "only the statistics of its batch normalisation"
    if about["method"] == "shot":
        how = f"source hypothesis transfer, {about['steps']} steps from step {about['from_step']}"
    return [
        title,
        f"The classifier was adapted to {about['images']} images of another place, **without "
        f"labels** ({how}). {tested} Scores and operating points of the run that it began "
        "with hold no longer and are left out; "
        "probabilities are not calibrated, and the threshold is .5. Out of distribution is what is "
        f"unlike those images. Of them it changed {about['changed']:.1%} of the decisions: "
        f"{before} before, {after} after. The data below are those of training.",
    ]


def _positive(classes: Sequence[str]) -> str:
    if len(classes) != 2:
        return ""
    negative, positive = map(plain, classes)
    return (
        f"The positive class is {positive}: sensitivity is the share of {positive} that is found, "
        f"specificity that of {negative}. "
    )


def _scores_of_findings(
    findings: Sequence[str], scores: tuple[str, Mapping[str, Any]]
) -> list[str]:
    """The means explained, and a table of each finding on the same images."""
    part, whole = scores
    rows = [
        [name, s["n"], s["present"], *(_interval(s[m]) for m in metrics.METRICS)]
        for name, s in zip(findings, whole["findings"], strict=True)
    ]
    return [
        "An image may have several findings: these are means over the findings that images both "
        f"show and lack, in {part} {whole['findings_scored']} of {len(findings)}. Each finding of "
        f"{part}, on the images in which it is known:",
        *markdown_table(["finding", "n", "present", *metrics.METRICS], rows),
    ]


def _points_of_findings(
    findings: Sequence[str], fitted: Sequence[Mapping[str, Any]], shown: Sequence[str]
) -> list[list[str]]:
    """Youden's point of each finding; – for one without."""
    rows = []
    for name, of in zip(findings, fitted, strict=True):
        point = of["operating_points"].get("youden")
        values = [_interval(point[m]) for m in shown] if point else ["–" for _ in shown]
        threshold = f"{point['threshold']:.4f}" if point else "0.5"
        rows.append([f"{name}, youden", threshold, *values])
    return rows


def _calibration_error(by: Mapping[str, Any]) -> str:
    before, after = by["ece_before"], by["ece"]
    return f": expected calibration error there {before:.3f} before, {after:.3f} after"


def _interval(score: Mapping[str, float | None]) -> str:
    value, low, high = (score[key] for key in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _counts(counts: Mapping[str, int] | None) -> str:
    return ", ".join(f"{n} {name}" for name, n in (counts or {}).items()) or "–"
