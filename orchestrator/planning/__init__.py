"""From a request and a study to a plan, and its file."""
