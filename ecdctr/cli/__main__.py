"""python -m ecdctr.cli"""

from ecdctr.cli import main

main()
