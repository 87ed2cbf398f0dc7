"""Plan, store and runner: what has to be done, what is done already, and doing the rest."""
