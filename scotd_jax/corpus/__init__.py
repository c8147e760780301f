"""What the student reads: TFRecord framing and index, encoding, loader."""
