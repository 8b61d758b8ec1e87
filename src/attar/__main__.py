"""``python -m attar``, which is also what torchrun starts."""

from attar.cli import main

if __name__ == "__main__":
    main()
