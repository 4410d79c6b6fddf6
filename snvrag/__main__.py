"""``python -m snvrag``: what torchrun starts."""

from snvrag.cli.entry import main

if __name__ == "__main__":
    main()
