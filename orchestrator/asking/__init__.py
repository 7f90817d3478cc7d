"""The whole story of asking a study, for the command and for a program: plan, run, record, answer, export."""
