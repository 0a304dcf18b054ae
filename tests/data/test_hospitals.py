"""From the tables and images that hospitals publish to a result, and nobody's name on the way."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from made import SENTINEL, dicom
from test_sources import report, write_image

from ssl_gan_jax import report as report_lib
from ssl_gan_jax import train
from ssl_gan_jax.commands import adapt, predict
from ssl_gan_jax.data import audit, dataset, records
from ssl_gan_jax.data.sources import openi
from ssl_gan_jax.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
SECRETS = ("SENTINEL", "S3NTINEL", SENTINEL["PatientBirthDate"])  # also in PLCO's patient keys


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """60 films of PLCO, 40 reports of Open-i with a frontal image each; half with large hearts."""
    folder = tmp_path_factory.mktemp("hospitals")
    screen, link = ["plco_id,study_yr,xry_result,an_cardiac"], ["plco_id,study_yr,image_file_name"]
    for i in range(60):
        screen.append(f"S3NTINEL-{i},0,1,{i % 2}")
        link.append(f"S3NTINEL-{i},0,film{i}")
        write_image(folder / "plco" / "batch1" / f"film{i}.TIF", i)
    (folder / "plco" / "lung_screen_data_1.csv").write_text("\n".join(screen))
    (folder / "plco" / "lung_xryimg25_data_1.csv").write_text("\n".join(link))
    views = ["uid,filename,projection"]
    (folder / "openi" / openi.FOLDER).mkdir(parents=True)
    for i in range(1, 41):
        name, tags = f"IM-{i:04}-1001", ["normal"] if i % 2 else ["Cardiomegaly/mild"]
        (folder / "openi" / openi.FOLDER / f"{i}.xml").write_text(report(i, tags, name))
        pixels = np.random.default_rng(100 + i).integers(0, 4096, (12, 10), np.uint16)
        dicom(folder / "openi" / f"{i}_{name}.dcm", pixels, BurnedInAnnotation="")
        views.append(f"{i},{i}_{name}.dcm.png,Frontal")
    (folder / "openi" / openi.PROJECTIONS).write_text("\n".join(views))
    return folder


def run(config, folder, workdir):
    """Two steps of a tiny network."""
    config.data.dir = str(folder)
    config.data.cache_dir = str(workdir.parent / "cache")
    config.method.update(width=4)
    config.train.update(batch_size=8)
    return train.run(config, workdir)


def config_of(name, arg):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](arg)


def test_m_table_1_on_plco(hospitals, tmp_path):
    config = config_of("plco", "method=supervised,labels=3,steps=2")
    result = run(config, hospitals / "plco", tmp_path / "run")
    assert result["classes"] == ["no cardiac abnormality", "cardiac abnormality"]
    assert result["labelled"] == 6 and result["test"]["n"] > 0


def test_m_table_2_from_plco_to_openi_and_trust_26(hospitals, tmp_path, capfd, caplog):
    logging.use_python_logging(quiet=True)
    config = config_of("domain", "data=sites,source=plco,target=openi,steps=2")
    config.method.reference_size, config.train.unlabeled_batch_size = 4, 8
    workdir, out = tmp_path / "run", tmp_path / "out"
    result = run(config, hospitals, workdir)
    assert result["classes"] == ["normal", "abnormal heart"]
    assert result["splits"]["labelled"].get("sites") == {"plco": result["labelled"]}
    assert set(result["splits"]["test"]["sites"]) == {"openi"} and result["test"]["n"] > 0
    # Open-i's other images take part without labels: M's third row.
    assert result["splits"]["unlabelled"]["sites"]["openi"] == 40 - result["test"]["n"]
    assert np.isfinite(result["test"]["accuracy"]["value"])

    report_lib.write([workdir], workdir)
    films = [str(path) for path in sorted((hospitals / "openi").glob("*.dcm"))[:3]]
    args = ["--workdir", str(workdir), *films, "--out", str(out / "predictions.csv")]
    assert predict.main(predict.PARSER.parse_args(args)) == 0
    found = dataset.load(config.data)
    audited, _ = audit.audit(found, dataset.split_images(found, config.data))
    audited |= audit.headers(records.list_source("openi", hospitals / "openi").files)
    assert audited["burned_in_annotation"] == {"not given": 40}
    written = [path for folder in (workdir, out) for path in folder.rglob("*")]
    names = {path.name for path in written}
    assert {"report.html", "MODEL_CARD.md", "predictions.csv", "result.json"} <= names
    assert any(name.startswith("events.") for name in names)
    said = [*capfd.readouterr(), caplog.text, repr(audited), *audit.summary(audited), *names]
    said = "\n".join(said).encode()
    for text in (said, *(path.read_bytes() for path in written if path.is_file())):
        assert not any(secret.encode() in text for secret in SECRETS)


def test_a_folder_with_a_column_site_adapts_from_one_hospital_to_the_other(tmp_path):
    lines = ["path,label,site"]
    for i in range(160):
        name = f"{i:03d}.png"
        write_image(tmp_path / name, i)
        lines.append(f"{name},{('well', 'ill')[i % 2]},{'ab'[i % 4 // 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    for scenario, trains in (("adamatch", "a"), ("target", "b")):
        arg = f"data=folder,source=a,target=b,scenario={scenario},labels=4,steps=2"
        config = config_of("domain", arg)
        config.train.unlabeled_batch_size = 8 if scenario == "adamatch" else 0
        result = run(config, tmp_path, tmp_path / scenario)
        sites = {part: set(about["sites"]) for part, about in result["splits"].items()}
        assert sites["labelled"] == sites["validation"] == {trains} and sites["test"] == {"b"}
        assert result["labelled"] == 8 and result["test"]["n"] > 0
        if scenario == "adamatch":
            assert sites["unlabelled"] == {"b"} and config.method.align and config.method.relative
    # What needs no label of the target: its threshold, and adaptation without the source's images.
    source = tmp_path / "adamatch"
    first = json.loads((source / "result.json").read_text())
    assert 0 <= first["test"]["accuracy_label_free"]["value"] <= 1
    assert first["new_prior"]["refused"] == ("is not used" in first["new_prior"]["line"])
    assert "new_prior" not in result  # trained on the target itself
    args = [f"--workdir={source}", f"--out={tmp_path / 'adapted'}", "--steps=2", "--json"]
    assert adapt.main(adapt.PARSER.parse_args(args)) == 0
    adapted = json.loads((tmp_path / "adapted/result.json").read_text())
    about = adapted["adaptation"]
    assert adapted["new_prior"] is None  # it was the first run's
    assert about["images"] == first["splits"]["unlabelled"]["images"]
    assert about["before"]["auroc"] == first["test"]["auroc"]
    assert about["after"]["auroc"] == adapted["test"]["auroc"]
    assert (
        adapted["test"]["n"] == first["test"]["n"]
        and adapted["fingerprint"] == first["fingerprint"]
    )
    assert "Both were tested" in (tmp_path / "adapted/MODEL_CARD.md").read_text()
    for wrong, why in (
        ([f"--workdir={tmp_path / 'target'}"], "no data.target_site"),
        ([str(tmp_path / "000.png"), f"--data_dir={tmp_path}"], "--data_dir"),
    ):
        with pytest.raises(UserError, match=why):
            adapt.main(adapt.PARSER.parse_args([*args, f"--out={tmp_path / 'new'}", *wrong]))
