#include "report/subjects_page.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/progress.h"
#include "base/text.h"
#include "files/file.h"
#include "report/html.h"
#include "report/subjects_look.h"

/* -------------------------------------------------------------------------------- states */

/* In the order in which a page counts them. A row's class is its state. */
enum { RUNNING, FAILED, DONE, STOPPED, CANCELLED, WAITING, STATES };
static const char *const states[STATES] = {"running", "failed", "done", "stopped", "cancelled", "waiting"};

static int state_of(const struct subject_row *row)
{
    for (int i = 0; i < STATES; i++)
        if (strcmp(row->state, states[i]) == 0)
            return i;
    return WAITING;
}

static void count_states(int64_t counts[STATES], const struct subjects_page *p)
{
    memset(counts, 0, STATES * sizeof *counts);
    for (int64_t i = 0; i < p->count; i++)
        counts[state_of(&p->rows[i])]++;
}

/* -------------------------------------------------------------------------------- pieces */

/* Nothing if it is not known. */
static void put_duration(FILE *out, double seconds, const char *after)
{
    char text[32];
    if (!isfinite(seconds) || seconds < 0)
        return;
    progress_duration(text, seconds);
    fprintf(out, "%s%s", text, after);
}

static void put_time(FILE *out, double when, const char *format)
{
    char text[64];
    time_t seconds = (time_t)when;
    struct tm local;
    if (localtime_r(&seconds, &local) && strftime(text, sizeof text, format, &local) > 0)
        html_text(out, text);
}

/* The name as a link to what its folder has to say, if there is anything. */
static void put_name(FILE *out, const struct subject_row *row)
{
    if (row->link) {
        fputs("<a href=\"", out);
        html_address(out, row->name);
        fprintf(out, "/%s\">", row->link);
    } else {
        fputs("<span>", out);
    }
    html_text(out, row->name);
    fputs(row->link ? "</a>" : "</span>", out);
}

/* -------------------------------------------------------------------------------- head */

static void put_counts(FILE *out, const int64_t counts[STATES])
{
    const char *between = "";
    for (int i = 0; i < STATES; i++)
        if (counts[i] > 0) {
            fprintf(out, "%s%lld %s", between, (long long)counts[i], states[i]);
            between = ", ";
        }
}

static void put_totals(FILE *out, const struct subjects_page *p, const int64_t counts[STATES])
{
    const double day = 20 * 3600; // later than that, an hour does not say enough
    bool whole = counts[RUNNING] + counts[STOPPED] + counts[WAITING] == 0;
    fprintf(out, "<p>%s: ", p->running ? "Under way" : whole ? "Ended" : "Not finished");
    put_counts(out, counts);
    fputs(". ", out);
    put_duration(out, p->seconds, p->running ? " so far" : " in all");
    if (p->running && isfinite(p->left)) {
        fputs(", about ", out);
        put_duration(out, p->left, " left: until ");
        put_time(out, p->written + p->left, p->left < day ? "%H:%M" : "%a %H:%M");
    }
    if (p->ranks > 0)
        fprintf(out, "; %d rank%s in %d group%s", p->ranks, p->ranks == 1 ? "" : "s", p->groups,
                p->groups == 1 ? "" : "s");
    fputs(".</p>\n<p class=\"soft\">", out);
    fputs(p->running ? "As of " : "Written ", out);
    put_time(out, p->written, "%Y-%m-%d %H:%M:%S %Z");
    fputs("<span class=\"late\" id=\"late\" hidden>: no news for <span id=\"minutes\"></span> minutes. Is the queue "
          "still "
          "running?</span></p>\n",
          out);
}

