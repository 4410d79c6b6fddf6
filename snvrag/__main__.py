"""``python -m snvrag``: what torchrun starts."""

from snvrag.cli.app import main

if __name__ == "__main__":
    main()
