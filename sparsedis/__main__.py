"""The command ``sparsedis``, also as ``python -m sparsedis``: the command line, or one line on the extra it needs."""

import sys


def main() -> int:
    """Run the command line; returns the exit code, 2 where the extra [train] is not installed."""
    try:
        from sparsedis.cli import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("sparsedis", "torch", "numpy"):
            raise
        print(f"sparsedis: the command line needs {error.name}: pip install 'sparsedis[train]'", file=sys.stderr)
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
