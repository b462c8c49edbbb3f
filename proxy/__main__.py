"""`python -m proxy` is `ims-proxy`."""

from proxy.cli import main

main()
