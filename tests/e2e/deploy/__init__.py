"""What is shipped beside the package: the image, the manifests, the Makefile's own set-up."""
