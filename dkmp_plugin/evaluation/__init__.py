"""How good is a model: errors, dynamics, pictures, reports."""
