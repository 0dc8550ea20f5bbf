"""The command `tumorboard`, one file per subcommand."""
