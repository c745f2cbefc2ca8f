"""Rewards: one file or function per kind, all of them named in `kinds.REWARDS`."""
