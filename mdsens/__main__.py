"""`python -m mdsens`: the command, with this Python."""

from .cli import main

if __name__ == "__main__":
    main()
