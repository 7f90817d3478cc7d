"""From records to an answer: pairing, metrics, looks, words, numbers and notes."""
