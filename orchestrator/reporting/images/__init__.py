"""Pictures of single images of the data, with what trainings make of them."""
