"""From a trained checkpoint to a running simulation: export, OpenMM, ASE."""
