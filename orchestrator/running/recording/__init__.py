"""What is heard of trials becomes records, counts, the screen and metrics; the driver alone writes."""
