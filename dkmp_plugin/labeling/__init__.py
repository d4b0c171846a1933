"""Labels from scratch: cut a molecule out of a complex, sample it with OpenMM, label it with GFN2-xTB."""
