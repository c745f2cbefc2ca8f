"""What all commands share: printing and progress, options, and files of ids."""
