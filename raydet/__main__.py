"""`python -m raydet`: the command line from a bare checkout or inside a Ray job."""

from raydet.cli.main import main

main()
