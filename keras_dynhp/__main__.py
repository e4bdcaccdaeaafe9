"""`python -m keras_dynhp`."""

from keras_dynhp.cli import run

if __name__ == "__main__":
    run()
