"""``python -m kvstore.cli``: the same as ``kv``."""

from kvstore.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
