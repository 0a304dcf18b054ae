"""Tables and folders as users have them: however rows are written, the same rows are read."""

import csv
import io
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_gan_jax.data import layouts, names
from ssl_gan_jax.data.images import files_in
from ssl_gan_jax.data.sources import folder
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.files import write_json, write_png

FILES = [f"deep er/Bild-{letter}{i}.png" for i, letter in enumerate("äöüéñabcdefg")]
SPELLINGS = {
    "path": ("path", "Path", "FILE NAME", "filename", "Image Index", "image_path", "image-id"),
    "label": ("label", "Label", "class", "Diagnosis", "Finding Labels", "TARGET", " category "),
    "patient_id": ("patient_id", "PatientID", "Patient ID", "patient", "subject-id", "CaseID"),
    "split": ("split", "Split", "set", "Subset", "Dataset_type", "fold"),
}
LABELS = {
    "Normal": ("Normal", "Normal", "normal", " NORMAL", '"Normal"'),
    "No TB": ("No TB", "No TB", "no_tb", "NO-TB"),
    "TB": ("TB", "TB", "tb", "Tb "),
    "": ("", "NA", "n/a", "NaN", "None", "null", "?", "-", "-1", "unknown", "Unlabelled", "<NA>"),
}
PARTS = {
    "train": ("train", "Training", "TRAIN"),
    "val": ("val", "valid", "Validation", "dev"),
    "test": ("test", "testing", "hold-out"),
    "": ("", "NA", "-"),
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252")

row = st.tuples(st.sampled_from(sorted(LABELS)), st.integers(0, 99), st.sampled_from(sorted(PARTS)))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Empty files for tables to name; listing never opens them."""
    data = tmp_path_factory.mktemp("films")
    (data / "deep er").mkdir()
    for name in FILES:
        (data / name).touch()
    return data


def read(data, **options):
    index = folder.index(data, **options)
    return index, [
        (r.path, index.classes[r.label] if r.label >= 0 else "", r.patient, r.split)
        for r in index.rows
    ]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), rows=st.lists(row, min_size=3, max_size=len(FILES)))
def test_a_table_is_read_as_its_author_means_it(films, data, rows):
    """Names and order of columns, separators, encodings, line ends, empty rows, missing values."""
    for old in films.glob("*.*"):
        old.unlink()
    pick = lambda choices: data.draw(st.sampled_from(choices))  # noqa: E731
    rows = [("Normal", 0, "train"), ("TB", 1, "train"), ("No TB", 2, "train"), *rows[3:]]
    parts = {}  # of a patient
    rows = [(label, patient, parts.setdefault(patient, part)) for label, patient, part in rows]
    encoding = pick(ENCODINGS)
    order = data.draw(st.permutations(list(SPELLINGS)))
    table = [[pick(SPELLINGS[name]) for name in order]]
    for name, (label, patient, part) in zip(FILES, rows, strict=False):
        form = pick(("NFC", "NFD")) if "utf" in encoding else "NFC"
        shown = {
            "path": pick(
                (name, name.replace("/", "\\"), f"./{name}", name[:-4], name[:-3] + "PNG")
            ),
            "label": pick(LABELS[label]),
            "patient_id": f"p{patient}",
            "split": pick(PARTS[part]),
        }
        shown["path"] = unicodedata.normalize(form, shown["path"])
        table.append([shown[column] for column in order])
    if pick((True, False)):
        table = [[*cells, ""] for cells in table]
    if pick((True, False)):
        table = [cell for cells in table for cell in (cells, [""] * len(cells))]
    text = io.StringIO()
    separator = pick(",;\t|")
    how = {"delimiter": separator, "lineterminator": pick(("\n", "\r\n", "\r"))}
    csv.writer(text, **how, quoting=pick((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))).writerows(table)
    name = pick(("labels.csv", "Labels.CSV", "labels.tsv", "metadata.csv", "my list.TSV"))
    (films / name).write_bytes(text.getvalue().encode(encoding))
    index, found = read(films)
    assert [(path, names.class_key(label), *rest) for path, label, *rest in found] == [
        (path, names.class_key(label), f"p{patient}", part)
        for path, (label, patient, part) in zip(FILES, rows, strict=False)
    ]
    said = index.metadata
    assert len(index.classes) == 3 and said.by_patient
    assert name in said.summary[0] and f"{len(rows)} rows" in said.summary[0]


TREES = {  # from class, part ('' for none) and name to a path
    "class": lambda c, p, n: f"{c}/{n}",
    "class, deep": lambda c, p, n: f"{c}/scanner 3/{n}",
    "part, class": lambda c, p, n: f"{p}/{c}/{n}",
    "class, part": lambda c, p, n: f"{c}/{p}/{n}",
    "images, part, class": lambda c, p, n: f"images/{p}/{c}/{n}",
    "part, images, class": lambda c, p, n: f"{p}/images/{c}/{n}",
}
SPELT = ({}, {"train": "Training", "val": "valid"}, {"train": "TRAIN", "test": "Testing"})
CLASSES = ("NORMAL", "PNEUMONIA", "unlabelled")


def make(path, image=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    if image:
        path.touch()
    else:
        path.write_text("x")


@pytest.mark.parametrize("wrapper", ["", "chest_xray/", "zip/a b/"])
@pytest.mark.parametrize("spelt", SPELT, ids=str)
@pytest.mark.parametrize("tree", TREES)
def test_a_tree_is_read_as_its_author_means_it(tmp_path, tree, spelt, wrapper):
    """Also with what systems, other tools and this program leave there."""
    wanted, train = set(), spelt.get("train", "train")
    for c in CLASSES:
        for p in ("train", "val", "test"):
            for n in range(2):
                path = wrapper + TREES[tree](c, spelt.get(p, p), f"{p}{n}.png")
                make(tmp_path / path)
                label = "" if c == "unlabelled" else c
                wanted.add((path, label, path, p if "part" in tree else ""))
    make(tmp_path / "__MACOSX/NORMAL/._1.png")
    make(tmp_path / ".ipynb_checkpoints/1.png")
    make(tmp_path / f"{wrapper}{TREES[tree]('NORMAL', train, '.DS_Store')}", image=False)
    make(tmp_path / f"{wrapper}{TREES[tree]('NORMAL', train, 'notes.txt')}", image=False)
    make(tmp_path / f"{wrapper}{TREES[tree]('NORMAL', train, 'masks/train0.png')}")
    make(tmp_path / f"{wrapper}{TREES[tree]('NORMAL', train, 'train1_mask.png')}")
    write_png(tmp_path / "overlays" / "1.png", ONE)
    write_json(tmp_path / "audit" / "audit.json", {})
    make(tmp_path / "audit" / "sheet.png")
    make(tmp_path / "run" / "config.json", image=False)
    make(tmp_path / "run" / "metrics.jsonl", image=False)
    make(tmp_path / "run" / "samples" / "1.png")
    index, found = read(tmp_path)
    assert set(found) == wanted and index.classes == ("NORMAL", "PNEUMONIA")
    assert "2 masks" in index.metadata.summary[1] and "1 of .txt" in index.metadata.summary[1]
    assert not index.metadata.by_patient


ONE = np.zeros((4, 4), np.uint8)


def test_our_own_run_in_the_data_folder_itself_is_no_class(tmp_path):
    for name in ("a/1.png", "b/1.png", "samples/1.png", "checkpoints/x/1.png", "sheet.png"):
        make(tmp_path / name)
    for name in ("config.json", "metrics.jsonl", "audit.json"):
        make(tmp_path / name, image=False)
    (tmp_path / "predictions.csv").write_text("path,label,p_a,p_b,decision\na/1.png,a,1,0,a\n")
    assert read(tmp_path)[0].classes == ("a", "b")
    assert list(files_in(tmp_path / "samples")) == ["1.png"]  # where a user names it


@pytest.mark.parametrize("classes", [("mask", "no_mask"), ("with_mask", "without_mask")])
def test_masks_may_be_what_is_classified(tmp_path, classes):
    for name in classes:
        make(tmp_path / name / "1.png")
    assert set(read(tmp_path)[0].classes) == set(classes)


HEALTHY = ("Normal", "healthy", "NEGATIVE", "no finding", "No_Finding", "control", "benign", "0",
           "absent", "none", "non-TB", "NoTB", "without TB", "normal_cxr", "well", "False",
           "TB negative", "not abnormal")  # fmt: skip
ILL = ("TB", "abnormal", "1", "a", "zoster", "Positive", "not normal", "unhealthy", "sick", "True")


@pytest.mark.parametrize("ill", ILL)
@pytest.mark.parametrize("healthy", HEALTHY)
def test_the_healthy_class_is_never_the_positive_one(healthy, ill):
    for pair in ((healthy, ill), (ill, healthy)):
        assert names.in_order(pair) == (healthy, ill)
        assert names.in_order(pair, positive=healthy.upper()) == (ill, healthy)
        assert names.in_order(pair, given=f"{ill}, {healthy}") == (ill, healthy)


def test_a_denial_in_one_word_is_healthy_beside_what_it_denies():
    assert names.in_order(("covid", "noncovid")) == ("noncovid", "covid")
    assert names.in_order(("nodule", "mass")) == ("mass", "nodule")


def test_a_positive_class_that_cannot_be():
    with pytest.raises(UserError, match="no 'x' among the classes a, b"):
        names.in_order(("a", "b"), positive="x")
    with pytest.raises(UserError, match="of two classes one is positive, and here are 3"):
        names.in_order(("a", "b", "c"), positive="a")


def test_minus_one_is_a_class_beside_one_alone():
    assert names.classes_of(["-1", "1", "1.0"]) == {"-1": "-1", "1": "1", "1.0": "1"}
    assert names.classes_of(["-1", "1", "0"])["-1"] == ""


def listing(films, text, name="labels.csv"):
    for old in films.glob("*.*"):
        old.unlink()
    (films / name).write_text(text)
    return films


def test_what_a_table_has_beyond_what_is_read_is_said(films):
    a, b, c = FILES[:3]
    text = f",file,dx,weight,sex\n0,{a},x,70,F\n1,{b},y,71,M\n2,{c},Y,72,\n"
    lines = read(listing(films, text))[0].metadata.summary
    assert "columns file -> path, dx -> label, sex" in lines[0]
    assert "not read: (no name), weight" in lines[0] and "read as one class: y, Y" in lines[0]
    assert f"{len(FILES) - 3} images that the table does not name" in lines[1]


@pytest.mark.parametrize("cell", ["Mass|Effusion", "Mass; Effusion", "Mass,Effusion", "Mass/Mass"])
def test_several_findings_in_a_cell_are_refused(films, cell):
    text = f'path,label\n{FILES[0]},Mass\n{FILES[1]},Effusion\n{FILES[2]},"{cell}"\n'
    with pytest.raises(UserError, match="labels.csv row 4, column 'label': several findings"):
        read(listing(films, text))
    found = read(listing(films, text.replace(cell, "Mass|")))[1]
    assert found[2][1] == "Mass"


def test_a_name_that_may_mean_two_files_is_refused(tmp_path):
    for name in ("a/1.png", "a/1.jpg", "b/2.png"):
        make(tmp_path / name)
    (tmp_path / "labels.csv").write_text("path,label\na/1,x\n")
    with pytest.raises(
        UserError, match="row 2, column 'path': 'a/1' may be 'a/1.jpg' or 'a/1.png'"
    ):
        read(tmp_path)
    (tmp_path / "labels.csv").write_text("path,label\n2,x\n")
    assert read(tmp_path)[1][0][0] == "b/2.png"
    (tmp_path / "labels.csv").write_text("path,label\na/2.png,x\n")  # in another folder
    with pytest.raises(UserError, match="there is no file 'a/2.png'"):
        read(tmp_path)
    (tmp_path / "labels.csv").write_text(f"path,label\n{tmp_path.name}/b/2.png,x\n")
    assert read(tmp_path)[1][0][0] == "b/2.png"


def test_which_table_is_meant_is_asked(films):
    listing(films, f"path,label\n{FILES[0]},x\n", "one.csv")
    (films / "two.csv").write_text("path,label\n")
    with pytest.raises(UserError, match="one.csv, two.csv may each be the table of labels"):
        read(films)
    (films / "two.csv").write_text("name,telephone\n")  # about something else
    assert len(read(films)[1]) == 1


def test_a_table_by_another_name_does_not_replace_classes_of_folders(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        make(tmp_path / name)
    (tmp_path / "manifest.csv").write_text("path,label\na/1.png,x\n")
    index, _ = read(tmp_path)
    assert index.classes == ("a", "b") and "manifest.csv" in index.metadata.summary[1]


def test_parts_beside_classes_are_refused(tmp_path):
    for name in ("train/a/1.png", "test/a/1.png", "b/1.png"):
        make(tmp_path / name)
    with pytest.raises(UserError, match="folders test, train are parts .* and b are not"):
        read(tmp_path)


def test_films_of_one_patient_are_warned_about_by_file():
    one = [f"a/person{p}_{k}.png" for p in range(9) for k in range(2)]
    for some in (one, [f"a/{p:03d}_{k}.png" for p in range(9) for k in range(2)],
                 [f"a/patient{p}/{k}.png" for p in range(9) for k in range(2)]):  # fmt: skip
        assert layouts.films_of_one_patient(some) == (some[0], some[1])
    for none in (["a/img_1.png", "a/img_2.png"], [f"a/COVID-19_{i}.png" for i in range(99)],
                 [f"a/CHNCXR_{i:04d}_{i % 2}.png" for i in range(99)], []):  # fmt: skip
        assert layouts.films_of_one_patient(none) is None
