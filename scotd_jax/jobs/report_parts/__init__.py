"""What the report job gathers: sets and examples, costs, files in the layout of lm-eval."""
