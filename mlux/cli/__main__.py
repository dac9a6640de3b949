"""`python -m mlux.cli`, where the script `mlux` is not on the path."""

from mlux.cli import main

main()
