"""`python -m npgpt` is the `npgpt` command."""

from npgpt.cli import main

if __name__ == "__main__":
    main(prog_name="npgpt")
