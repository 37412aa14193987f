"""What inspect shows of a jobs file: each job's number, by which an array's task learns it, and what is wrong with it."""
import json

import pytest

from conftest import ROOT, TOYBOX, nested, program, recipe, refused, run

QUICK = True

JOBS = {
    "mug": dict(optim__steps=2000, data__images="photos/my mug"),
    "7": dict(data__images=["photos/a.png", "photos/b.png", "photos/c.png"]),
    "mistyped": dict(optim__stpes=3),
    "mug 2": dict(token__vectors=0),
    "été": dict(data__images="photos/\x1b[31mred"),
}
ROWS = [("1", "2000", "mug", "photos/my mug"), ("2", "5", "7", "photos/a.png and 2 more"),
        ("3", "wrong", "mistyped", "optim.stpes: unknown key; did you mean optim.steps?"), ("4", "wrong", "mug 2", "token.vectors: is 0")]


@pytest.fixture(autouse=True)
def photos(tmp_path):
    """What JOBS names, in the folder that inspect runs in."""
    for path in ("photos/my mug/1.png", "photos/\x1b[31mred/1.png", "photos/a.png", "photos/b.png", "photos/c.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()


def write_jobs(folder, jobs, **defaults):
    path = folder / "jobs.json"
    jobs = [{"name": name, **nested(own)} for name, own in jobs.items()] if isinstance(jobs, dict) else jobs
    path.write_text(json.dumps(dict(defaults=recipe(folder / "out", **{"optim__steps": 5, "data__images": "photos/a.png", **defaults}), jobs=jobs)))
    return path


def inspect(path, *options, **more):
    return run(program("zoodip"), "inspect", path, *options, cwd=path.parent, **more)


def rows(text):
    """The table's lines, cut where its head says."""
    head, *lines = text.split("\n\n")[1].splitlines()
    at = [head.index(title) for title in ("steps", "name", "pictures")]
    return [tuple(part.strip() for part in (line[:at[0]], line[at[0]:at[1]], line[at[1]:at[2]], line[at[2]:])) for line in lines]


def test_each_job_has_its_number_and_what_it_learns_or_why_it_cannot(tmp_path):
    path = write_jobs(tmp_path, {name: own for name, own in JOBS.items() if name.isascii()})
    said = inspect(path).stdout
    assert said.splitlines()[:4] == [f"{path}: a jobs file", "  jobs        4", "  model       dataset/toybox/model",
                                     f"  output.dir  {tmp_path / 'out'}"]
    for row, (*first, rest) in zip(rows(said), ROWS, strict=True):
        assert list(row[:3]) == first and (rest in row[3] if first[1] == "wrong" else rest == row[3]), row
    assert said.splitlines()[-2:] == ["", "2 of 4 jobs are wrong"]


def test_a_job_without_its_first_word_is_wrong(tmp_path):
    said = inspect(write_jobs(tmp_path, {"a": {}, "b": dict(token__initializer="words/mug.safetensors")})).stdout
    assert [row[1] for row in rows(said)] == ["5", "wrong"] and 'token.initializer: "words/mug.safetensors": no such file' in said


def test_jobs_without_their_photos_are_wrong(tmp_path):
    path = write_jobs(tmp_path, {"there": {}, "no folder": dict(data__images="nowhere"), "no photo": dict(data__images=["photos/a.png", "b.png"]),
                                 "none inside": dict(data__images="photos/empty")})
    (tmp_path / "photos" / "empty").mkdir()
    said = inspect(path).stdout
    assert [(row[1], message in row[3]) for row, message in zip(rows(said), ("", '"nowhere": no such', '"b.png": no such', "no pictures here"), strict=True)] == [
        ("5", True), ("wrong", True), ("wrong", True), ("wrong", True)]
    assert said.endswith("\n3 of 4 jobs are wrong\n") and inspect(path, "--job", "1").stdout.endswith("\n0 of 1 jobs are wrong\n")
    (tmp_path / "photos" / "a.png").unlink()
    assert inspect(path).stdout.endswith("\n4 of 4 jobs are wrong\n")


def test_of_very_many_jobs_the_photos_of_the_first_are_looked_for(tmp_path):
    path = write_jobs(tmp_path, {str(i): dict(data__images="nowhere") if i >= 9999 else {} for i in range(10001)})
    said = inspect(path).stdout
    assert [row[1] for row in rows(said)[9998:]] == ["5", "wrong", "5"]
    assert said.endswith("\n1 of 10001 jobs are wrong; photos were looked for of the first 10000 only\n")


def test_texts_of_a_file_do_not_reach_the_terminal_as_they_are(tmp_path):
    said = inspect(write_jobs(tmp_path, JOBS)).stdout
    assert "\x1b" not in said and "photos/?[31mred" in said and "été" in said


def test_jobs_by_name_or_number(tmp_path):
    path = write_jobs(tmp_path, JOBS)
    for which, numbers in ((["mug 2"], "4"), (["5", "mug"], "51"), (["7"], None), (["mug3"], None)):
        done = inspect(path, *[o for each in which for o in ("--job", each)], check=False)
        if numbers:
            assert [line.split()[0] for line in done.stdout.split("\n\n")[1].splitlines()[1:]] == list(numbers)
        else:
            assert not done.stdout
            refused(done, f"--job: {which[0]}", "jobs.json has")
    assert "did you mean mug?" in done.stderr


def test_settings_hold_for_all_jobs(tmp_path):
    said = inspect(write_jobs(tmp_path, {"a": {}, "b": dict(optim__steps=7)}), "--set", "optim.steps=3", "--set", "output.dir=elsewhere").stdout
    assert [row[1] for row in rows(said)] == ["3", "3"] and "output.dir  elsewhere\n" in said


@pytest.mark.parametrize("jobs, words", [
    ([{"name": "a"}, {"name": "a"}], ["jobs[1]: name: \"a\" is given twice"]), ([], ["expected a list of jobs"]),
    ([{"name": "a"}, {"name": "b", "output": {"dir": "x"}}], ["output.dir"]), ([{"name": "a", "stpes": 1}], ["a: stpes: unknown key"])])
def test_a_file_that_run_refuses_is_refused(tmp_path, jobs, words):
    refused(inspect(write_jobs(tmp_path, jobs), check=False), *words)


def test_other_files_stay_what_they_are(tmp_path):
    config = ROOT / "configs" / "toybox.json"
    assert "memory_plan" in json.loads(run(program("zoodip"), "inspect", config).stdout)
    refused(inspect(config, "--job", "1", check=False), "is no jobs file")
    refused(inspect(TOYBOX / "model", "--job", "1", check=False), "is no jobs file")
    broken = tmp_path / "jobs.json"
    broken.write_text('{"jobs": [}')
    refused(inspect(broken, check=False), "jobs.json: line 1, column 11: is not valid JSON")
    broken.write_text('{"defaults": {}}')
    refused(inspect(broken, check=False), "jobs: expected a list of jobs")


def test_many_jobs_line_up(tmp_path):
    said = rows(inspect(write_jobs(tmp_path, {f"subject {i}": dict(seed=i) for i in range(1200)})).stdout)
    assert [row[::2][:2] for row in said] == [(str(i + 1), f"subject {i}") for i in range(1200)]
