"""Generation of answers: jobs, engines (local or an endpoint), interventions and controls, and the ledger."""
