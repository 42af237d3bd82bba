"""`python -m segrefine.cli`."""

from segrefine.cli import main

main()
