"""What scripts/reproduce_s2ef.py is made of: protocol, structures, models, training, measurement, tables."""
