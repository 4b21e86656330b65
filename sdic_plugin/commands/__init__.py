"""The `sdic` command: one file per subcommand, options and printing only."""
