"""What `status` says: facts out of the files of a results folder, and their views."""
