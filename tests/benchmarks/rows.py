"""What the scripts that write rows about finished runs have in common."""

import json

from ssl_gan_jax.commands import arguments, sweep


def append(path, row, command):
    """Appends `row`, with its command, commit and machine, to a .jsonl file, and prints it."""
    line = json.dumps({**row, "command": command, **sweep.provenance()})
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    print(line)


def run(main, name, doc, metavar="RUN"):
    """Runs `main` with the runs, --data_dir and --out of the command line; ends the process."""
    parser = arguments.Parser(name, doc, workdir=False)
    parser.add_argument("runs", nargs="+", metavar=metavar)
    parser.add_argument("--data_dir", metavar="DIR", required=True)
    parser.add_argument("--out", metavar="JSONL", required=True)
    arguments.run(main, parser)