static void put_bar(FILE *out, const struct subjects_page *p, const int64_t counts[STATES])
{
    static const int order[STATES] = {DONE, RUNNING, FAILED, STOPPED, CANCELLED, WAITING};
    int64_t at = 0;
    fprintf(out, "<svg class=\"bar\" viewBox=\"0 0 %lld 1\" preserveAspectRatio=\"none\" aria-hidden=\"true\">",
            (long long)(p->count > 0 ? p->count : 1));
    for (int i = 0; i < STATES; i++) {
        int64_t count = counts[order[i]];
        if (count > 0)
            fprintf(out, "<rect class=\"%s\" x=\"%lld\" width=\"%lld\" height=\"1\"/>", states[order[i]], (long long)at,
                    (long long)count);
        at += count;
    }
    fputs("</svg>\n", out);
}

enum { FEW_FAILURES = 10, FAILURES = 100 };

static void put_failures(FILE *out, const struct subjects_page *p, int64_t failed)
{
    int64_t shown = 0;
    if (failed == 0)
        return;
    fprintf(out, "<details id=\"failures\"%s><summary>%lld failed</summary>\n<ul>\n",
            failed <= FEW_FAILURES ? " open" : "", (long long)failed);
    for (int64_t i = 0; i < p->count && shown < FAILURES; i++) {
        const struct subject_row *row = &p->rows[i];
        if (state_of(row) != FAILED)
            continue;
        fputs("<li>", out);
        put_name(out, row);
        fputs("<span class=\"soft\">", out);
        html_text(out, row->reason ? row->reason : "");
        fputs("</span></li>\n", out);
        shown++;
    }
    if (shown < failed)
        fprintf(out, "<li>%lld more are in the table.</li>\n", (long long)(failed - shown));
    fputs("</ul></details>\n", out);
}

/* For the script; without it, they stay hidden. */
static void put_tools(FILE *out, const struct subjects_page *p, const int64_t counts[STATES])
{
    fprintf(out,
            "<div class=\"tools\" id=\"tools\" hidden><input id=\"find\" type=\"search\" placeholder=\"search\" "
            "aria-label=\"search\" autocomplete=\"off\">"
            "<select id=\"sort\" aria-label=\"sort\"><option value=\"0\">running first</option></select>"
            "<div class=\"tools\" id=\"states\"><button value=\"\">all %lld</button>",
            (long long)p->count);
    for (int i = 0; i < STATES; i++)
        if (counts[i] > 0)
            fprintf(out, "<button value=\"%s\">%s %lld</button>", states[i], states[i], (long long)counts[i]);
    fputs("</div></div>\n", out);
}

/* -------------------------------------------------------------------------------- rows */

static void put_thumbnail(FILE *out, const struct subject_row *row)
{
    if (!row->thumbnail)
        return;
    fputs("<a tabindex=\"-1\" href=\"", out);
    html_address(out, row->name);
    fprintf(out, "/%s\"><img loading=\"lazy\" alt=\"\" src=\"", row->link ? row->link : "thumbnail.jpg");
    html_address(out, row->name);
    fputs("/thumbnail.jpg\"></a>", out);
}

/* What a running subject does, for how long, and where. */
static void put_progress(FILE *out, const struct subject_row *row)
{
    if (row->step > 0 && row->steps > 0)
        fprintf(out, "<progress max=\"%.0f\" value=\"%.0f\"></progress>", row->steps, row->step);
    fputs("<small>", out);
    if (row->phase) {
        html_text(out, row->phase);
        fputs("<br>", out);
    }
    put_duration(out, row->left, row->where ? " left, " : " left");
    html_text(out, row->where ? row->where : "");
    fputs("</small>", out);
}

static void put_gain(FILE *out, const struct subject_row *row)
{
    if (!isfinite(row->first) || !isfinite(row->best) || row->first <= 0)
        return;
    fprintf(out, "%.3g %%<small>%.5f → %.5f</small>", fmax(0, 100 * (1 - row->best / row->first)), row->first,
            row->best);
}

static void put_number(FILE *out, double value)
{
    if (isfinite(value) && value > 0)
        fprintf(out, "%.0f", value);
}

static void put_note(FILE *out, const struct subject_row *row)
{
    const char *note = row->reason ? row->reason : row->ended;
    if (!note)
        return;
    fprintf(out, "<span>%s", row->reason ? "" : "ended by ");
    html_text(out, note);
    fputs("</span>", out);
}

