"""What is plugged into torchmd-net, how torchmd-train is run, and reading the checkpoints that it leaves."""
