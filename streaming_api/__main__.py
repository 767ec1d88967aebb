"""``python -m streaming_api``: the same as the console script."""

from streaming_api.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
