"""Published figures checked against derived ones: what holds, what mixes units, what is wrong and why."""
