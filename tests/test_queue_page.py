"""A queue's page: what it says and shows, for a handful of subjects and for thousands; that whatever users name their subjects, it runs
nothing but its own script and asks nobody for anything; and the small pictures in its rows."""
import base64
import hashlib
import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from conftest import TOYBOX, program, run, write_recipe

QUICK = True
HOSTILE = ["<script>alert(1)<!--", "\"quoted\" 'name' & more", "100% # of?ä=漢字", "javascript:alert(1)", "x" * 200]
COLUMNS = ["", "subject", "state", "gain", "best step", "steps", "time", "turnaround", "remarks"]


class Page(HTMLParser):
    """Its tags; the table's rows as (class, texts of the cells); the lists of links and of all other texts."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text()
        self.tags, self.rows, self.links, self.texts, self.failures, self.inside = [], [], [], [], [], []
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.inside += [tag] if tag not in ("meta", "img", "input", "br") else []
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]
        if tag == "tr":
            self.rows.append((attributes.get("class"), []))
        elif tag in ("td", "th"):
            self.rows[-1][1].append("")
        elif tag == "li":
            self.failures.append("")

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag, "every element ends in the one in which it began"

    def handle_data(self, data):
        if "script" in self.inside or "style" in self.inside:
            return
        if "li" in self.inside:
            self.failures[-1] += data
        if "td" in self.inside or "th" in self.inside:
            self.rows[-1][1][-1] += data
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def names(self):
        return [cells[1] for _, cells in self.rows[1:]]


def subject(name, state="waiting", step=0, **more):
    return dict(name=name, state=state, step=step, steps=200, **more)


def done(name, **more):
    return subject(name, "done", **{**dict(step=200, first=0.05, best=0.04, best_step=150, seconds=75.4, turnaround=3700.2, link="report.html"), **more})


def write_unread(folder, rows, name="night", **page):
    """Returns the page's path, and the milliseconds that it took."""
    path = folder / "index.html"
    text = json.dumps({**dict(name=name, written=time.time(), seconds=100, rows=rows), **page})
    return path, float(run(program("tests/subjects"), path, stdin=text).stdout)


def write(folder, rows, **page):
    return Page(write_unread(folder, rows, **page)[0])


def policy_of(page):
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    return dict(part.strip().split(" ", 1) for part in policy.split(";"))


def test_a_row_says_what_became_of_a_subject(tmp_path):
    page = write(tmp_path, [
        done("dog"), done("cat", ended="optim.patience 3", step=120, best=0.06, best_step=0),
        subject("bear", "failed", step=7, reason="photos: no such folder"), subject("bird"),
        subject("duck", "running", step=50, phase="encoding pictures 3/8", left=72, where="group 1", first=0.04, best=0.03, best_step=40, seconds=9)])
    assert page.rows[0][1] == COLUMNS and all(len(cells) == len(COLUMNS) for _, cells in page.rows)
    assert [(kind, cells[1:]) for kind, cells in page.rows[1:]] == [
        ("running", ["duck", "runningencoding pictures 3/81:12 left, group 1", "25 %0.04000 → 0.03000", "40", "50/200", "0:09", "", ""]),
        ("failed", ["bear", "failed", "", "", "7/200", "", "", "photos: no such folder"]),
        ("done", ["dog", "done", "20 %0.05000 → 0.04000", "150", "200/200", "1:15", "1:01:40", ""]),
        ("done", ["cat", "done", "0 %0.05000 → 0.06000", "", "120/200", "1:15", "1:01:40", "ended by optim.patience 3"]),
        ("waiting", ["bird", "waiting", "", "", "0/200", "", "", ""])]
    assert page.all("progress") == [{"max": "200", "value": "50"}]
    assert page.failures == ["bearphotos: no such folder"]


