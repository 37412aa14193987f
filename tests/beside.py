"""Tests that mostly wait, for clocks and for other programs, run beside one another instead of one after the other.

Such a test has @beside_the_others below its other marks. Its body, the case, begins in a thread when the first of its file is
reached, and the test waits for its end. The file's fixture `begun` says how many are under way at a time, and what they may ask
for besides `tmp_path` and what they are parametrized by: names, each with a function that makes it in a context of its own.

    @pytest.fixture(scope="module")
    def begun(request, quiet):
        yield from begin(request, 3, quiet=lambda folder: nullcontext(quiet))
"""
import inspect
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext


def beside_the_others(*offered):
    """A test of a case that asks for these of what its file offers."""
    def mark(case):
        def test(begun, request, **_):
            begun[request.node.name].result()

        own = [name for name in inspect.signature(case).parameters if name not in ("tmp_path", *offered)]
        test.__signature__ = inspect.Signature([inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in ("begun", "request", *own)])
        test.__name__, test.__doc__, test.case = case.__name__, case.__doc__, case
        return test
    return mark


def begin(request, at_once, **offered):
    """Yields {test: future of its case} for the cases of this file that were asked for and are not skipped."""
    folders = request.getfixturevalue("tmp_path_factory")
    offered["tmp_path"] = nullcontext

    def run(test, folder):
        given = test.callspec.params if hasattr(test, "callspec") else {}
        with ExitStack() as stack:
            asked = {name: stack.enter_context(offered[name](folder)) for name in inspect.signature(test.obj.case).parameters if name in offered}
            test.obj.case(**asked, **given)

    tests = [test for test in request.session.items if test.module is request.module and hasattr(test.obj, "case")
             and not any(mark.args[0] for mark in test.iter_markers("skipif"))]
    pool = ThreadPoolExecutor(at_once)
    try:
        yield {test.name: pool.submit(run, test, folders.mktemp("case")) for test in tests}
    finally:
        pool.shutdown(cancel_futures=True)
