"""Images on disk become splits of uint8 arrays with a digest of their content. Loads no torch."""
