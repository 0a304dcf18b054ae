"""Commands on finished runs: they need no training data, and say what the test said."""

import csv
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image
from sklearn.metrics import roc_auc_score
from test_train import small
from tiny import batch, method_config

from ssl_gan_jax import inference, methods, train
from ssl_gan_jax.commands import arguments, card, export, predict, quality
from ssl_gan_jax.commands import calibration as calibration_main
from ssl_gan_jax.commands import sample as sample_lib
from ssl_gan_jax.data import records
from ssl_gan_jax.data.dataset import Dataset, open_dataset
from ssl_gan_jax.data.sources.phantom import radiograph
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import calibration, explain, groups, metrics
from ssl_gan_jax.files import write_json
from ssl_gan_jax.nets.convolution import StridedConv, explainable
from ssl_gan_jax.player import Player, adam
from ssl_gan_jax.report import card as card_lib
from ssl_gan_jax.training import checkpoint
from ssl_gan_jax.training import result as result_lib
from ssl_gan_jax.types import Method, TrainState


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's folder, its task, and a folder with the phantom's images as files."""
    folder = tmp_path_factory.mktemp("finished")
    config = small("ssl_gan", steps=2)
    train.run(config, folder / "run")
    task = open_dataset(config.data, config.train.seed)
    place = {path: i for i, path in enumerate(sorted_paths())}
    for path in task.records.path[task.test]:
        file = folder / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(radiograph.render(0, place[path], 16, "A")).save(file)
    return folder / "run", task, folder / "images"


def sorted_paths():
    from ssl_gan_jax.data.sources.phantom import index

    return [row.path for row in index(None, images=160, site="A").rows]


def command(module, *args):
    """What a command returns, with these arguments."""
    return module.main(module.PARSER.parse_args(list(map(str, args))))


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_predict_says_what_the_test_said_without_the_data(finished, tmp_path, monkeypatch):
    folder, task, images = finished
    monkeypatch.setattr(records, "load", None)
    code = command(predict, f"--workdir={folder}", images, f"--out={tmp_path / 'p.csv'}")
    tested = {row["path"]: row for row in rows(folder / "predictions.csv")}
    found = rows(tmp_path / "p.csv")
    assert code == 0 and len(found) == len(tested) == len(task.test)
    temperature = inference.open_run(folder).calibration.temperature
    for row in found:
        before = tested[row["path"].removeprefix(f"{images}/")]
        p = float(before["p_cardiomegaly"])
        warm = calibration.tempered(np.log([[1 - p, p]]), temperature)[0, 1]
        assert float(row["p_cardiomegaly"]) == pytest.approx(warm, abs=1e-5)
        assert row["decision"] == before["decision"] and row["ood"] in ("yes", "no")


def test_bad_files_are_named_and_skipped(finished, tmp_path, capsys):
    folder, _, images = finished
    some = sorted(images.rglob("*.png"))[:2]
    formula = tmp_path / "=1+1.png"
    formula.write_bytes(some[0].read_bytes())
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "list.txt").write_text(f"{some[1]}\n\n{tmp_path / 'gone.png'}\n{some[1]}\n")
    out = tmp_path / "p.csv"
    args = [f"--workdir={folder}", f"--out={out}", "--json", f"--explain={tmp_path / 'why'}"]
    code = command(predict, *args, tmp_path, f"@{tmp_path / 'list.txt'}")
    printed = capsys.readouterr()
    assert code == 1 and [json.loads(line)["path"] for line in printed.out.splitlines()] == [
        str(formula),
        str(some[1]),
    ]
    assert "text.png: not a" in printed.err and "gone.png" in printed.err
    assert len(rows(out)) == 2 and len(list((tmp_path / "why").glob("*.png"))) == 2
    with pytest.raises(UserError, match="none of the 1 images"):
        command(predict, f"--workdir={folder}", tmp_path / "gone.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image in"):
        command(predict, f"--workdir={folder}", tmp_path / "empty")


def test_predict_writes_over_its_own_tables_alone(finished, tmp_path, monkeypatch):
    folder, _, images = finished
    one, run = sorted(images.rglob("*.png"))[0], tmp_path / "run"
    shutil.copytree(folder, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.chdir(run)
    (tmp_path / "labels.csv").write_text("path,label\n0.png,a\n")
    for out in ([], ["--out=result.json"], [f"--out={one}"], ["--out=../labels.csv"],
                ["--explain=samples"], [f"--explain={one.parent}"]):  # fmt: skip
        with pytest.raises(UserError, match="belongs to the run|are read|no table|are read"):
            command(predict, "--workdir=.", one, *out)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for _ in range(2):
        assert command(predict, "--workdir=.", one, "--out=../p.csv", "--explain=../why") == 0
    assert len(rows(tmp_path / "p.csv")) == 1
    (overlay,) = (tmp_path / "why").iterdir()
    assert (overlay.stat().st_mode & 0o777, overlay.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_commands_refuse_data_that_are_not_the_runs(finished, tmp_path, monkeypatch):
    folder, task, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    before = (tmp_path / "run" / "calibration.json").read_bytes()
    others = {
        "pixels": dataclasses.replace(task.records, image=task.records.image ^ 1),
        "labels": dataclasses.replace(task.records, label=1 - task.records.label),
        "names": dataclasses.replace(task.records, path=np.char.add("x", task.records.path)),
        "classes": dataclasses.replace(task.records, classes=("cardiomegaly", "normal")),
    }
    run = f"--workdir={tmp_path / 'run'}"
    commands = [(calibration_main, run), (sample_lib, run, "--n=2", f"--out={tmp_path / 's'}",
                "--neighbours"), (quality, tmp_path / "run", f"--features={folder}")]  # fmt: skip
    for what, records_now in others.items():
        monkeypatch.setattr(
            inference, "open_dataset", lambda *_, r=records_now: task._replace(records=r)
        )
        for module, *args in commands if what == "pixels" else commands[:1]:
            with pytest.raises(UserError, match=what):
                command(module, *args)
    assert (tmp_path / "run" / "calibration.json").read_bytes() == before
    assert not (tmp_path / "run" / "quality.json").exists()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    del result["fingerprint"]  # a run of an earlier version
    write_json(tmp_path / "run" / "result.json", result)
    monkeypatch.setattr(inference, "open_dataset", lambda *_: task)
    command(calibration_main, run)


def test_a_cell_that_looks_like_a_formula_is_escaped(tmp_path):
    predict.write_csv(tmp_path / "p.csv", [{"path": "=1+1.png", "p_a": -0.5, "ood": None}])
    assert (tmp_path / "p.csv").read_text() == "path,p_a,ood\n'=1+1.png,-0.5,\n"


def test_an_operating_point_moves_the_decisions(finished, tmp_path):
    folder, _, images = finished
    called = []
    for point in ("sensitivity=.99", "specificity=.99"):
        out = tmp_path / f"{point}.csv"
        args = (f"--operating_point={point}", f"--out={out}")
        command(predict, f"--workdir={folder}", images, *args)
        called.append(sum(row["decision"] == "cardiomegaly" for row in rows(out)))
    assert called[0] > called[1]


def test_what_is_no_radiograph_is_out_of_distribution(finished):
    folder, task, _ = finished
    images = task.records.image[task.test]
    noise = images.reshape(len(images), -1).copy()
    for row in noise:
        np.random.default_rng(0).shuffle(row)  # keeps the histogram
    known, unknown = (
        inference.predictor(inference.open_run(folder))(x).ood
        for x in (images, noise.reshape(images.shape))
    )
    label = np.repeat([0, 1], [len(known), len(unknown)])
    assert roc_auc_score(label, np.concatenate([known, unknown])) >= 0.95
    assert (unknown > 1).all() and (known > 1).mean() < 0.5


def test_calibration_sees_no_test_image(finished, tmp_path):
    folder, task, _ = finished
    run = inference.open_run(folder)
    classify = jax.jit(run.method.classify)
    made, _ = result_lib.fit_calibration(classify, run.state, task._replace(test=None))
    calibration.save(tmp_path, made)
    for name in ("calibration.json", "calibration.npz"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("unlabelled", "labels", "wanted"), [(8, True, "all"), (0, True, "few"), (0, False, "all")]
)
def test_g_could_copy_what_it_was_trained_on(unlabelled, labels, wanted):
    task = Dataset(None, labeled="few", unlabeled="all", val=None, test=None)
    config = {"train": {"unlabeled_batch_size": unlabelled}}
    assert result_lib.generator_rows(task, config, labels) == wanted


def saved(folder, settings):
    """A folder as an untrained run of this method would leave it."""
    config = method_config(settings.pop("name"), **settings)
    method = methods.build(config)
    b, u = 8, 8 if config.name == "ssl_gan" else 0
    state = jax.jit(method.init)(jax.random.key(0), batch(config.name))
    checkpoint.save(folder / "checkpoints", 3, state, {})
    write_json(folder / "config.json", {
        "method": config.to_dict(), "data": {"name": "phantom", "size": 16, "equalize": "hist"},
        "train": {"batch_size": b, "unlabeled_batch_size": u},
    })  # fmt: skip
    result = {"classes": ["a", "b"], "best_step": 3, "validation": None, "seed": 0}
    write_json(folder / "result.json", result)
    return method, state


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "three_n_gan"},
        {"name": "multitask"},
        {"name": "ssl_gan", "vbn": "both"},
        {"name": "ssl_gan", "nets": "mlp", "vbn": "none"},
        {"name": "supervised", "net": "cnn"},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_every_network_can_be_opened_explained_and_exported(settings, tmp_path):
    """Two outputs of one function: batched as in training, and image by image as exported."""
    mlp = settings.get("nets") == "mlp"
    method, state = saved(tmp_path, settings)
    run = inference.open_run(tmp_path)
    images = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 1), np.uint8)
    scaled = images.astype(np.float32) / 127.5 - 1
    wanted = jax.nn.softmax(method.classify(state, scaled)[0])
    answer = inference.predictor(run)(images)
    np.testing.assert_allclose(answer.probability, wanted, atol=1e-5)
    assert np.isnan(answer.ood).all()
    np.testing.assert_allclose(jax.jit(export.portable(run))(scaled)[0], wanted, atol=1e-5)
    if mlp:
        with pytest.raises(UserError, match="convolutions"):
            explain.explainer(run)(images)
    else:
        heat = explain.explainer(run)(images)
        assert heat.shape == (5, 8, 8) and heat.min() >= 0 and heat.max() > 0
        turned = explain.explainer(run)(images[::-1])
        np.testing.assert_allclose(turned, heat[::-1], rtol=1e-3, atol=1e-6)
        assert not np.allclose(turned, heat, rtol=0.1)
        other, positive = (explain.explainer(run, name)(images) for name in run.classes)
        np.testing.assert_allclose(positive, heat, rtol=1e-3, atol=1e-6)
        assert not np.allclose(other, heat, rtol=0.1)


def test_without_classifier_or_generator_it_is_said(tmp_path):
    saved(tmp_path / "dcgan", {"name": "dcgan"})
    saved(tmp_path / "supervised", {"name": "supervised"})
    with pytest.raises(UserError, match="dcgan has no classifier"):
        inference.predictor(inference.open_run(tmp_path / "dcgan"))
    with pytest.raises(UserError, match="supervised has no generator"):
        command(sample_lib, f"--workdir={tmp_path / 'supervised'}", f"--out={tmp_path}")


def test_what_is_no_finished_run_is_refused_in_one_line(tmp_path):
    def refused(match):
        with pytest.raises(UserError, match=match) as error:
            inference.open_run(tmp_path / "run")
        assert "\n" not in str(error.value)

    saved(tmp_path / "run" / "seed_0", {"name": "supervised"})
    refused("not a run's folder.*did you mean .*seed_0")
    (tmp_path / "run" / "seed_0").rename(tmp_path / "other")
    (tmp_path / "run").rmdir()
    (tmp_path / "other").rename(tmp_path / "run")
    inference.open_run(tmp_path / "run")
    weights = max((tmp_path / "run" / "checkpoints").rglob("*"), key=lambda p: p.stat().st_size)
    content = weights.read_bytes()
    weights.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    refused("was changed")
    result = tmp_path / "run" / "result.json"
    result.write_text("{")
    refused("result.json is damaged")
    result.write_text("{}")
    refused("lacks 'classes'")
    result.unlink()
    refused("not finished")


class TopLeft(nn.Module):
    """A "network" whose second class is the sum of its map's upper left quarter."""

    @nn.compact
    def __call__(self, x, train):
        h = StridedConv(3, kernel_init=nn.initializers.uniform(1.0))(x)
        h = explainable(self, h)[:, :4, :4]
        return jnp.stack([jnp.zeros(len(x)), h.sum((1, 2, 3))], 1), h.reshape(len(x), -1)


