"""T5 and OPT behind one functional seam, and their Hugging Face directories."""
