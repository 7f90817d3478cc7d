"""What Optuna searches, what is known of it, and which points are confirmed."""
