"""What is plugged into torchmd-net: registration, dataset glue, output heads."""
