"""`python -m mlux` is `mlux`."""

from mlux.cli import main

if __name__ == "__main__":
    main()
