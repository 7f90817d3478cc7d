"""What a command says: text on a console, or one JSON document for programs."""
