"""What scripts/gpu_smoke.py checks beyond single ops: models, training, simulations.

Every check takes the device and returns a line for the report; on ``cpu`` it compares the CPU with itself,
which shows that the check itself works.
"""
