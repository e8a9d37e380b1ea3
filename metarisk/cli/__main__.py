"""`python -m metarisk.cli`."""

from metarisk.cli import main

main()
