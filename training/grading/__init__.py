"""Grading of answers: parsers, the rule, the judge.  Curation, RL and evaluation share this one grader."""
