"""Making a prepared folder of images, in constant memory, part after part, resumed after a kill. Loads no torch."""