def test_evidence_lies_where_the_network_looks():
    images = jnp.ones((2, 16, 16, 1))
    c = Player.create(TopLeft(), adam(1e-3, 0.5), 0.9, jax.random.key(0), images)
    state = TrainState(jnp.int32(0), jax.random.key(0), {"C": c}, {})
    method = Method(None, None, lambda state, images: state.players["C"].averaged(images))
    heat = np.asarray(explain.heatmaps(method, state, images))
    assert heat[:, :4, :4].min() > 0 and heat[:, 4:].max() == heat[:, :, 4:].max() == 0
    picture = np.asarray(explain.overlay(np.zeros((16, 16, 1), np.uint8), heat[0]))
    assert picture[40, 40, 0] > 100 and picture[200, 200].max() == 0


def test_samples_say_that_they_are_synthetic(finished, tmp_path):
    folder, _, _ = finished
    args = [f"--workdir={folder}", "--n=3", "--interpolate", "--neighbours"]
    command(sample_lib, *args, f"--out={tmp_path}")
    files = sorted(tmp_path.glob("*.png"))
    assert [f.name for f in files[-2:]] == ["grid.png", "interpolation.png"] and len(files) == 5
    for file in files:
        assert "shows no patient" in Image.open(file).text["Description"]
    run = inference.open_run(folder)
    wanted = np.asarray(run.method.generate(run.state, run.method.draw_z(jax.random.key(0), 3)))
    pixels = np.asarray(Image.open(files[1]), float)
    assert abs(pixels - (wanted[1, ..., 0] + 1) * 127.5).max() <= 1
    way = np.asarray(Image.open(tmp_path / "interpolation.png"), float)
    assert way.shape == (2 * 18 - 2, sample_lib.STEPS * 18 - 2)
    assert abs(way[:16, -16:] - pixels).max() <= 1 and abs(way[18:, :16] - pixels).max() <= 1
    distances = rows(tmp_path / "neighbours.csv")
    assert len(distances) == 5 and all(float(row["distance"]) > 0 for row in distances)


