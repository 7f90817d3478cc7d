"""Ray itself: its start and end, its nodes, what must hold before it starts."""
