"""What belongs to the process: signals, whole files, memory, compiled code. Loads no torch."""