def test_the_way_between_two_z_keeps_their_length():
    a, b = jax.random.normal(jax.random.key(0), (2, 100))
    a, b = (10 * z / jnp.linalg.norm(z) for z in (a, b))
    np.testing.assert_allclose(
        jnp.linalg.norm(sample_lib.interpolate(a, b, 5, False), axis=1), 10, 1e-4
    )
    for uniform in (False, True):
        way = sample_lib.interpolate(a, b, 5, uniform)
        np.testing.assert_allclose(way[jnp.array([0, 4])], jnp.stack([a, b]), atol=1e-4)
        np.testing.assert_allclose(sample_lib.interpolate(a, a, 3, uniform)[1], a, atol=1e-3)


def test_the_card_tells_what_the_result_says(finished):
    folder, task, _ = finished
    command(card, f"--workdir={folder}")
    text, as_json = (folder / "MODEL_CARD.md").read_text(), (folder / "model_card.json").read_text()
    result = json.loads((folder / "result.json").read_text())
    assert f"{result['test']['auroc']['value']:.3f} [" in text
    assert "Not for clinical use" in text and "synthetic" in as_json and "| youden |" in text
    parts = groups.splits(task)
    assert parts["labelled"]["classes"] == {"normal": 6, "cardiomegaly": 6}
    assert parts["test"]["images"] == result["test"]["n"]
    written = card_lib.render(
        card_lib.describe(
            {"data": {"name": "|x|", "size": 32, "equalize": "none"}},
            {**result, "splits": parts, "test_by_group": {"sex F": result["test"]}},
            calibration.load(folder),
        )
    )
    assert "| test, sex F |" in written


