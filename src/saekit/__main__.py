"""`python -m saekit`: the command line, as torchrun starts it."""

from saekit.cli.main import main

if __name__ == "__main__":
    main()
