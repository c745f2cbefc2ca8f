"""Models that another system trained: their SID tokens, their prompts, and a contract for them."""