def test_sex_age_and_view_come_from_the_table_and_are_never_stored(tmp_path):
    people = [("F", "58"), ("m", "17.0"), ("", "NaN"), ("F", "058Y"), ("M", "65")]
    table = tmp_path / "images" / "labels.csv"
    table.parent.mkdir()
    for i in range(len(people)):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(table.parent / f"{i}.png")
    rows = [f"{i}.png,{'ab'[i % 2]},{sex},{age}" for i, (sex, age) in enumerate(people)]
    table.write_text("\n".join(["path,label,Patient Gender,Age", *rows]))
    found = records.load("folder", table.parent, 8, cache_dir=tmp_path / "cache")
    assert {k: v.tolist() for k, v in found.groups.items()} == {
        "sex": ["F", "m", "", "F", "M"],
        "age": ["40-64", "0-17", "", "40-64", "65+"],
    }
    before = sorted((tmp_path / "cache").rglob("*"))
    table.write_text("\n".join(["path,label", *(row.rsplit(",", 2)[0] for row in rows)]))
    assert records.load("folder", table.parent, 8, cache_dir=tmp_path / "cache").groups == {}
    assert sorted((tmp_path / "cache").rglob("*")) == before


def test_groups_are_reported_each_for_itself():
    rng = np.random.default_rng(0)
    p, label, patient = rng.random(60), rng.integers(0, 2, 60), np.arange(60)
    probs, site = np.stack([1 - p, p], 1), np.repeat(["A", "B"], 30)
    sex = np.array(["F"] * 25 + ["M"] * 30 + [""] * 5)
    blank = np.repeat("", 60)
    found = records.Records(
        blank, label, patient, blank, blank, site, ("a", "b"), (), {"sex": sex, "view": blank}
    )
    reports = groups.by_group(probs, found, np.arange(60), 0.5)
    alone = metrics.report(probs[:30], label[:30], patient[:30], 0.5)
    assert reports["site A"] == alone and reports["sex F"]["n"] == 25
    assert set(reports) == {"site A", "site B", "sex F", "sex M"}  # unknown: five are too few


