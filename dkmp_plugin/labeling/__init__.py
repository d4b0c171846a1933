"""Labels from scratch: take a molecule, sample it with OpenMM or GFN2-xTB, label it with GFN2-xTB."""
