"""A network as a graph of plain operations, rewritten for inference."""
