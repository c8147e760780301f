"""Models and data sets on the Hugging Face Hub."""
