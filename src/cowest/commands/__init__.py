"""What a person does: one file a command, each with `main(argv) -> int | None`."""
