"""One potential for one molecule: ``dkmp bespoke`` samples, labels, trains, validates and exports it."""
