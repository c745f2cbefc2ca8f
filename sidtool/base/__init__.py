"""What all other packages use: errors, records, outputs that appear whole, stored objects, and
checkpoints of others."""
