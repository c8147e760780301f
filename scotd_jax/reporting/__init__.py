"""What was found: tables, plots, HTML, cards."""
