"""From recorded runs to statistics, plots and reports. Needs no torch."""