def test_the_head_counts_and_says_when_it_ends(tmp_path):
    rows = [done("a"), done("b"), subject("c", "running"), subject("d", "failed", reason="r"), subject("e"), subject("f")]
    page = write(tmp_path, rows, running=True, left=3600, ranks=8, groups=4, written=1.8e9)
    text = "".join(page.texts)
    assert page.texts.count("night: 2 of 6 done") == 2, "title and heading"
    until = time.strftime("%H:%M", time.localtime(1.8e9 + 3600))
    assert f"Under way: 1 running, 1 failed, 2 done, 2 waiting. 1:40 so far, about 1:00:00 left: until {until}; 8 ranks in 4 groups." in text
    assert time.strftime("As of %Y-%m-%d %H:%M:%S", time.localtime(1.8e9)) in text
    later = write(tmp_path, rows, running=True, left=80000, written=1.8e9)
    assert time.strftime("until %a %H:%M.", time.localtime(1.8e9 + 80000)) in "".join(later.texts)
    assert [button["value"] for button in page.all("button")] == ["", "running", "failed", "done", "waiting"]
    assert re.findall(r"all 6|running 1|failed 1|done 2|waiting 2", text) == ["all 6", "running 1", "failed 1", "done 2", "waiting 2"]
    assert [bar["width"] for bar in page.all("rect")] == ["2", "1", "1", "2"] and page.all("svg")[0]["viewbox"] == "0 0 6 1"
    for rows, state in ([done("a")], "Ended: 1 done. 1:40 in all."), ([done("a"), subject("b")], "Not finished: 1 done, 1 waiting. 1:40 in all."):
        assert state in "".join(write(tmp_path, rows, left=3600).texts)


def test_many_failures_are_folded(tmp_path):
    for count, shown, opened in (10, 10, True), (11, 11, False), (150, 101, False):
        page = write(tmp_path, [subject(f"s{i}", "failed", reason="r") for i in range(count)])
        (details,) = page.all("details")
        assert ("open" in details) == opened and len(page.failures) == shown and f"{count} failed" in page.texts
    assert page.failures[-1] == "50 more are in the table." and len(page.rows) == 151
    assert not write(tmp_path, [done("a")]).all("details")


def test_running_and_failed_subjects_go_first_and_none_beyond_the_limit(tmp_path):
    rows = [subject("failed", "failed", reason="r") if i == 11000 else subject("running", "running") if i == 11500 else subject(f"s{i}") for i in range(12000)]
    text = write_unread(tmp_path, rows)[0].read_text()
    assert re.findall(r'<th scope="row"><span>(\w+)<', text) == ["running", "failed", *(f"s{i}" for i in range(9998))]
    assert "<p>2000 more are in summary.json; <code>zoodip status</code> shows them.</p>" in text
    assert "more are in" not in write_unread(tmp_path, rows[:10000])[0].read_text()


def test_a_thousand_rows_are_small_and_quick(tmp_path):
    rows = [done(f"subject-{i:04}", thumbnail=True) if i % 20 else subject(f"subject-{i:04}", "failed", reason="a reason " * 20) for i in range(1000)]
    path, took = write_unread(tmp_path, rows)
    assert path.read_text().count("<tr ") == 1000 and path.stat().st_size < 450_000
    assert min(took, *(write_unread(tmp_path, rows)[1] for _ in range(4))) < 50, "milliseconds"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_and_reasons_are_text_and_links_lead_into_the_folder(tmp_path, hostile):
    page = write(tmp_path, [done(hostile, thumbnail=True), subject("b", "failed", reason=hostile), subject("c", "running", where=hostile, phase=hostile),
                               done("d", ended=hostile)], name=hostile)
    assert page.names == ["c", "b", hostile, "d"] and page.failures == ["b" + hostile]
    assert [cells[8] for _, cells in page.rows[1:]] == ["", hostile, "", "ended by " + hostile] and page.rows[1][1][2] == "running" + 2 * hostile
    assert f"{hostile}: 2 of 4 done" in page.texts
    assert [unquote(link) for link in page.links] == [hostile + "/report.html", hostile + "/thumbnail.jpg", hostile + "/report.html", "d/report.html"]
    assert all(re.fullmatch(r"[\w./-]*(%[0-9A-F]{2}[\w./-]*)*", link, re.ASCII) for link in page.links)
    assert len(page.all("script")) == 1 and not any(key.startswith("on") for _, attributes in page.tags for key in attributes)


def test_control_characters_do_not_reach_the_page(tmp_path):
    page = write(tmp_path, [subject("b", "failed", reason="one\x1b[2Jtwo\x7f")])
    assert page.failures == ["bone\ufffd[2Jtwo\ufffd"] and not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", page.source)


def test_the_page_runs_its_script_alone_and_asks_nobody(tmp_path):
    page = write(tmp_path, [done("a", thumbnail=True)], running=True)
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    wanted = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy_of(page) == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", "style-src": "'unsafe-inline'",
                               "img-src": "'self'", "script-src": f"'sha256-{wanted}'"}, f"subjects_script_hash (src/report/subjects_look.c) should be {wanted}"
    assert not re.search(r"https?:|url\(|@import|src=\"/|fetch|eval|innerHTML", page.source)
    assert page.links == ["a/report.html", "a/thumbnail.jpg", "a/report.html"]


