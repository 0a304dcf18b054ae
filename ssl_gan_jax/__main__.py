"""Lists the commands.

    python -m ssl_gan_jax

Exit codes: 0 done.
"""

import ast
from pathlib import Path


def commands() -> dict[str, str]:
    """The first line of each command's docstring, by the command's name."""
    package = Path(__file__).parent
    files = {path.stem: path for path in sorted((package / "commands").glob("*.py"))}
    files["report"] = package / "report" / "__main__.py"
    found = {}
    for name, path in sorted(files.items()):
        source = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__"' in source:
            found[name] = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
    return found


def main() -> None:
    """Prints a line for each command."""
    print("python -m ssl_gan_jax.COMMAND --help describes a command:\n")
    for name, sentence in commands().items():
        print(f"  {name:<12} {sentence}")


if __name__ == "__main__":
    main()
