"""What others' files say: one small function per file format, each yields what was said, row by row."""
