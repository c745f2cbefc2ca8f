"""What every house stands on: errors, records, outputs that appear whole, stored objects, and
checkpoints of others."""
