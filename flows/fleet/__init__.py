"""Training on many machines: a category is the unit of distribution, a stage the unit of retry; see docs/fleet.md."""
