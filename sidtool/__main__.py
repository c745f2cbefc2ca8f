"""`python -m sidtool`: the same as the console script."""

from sidtool.cli.main import main

main()
