"""What render.py hands to schedulers is what they take, and does what the recipe says."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import render

yaml = pytest.importorskip("yaml")
ARGS = "-m ssl_gan_jax.main --config=configs/plco.py --workdir='gs://b/it is'"
GIVEN = {
    "tpu_vm": {"ARGS": ARGS, "BUCKET": "b", "PROJECT": "p", "ZONE": "z", "REPO": "https://r/x.git"},
    "jobset": {
        "ARGS": ARGS,
        "BUCKET": "gs://b",
        "IMAGE": "i:1",
        "HOSTS": "64",
        "TOPOLOGY": "16x16",
    },
    "slurm": {"ARGS": ARGS, "NODES": "2", "GPUS": "8"},
    "skypilot": {"ARGS": ARGS, "BUCKET": "b"},
}
RUN = f"{ARGS.replace('gs://', '/gcs/')}"


def test_jobset_has_the_fields_of_a_jobset():
    jobset = yaml.safe_load(render.render("jobset", GIVEN["jobset"]))
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 50
    (hosts,) = jobset["spec"]["replicatedJobs"]
    job = hosts["template"]["spec"]
    assert hosts["replicas"] == 1 and job["backoffLimit"] == 0
    assert job["completions"] == job["parallelism"] == 64
    assert job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "16x16"
    (container,) = pod["containers"]
    assert container["image"] == "i:1"
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["args"] == render.shlex.split(RUN)
    assert container["volumeMounts"][0]["mountPath"] == "/gcs/b"
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "b"
    assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}


def test_skypilot_mounts_the_bucket_and_runs_valid_shell():
    task = yaml.safe_load(render.render("skypilot", GIVEN["skypilot"]))
    assert task["file_mounts"] == {"/gcs/b": {"source": "gs://b", "mode": "MOUNT"}}
    assert task["resources"]["use_spot"] is True and task["num_nodes"] == 1
    command = task["run"].splitlines()[-1]
    assert render.shlex.split(command) == ["exec", ".venv/bin/python", *render.shlex.split(RUN)]
    subprocess.run(["bash", "-n", "-c", task["run"]], check=True)


@pytest.mark.parametrize("recipe", ["tpu_vm", "slurm"])
def test_shell_recipes_are_sound(recipe, tmp_path):
    path = tmp_path / "script.sh"
    path.write_text(render.render(recipe, GIVEN[recipe]))
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)


@pytest.mark.parametrize("recipe", render.RECIPES)
def test_every_variable_is_documented_and_used(recipe):
    text = (render.TEMPLATES / render.RECIPES[recipe][0]).read_text()
    known = render.variables(text)
    used = set(render.re.findall(r"\{\{([A-Z_]+)\}\}", text)) - {"MOUNT", "SOURCE"}
    assert used | {"BUCKET"} == set(known) | {"BUCKET"}
    assert "{{" not in render.render(recipe, GIVEN[recipe])


def test_wrong_and_missing_variables_are_named():
    with pytest.raises(ValueError, match="did you mean NODES"):
        render.render("slurm", GIVEN["slurm"] | {"NODE": "1"})
    with pytest.raises(ValueError, match=r"slurm needs ARGS=\.\.\."):
        render.render("slurm", {})
    with pytest.raises(ValueError, match="one line"):
        render.render("slurm", {"ARGS": "x\nscancel -u me"})


def test_dry_run_prints_and_does_nothing(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["render.py", "slurm", "--dry_run", "ARGS=-m x", "NODES=3"])
    monkeypatch.setattr(render.subprocess, "run", None)  # would raise
    assert render.main() == 0
    assert "#SBATCH --nodes=3\n" in capsys.readouterr().out


def fake(folder, name, script):
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\necho {name} "$@" >> {folder}/log\n{script}\n')
    path.chmod(0o755)


def execute(recipe, folder, **changes):
    """Runs a rendered recipe among the commands in `folder`; its exit code and their calls."""
    script = render.render(recipe, GIVEN[recipe] | changes)
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, timeout=60)
    return done.returncode, (folder / "log").read_text().splitlines()


# A slice that is pre-empted in the first go: ssh fails, and its state is SUSPENDED until deleted.
GCLOUD = """
cd {folder}
case "$*" in
  *describe*) cat state 2>/dev/null || exit 1 ;;
  *" create "*) echo ACTIVE > state ;;
  *" delete "*) rm -f state ;;
  *DISTRIBUTED=auto*) if [ -e second ]; then exit {code}; fi; touch second
                      echo SUSPENDED > state; exit 255 ;;
esac
"""


@pytest.mark.parametrize("code", [0, 2, 3])
def test_a_preempted_slice_is_asked_for_again(tmp_path, code):
    fake(tmp_path, "gcloud", GCLOUD.format(folder=tmp_path, code=code))
    ended, calls = execute("tpu_vm", tmp_path, PAUSE="0", TRIES="2")
    created = [c for c in calls if " create " in c]
    assert len(created) == 2 and "--accelerator-type=v5litepod-16" in created[0]
    assert "--spot" in created[0] and " delete " in calls[-1]  # nothing is left to be paid for
    assert ended == (1 if code == 3 else code)


def test_a_slice_on_which_nothing_can_be_installed_is_given_back(tmp_path):
    script = GCLOUD.format(folder=tmp_path, code=1).replace("*DISTRIBUTED=auto*", "*uv*")
    fake(tmp_path, "gcloud", script)
    (tmp_path / "second").touch()  # no pre-emption comes
    ended, calls = execute("tpu_vm", tmp_path, PAUSE="0", TRIES="50")
    assert ended == 1 and sum("--command=" in call for call in calls) == 3
    assert " delete " in calls[-1]


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (2, False)])
def test_slurm_requeues_what_was_saved_but_not_done(tmp_path, code, requeued):
    fake(tmp_path, "srun", f"exit {code}")
    fake(tmp_path, "scontrol", "")
    args = {"ARGS": "-m ssl_gan_jax.main --workdir=/x"}
    ended, calls = execute("slurm", tmp_path, **args)
    assert calls[0] == "srun --kill-on-bad-exit=1 python -m ssl_gan_jax.main --workdir=/x"
    assert ("scontrol requeue 7" in calls) == requeued
    assert ended == (0 if requeued else code)


def test_the_dockerfile_copies_what_its_installation_reads_and_names_extras_that_exist():
    root = Path(__file__).parents[2]
    lines = (root / "launch/Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert copied == {"setup.py", "README.md", "LICENSE", "ssl_gan_jax", "configs"}
    assert all((root / name).exists() for name in copied)
    setup = (root / "setup.py").read_text()
    assert all(f'"{extra}": [' in setup for extra in ("gpu", "tpu"))
    assert not any("data" in name or "shared" in name for name in copied)  # nobody's images
