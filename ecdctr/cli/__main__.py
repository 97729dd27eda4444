"""Run `python -m ecdctr.cli`."""

from ecdctr.cli import main

if __name__ == "__main__":
    main()
