"""`python -m mdsens` is the command `mdsens`."""

from .cli import main

main()
