"""What is trained, as frozen pydantic models: networks, schedules, metrics. Loads no torch."""
