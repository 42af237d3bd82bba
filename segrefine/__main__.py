"""`python -m segrefine`."""

from segrefine.cli import main

main()