@pytest.mark.parametrize("form", ["stablehlo", "savedmodel", "onnx"])
def test_foreign_runtimes_agree_with_predict(form, finished, tmp_path):
    folder, task, _ = finished
    if form == "onnx":
        pytest.importorskip("jax2onnx")
        runtime = pytest.importorskip("onnxruntime")
    command(export, f"--workdir={folder}", f"--format={form}", f"--out={tmp_path}")
    about = json.loads((tmp_path / "preprocessing.json").read_text())
    assert about["outputs"]["probability"]["classes"] == ["normal", "cardiomegaly"]
    if form == "stablehlo":
        model = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
        assert set(model.platforms) == set(export.PLATFORMS)
        call = model.call
    elif form == "savedmodel":
        import tensorflow as tf

        served = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
        call = lambda x: [served(tf.constant(x))[k].numpy() for k in about["outputs"]]  # noqa: E731
    else:
        session = runtime.InferenceSession(tmp_path / "model.onnx")
        call = lambda x: session.run(list(about["outputs"]), {"image": x})  # noqa: E731
    run = inference.open_run(folder)
    for n in (1, 5):
        images = task.records.image[task.test[:n]]
        probability, ood = call(images.astype(np.float32) / np.float32(127.5) - np.float32(1))
        wanted = inference.predictor(run)(images)
        np.testing.assert_allclose(probability, wanted.probability, atol=1e-5)
        np.testing.assert_allclose(ood, wanted.ood, rtol=1e-3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["x.png"], "--workdir"),
        (["--workdir=nowhere", "x.png"], "nowhere is not a run's folder"),
        (["--workdir=nowhere", "x.png", "--treshold=1"], "--treshold=1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(args, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["predict", *args])
    with pytest.raises(SystemExit) as end:
        arguments.run(predict.main, predict.PARSER)
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert message in err
