"""`python -m tierline` is the command line."""

from tierline.cli.main import main

main()
