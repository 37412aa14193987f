"""The command line of a script that measures: its help is the comment that the script begins with."""
from argparse import ArgumentParser, RawDescriptionHelpFormatter


def arguments(what, comment):
    """A parser that says what the script does, and after the options all of its comment but the first paragraph."""
    return ArgumentParser(description=what, epilog=comment.split("\n\n", 1)[1], formatter_class=RawDescriptionHelpFormatter)