def test_the_page_is_loaded_anew_only_while_the_queue_runs(tmp_path):
    for running in True, False:
        page = write(tmp_path, [done("a")], running=running)
        assert page.all("noscript") == [{}] * running
        assert [meta.get("content") for meta in page.all("meta") if meta.get("http-equiv") == "refresh"] == ["30"] * running
        (table,) = page.all("table")
        assert table["data-running"] == ("yes" if running else "") and abs(float(table["data-written"]) - time.time()) < 60
        assert "now - begun > 30000" in page.source


def test_without_a_script_the_table_is_there_and_its_tools_are_not(tmp_path):
    page = write(tmp_path, [done("a"), subject("b")])
    assert "hidden" in [a for a in page.all("div") if a.get("id") == "tools"][0] and not any("hidden" in row for row in page.all("tr"))
    assert not any(button for button in re.findall(r"<th[^>]*><button", page.source))


def browser():
    return next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


def opened(folder, address):
    """The page as a browser that opens it from the disk makes it."""
    shown = subprocess.run([browser(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", "--virtual-time-budget=300",
                            "--dump-dom", f"file://{folder}/index.html{address}"], capture_output=True, text=True, timeout=60).stdout
    (folder / "shown.html").write_text(shown)
    page = Page(folder / "shown.html")
    return [cells[1] for (_, cells), row in zip(page.rows[1:], page.all("tr")[1:]) if "hidden" not in row]


@pytest.mark.skipif(not browser(), reason="no browser")
@pytest.mark.parametrize("view, names", [
    ("", ["run", "bad", "s10", "s9", "wait"]), ("by=1", ["bad", "run", "s9", "s10", "wait"]), ("by=-3", ["s9", "run", "s10", "bad", "wait"]),
    ("by=6&state=done", ["s9", "s10"]), ("by=99&find=NO+SUCH", ["bad"])])
def test_a_browser_sorts_and_searches(tmp_path, view, names):
    """What is in the address is how the page was last looked at."""
    write(tmp_path, [done("s10", best=0.045, turnaround=59, seconds=3601), done("s9", turnaround=60, seconds=100), subject("bad", "failed", reason="no such folder"),
                     subject("wait"), subject("run", "running", step=3, first=0.04, best=0.035, seconds=2)], running=True)
    assert opened(tmp_path, "#" + view) == names


def strip(path):
    """The pictures of a thumbnail, and between them the gaps."""
    picture = Image.open(path)
    assert picture.format == "JPEG" and picture.mode == "RGB" and picture.height == 96 and (picture.width + 4) % 100 == 0
    pixels = np.asarray(picture).astype(int)
    return [pixels[:, x:x + 96] for x in range(0, picture.width, 100)]


@pytest.mark.parametrize("photos, prompts, shades", [(3, 2, [None, 160, 161]), (2, 7, [None, 160, 161, 162]), (1, 0, [None]), (9, 0, [None] * 4)])
def test_a_thumbnail_shows_a_photo_and_the_learned_word(tmp_path, photos, prompts, shades):
    run(program("tests/report"), "write", tmp_path, 0, 1)
    run(program("tests/report"), "page", tmp_path, "t", photos, prompts)
    shown = strip(tmp_path / "thumbnail.jpg")
    assert len(shown) == len(shades)
    for picture, shade in zip(shown, shades):
        if shade:  # of one colour
            assert abs(picture[4:-4, 4:-4] - shade).max() < 4
        else:
            assert picture.std() > 20


def test_a_run_leaves_a_thumbnail_of_its_photo(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=1, output__prompts=["a {}"], output__sample_steps=2)
    run(program("zoodip"), "train", config)
    photo, learned = strip(output / "thumbnail.jpg")
    whole = Image.open(sorted((TOYBOX / "subjects" / "bear5").glob("*.png"))[0]).convert("RGB").resize((64, 64), Image.BICUBIC).resize((96, 96), Image.BICUBIC)
    assert abs(photo - np.asarray(whole)).mean() < 6 < abs(learned - np.asarray(whole)).mean()
    assert (output / "thumbnail.jpg").stat().st_size < 20_000, "200 subjects and their page are less than 5 MB"
