r"""Fills in a recipe for a scheduler, and hands it over.

    python launch/render.py tpu_vm --dry_run PROJECT=p ZONE=z BUCKET=b \
        ARGS='-m ssl_gan_jax.main --config=configs/plco.py --workdir=gs://b/runs/plco'

Recipes: tpu_vm (queued resources, `gcloud`), jobset (GKE, `kubectl`), slurm (`sbatch`), skypilot
(`sky`): the files in launch/templates/. Lines that begin with `#:` there name the variables, with
what they mean and their defaults; those without one must be given. --dry_run prints the result
and does nothing. ARGS are Python's arguments; gs://BUCKET/x in any value becomes /gcs/BUCKET/x,
where the recipe mounts the bucket: the package itself reads and writes files, not objects.
"""

import argparse
import difflib
import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ssl_gan_jax.commands import ending

TEMPLATES = Path(__file__).parent / "templates"
# Recipe -> its file, and the command that takes the filled in file.
RECIPES = {
    "tpu_vm": ("tpu_vm.sh", ["bash"]),
    "jobset": ("jobset.yaml", ["kubectl", "apply", "-f"]),
    "slurm": ("slurm.sh", ["sbatch"]),
    "skypilot": ("skypilot.yaml", ["sky", "jobs", "launch"]),
}


def variables(template: str) -> dict[str, str | None]:
    """The variables that the lines `#: KEY=default  meaning` name; None: must be given."""
    found = re.findall(r"^#: ([A-Z_]+)(=\S*)?", template, flags=re.M)
    return {key: default[1:] if default else None for key, default in found}


def render(recipe: str, given: Mapping[str, str]) -> str:
    """The text of a recipe with `{{KEY}}` replaced by the quoted value.

    Raises:
      ValueError: a variable that the recipe does not have, or one that is missing.
    """
    file, _ = RECIPES[recipe]
    template = (TEMPLATES / file).read_text()
    known = variables(template)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{recipe} has no {key} among {', '.join(known)}{hint}")
    values = known | {key: value.replace("gs://", "/gcs/") for key, value in given.items()}
    if missing := [key for key, value in values.items() if value is None]:
        raise ValueError(f"{recipe} needs {', '.join(f'{key}=...' for key in missing)}")
    if bad := [key for key, value in values.items() if not value.isprintable()]:
        raise ValueError(f"{bad[0]}: one line of text, please")

    if "BUCKET" in values:
        values["BUCKET"] = values["BUCKET"].removeprefix("/gcs/")
        values |= {"MOUNT": f"/gcs/{values['BUCKET']}", "SOURCE": f"gs://{values['BUCKET']}"}

    def quoted(match: re.Match) -> str:
        key, value = match[1], values[match[1]]
        if key == "ARGS":  # Kubernetes takes a list, a shell words
            words = shlex.split(value)
            return json.dumps(words) if file == "jobset.yaml" else shlex.join(words)
        if file.endswith(".sh"):
            return shlex.quote(value)
        plain = value.isdecimal() or value in ("true", "false")
        return value if plain else json.dumps(value)  # JSON's strings are YAML's

    return re.sub(r"\{\{([A-Z_]+)\}\}", quoted, template)


def main() -> int:
    """Runs what the command line says; the exit code of the scheduler's command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("variables", nargs="*", metavar="KEY=VALUE")
    a = parser.parse_intermixed_args()  # --dry_run may stand anywhere
    if wrong := [text for text in a.variables if "=" not in text]:
        parser.error(f"{wrong[0]}: write KEY=VALUE")
    try:
        text = render(a.recipe, dict(v.split("=", 1) for v in a.variables))
    except ValueError as error:
        parser.error(str(error))
    if a.dry_run:
        print(text, end="")
        return 0
    file, command = RECIPES[a.recipe]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_text(text)
        return subprocess.run([*command, str(path)]).returncode


if __name__ == "__main__":
    ending.run(main)
