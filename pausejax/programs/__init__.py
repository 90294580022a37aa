"""The programs, one file a verb, each with `main(argv) -> exit code`."""
