"""Running plans on Ray: slots, their watch, the recorder, steering and budgets."""
