"""Human preferences between two arms: pages for annotators, and the results of their choices."""
