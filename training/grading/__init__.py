"""How an answer is graded: parsers, the rule, the judge.  Curation, RL and evaluation share this one grader."""
