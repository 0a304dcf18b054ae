"""From the tables and images that hospitals publish to a result, at another hospital."""

import runpy
from pathlib import Path

import numpy as np
from test_sources import report, write_image

from ssl_gan_jax import train
from ssl_gan_jax.data.sources.openi import openi_dataset_builder as openi

CONFIG = Path(__file__).parents[2] / "configs" / "domain.py"


def hospitals(folder):
    """60 films of PLCO, 40 reports of Open-i with a frontal image each; half with large hearts."""
    screen, link = ["plco_id,study_yr,xry_result,an_cardiac"], ["plco_id,study_yr,image_file_name"]
    for i in range(60):
        screen.append(f"P{i},0,1,{i % 2}")
        link.append(f"P{i},0,film{i}")
        write_image(folder / "plco" / "batch1" / f"film{i}.TIF", i)
    (folder / "plco" / "lung_screen_data_1.csv").write_text("\n".join(screen))
    (folder / "plco" / "lung_xryimg25_data_1.csv").write_text("\n".join(link))
    views = ["uid,filename,projection"]
    (folder / "openi" / openi.FOLDER).mkdir(parents=True)
    for i in range(1, 41):
        name, tags = f"IM-{i:04}-1001", ["normal"] if i % 2 else ["Cardiomegaly/mild"]
        (folder / "openi" / openi.FOLDER / f"{i}.xml").write_text(report(i, tags, name))
        write_image(folder / "openi" / f"CXR{i}_{name}.png", 100 + i)
        views.append(f"{i},{i}_{name}.dcm.png,Frontal")
    (folder / "openi" / openi.PROJECTIONS).write_text("\n".join(views))


def test_m_table_2_from_plco_to_openi(tmp_path):
    hospitals(tmp_path / "data")
    arg = "data=sites,source=plco,target=openi,steps=2"
    config = runpy.run_path(str(CONFIG))["get_config"](arg)
    config.data.dir = str(tmp_path / "data")
    config.method.update(width=4, reference_size=4)
    config.train.update(batch_size=8, unlabeled_batch_size=8)
    result = train.run(config, tmp_path / "run")
    assert result["classes"] == ["normal", "abnormal heart"]
    assert result["splits"]["labelled"].get("sites") == {"plco": result["labelled"]}
    assert set(result["splits"]["test"]["sites"]) == {"openi"} and result["test"]["n"] > 0
    # Open-i's other images take part without labels: M's third row.
    assert result["splits"]["unlabelled"]["sites"]["openi"] == 40 - result["test"]["n"]
    assert np.isfinite(result["test"]["accuracy"]["value"])
