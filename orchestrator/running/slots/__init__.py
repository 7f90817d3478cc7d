"""Warm worker groups that take trial after trial from a broker."""
