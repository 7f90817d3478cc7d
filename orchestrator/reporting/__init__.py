"""Showing an answer: terminal, Markdown, LaTeX, one HTML page, tables for other programs. It decides nothing."""
