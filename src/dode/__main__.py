"""`python -m dode`."""

from dode.cli import main

main()
