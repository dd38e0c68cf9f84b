"""`python -m sdtt`, so that `accelerate launch -m sdtt ...` works."""

from sdtt.cli import main

if __name__ == "__main__":
    main()