static void put_row(FILE *out, const struct subject_row *row)
{
    const char *state = states[state_of(row)];
    fprintf(out, "<tr class=\"%s\"><td>", state);
    put_thumbnail(out, row);
    fputs("</td><th scope=\"row\">", out);
    put_name(out, row);
    fprintf(out, "</th><td><b>%s</b>", state);
    if (state_of(row) == RUNNING)
        put_progress(out, row);
    fputs("</td><td>", out);
    put_gain(out, row);
    fputs("</td><td>", out);
    put_number(out, row->best_step);
    fprintf(out, "</td><td>%.0f/%.0f</td><td>", row->step, row->steps);
    put_duration(out, row->seconds, "");
    fputs("</td><td>", out);
    put_duration(out, row->turnaround, "");
    fputs("</td><td>", out);
    put_note(out, row);
    fputs("</td></tr>\n", out);
}

/* Which of the table's three parts a row is in. */
enum { FIRST, SECOND, REST, PARTS };

static int part_of(const struct subject_row *row)
{
    int state = state_of(row);
    return state == RUNNING ? FIRST : state == FAILED ? SECOND : REST;
}

static void put_rows(FILE *out, const struct subjects_page *p)
{
    int64_t shown = 0;
    for (int part = 0; part < PARTS; part++)
        for (int64_t i = 0; i < p->count && shown < SUBJECTS_PAGE_ROWS; i++)
            if (part_of(&p->rows[i]) == part) {
                put_row(out, &p->rows[i]);
                shown++;
            }
}

static void put_table(FILE *out, const struct subjects_page *p)
{
    fprintf(
        out,
        "<section>\n<table id=\"subjects\" data-running=\"%s\" data-written=\"%.0f\">\n<thead><tr><td></td>"
        "<th>subject</th><th>state</th><th>gain</th><th>best step</th><th>steps</th><th>time</th><th>turnaround</th>"
        "<th>remarks</th></tr></thead>\n<tbody>\n",
        p->running ? "yes" : "", p->written);
    put_rows(out, p);
    fputs("</tbody>\n</table>\n</section>\n<p class=\"soft\" id=\"none\" hidden>No subject is like that.</p>\n", out);
    if (p->count > SUBJECTS_PAGE_ROWS)
        fprintf(out, "<p>%lld more are in summary.json; <code>zoodip status</code> shows them.</p>\n",
                (long long)(p->count - SUBJECTS_PAGE_ROWS));
}

/* -------------------------------------------------------------------------------- the page */

static void put_page(FILE *out, const struct subjects_page *p)
{
    char policy[200], title[400], refresh[100];
    int64_t counts[STATES];
    count_states(counts, p);
    snprintf(policy, sizeof policy, "img-src 'self'; script-src 'sha256-%s'", subjects_script_hash);
    snprintf(title, sizeof title, "%.*s: %lld of %lld done", text_fitting(p->name, 255), p->name,
             (long long)counts[DONE], (long long)p->count);
    snprintf(refresh, sizeof refresh, "<noscript><meta http-equiv=\"refresh\" content=\"%d\"></noscript>\n",
             SUBJECTS_REFRESH);
    const struct html_kind kind = {.policy = policy, .style = subjects_style, .head = p->running ? refresh : ""};
    html_begin_as(out, title, &kind);
    put_totals(out, p, counts);
    put_bar(out, p, counts);
    put_failures(out, p, counts[FAILED]);
    put_tools(out, p, counts);
    put_table(out, p);
    fprintf(out, "<script>%s</script>\n", subjects_script);
    html_end(out);
}

struct error subjects_page_write(const char *path, const struct subjects_page *page)
{
    struct whole_file file;
    TRY(whole_file_begin(&file, path));
    put_page(file.stream, page);
    return (page->running ? whole_file_end_lightly : whole_file_end)(&file, true);
}
