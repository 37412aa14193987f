#include "queue/overview_table.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/text.h"
#include "files/file.h"
#include "queue/overview_lines.h"
#include "queue/results.h"

enum { LEAST_NAME = 8, MOST_NAME = 24, CELL = 64, PIPE_COLUMNS = 120 };

static const double fresh = 15; /* seconds after which what is said of a job that runs is shown to be old */

/* -------------------------------------------------------------------------------- columns */

enum column { JOB, STATE, STEP, LOSS, BEST, RATE, LEFT, SINCE, COLUMNS };

static const struct {
    const char *title;
    int width; /* negative: from the left */
} columns[COLUMNS] = {
    [JOB] = {"job", -MOST_NAME},       [STATE] = {"state", -9}, [STEP] = {"step", 13},     [LOSS] = {"loss", 9},
    [BEST] = {"best validation", -17}, [RATE] = {"rate", 8},    [LEFT] = {"left/took", 9}, [SINCE] = {"since", 11},
};

struct layout {
    int name;         /* columns of the job's name */
    bool in[COLUMNS]; /* is it shown? */
    int limit;        /* of a row, in columns */
};

static int width_of(const struct layout *l, int column)
{
    return column == JOB ? l->name : columns[column].width < 0 ? -columns[column].width : columns[column].width;
}

static int width_of_all(const struct layout *l)
{
    int width = -2;
    for (int i = 0; i < COLUMNS; i++)
        width += l->in[i] ? 2 + width_of(l, i) : 0;
    return width;
}

/* Names take as many columns as the longest needs, up to a limit. */
static int name_columns(const struct overview *o)
{
    int most = (int)strlen(columns[JOB].title);
    for (int64_t i = 0; i < o->count && most < MOST_NAME; i++)
        if (o->jobs[i].name && line_columns(o->jobs[i].name) > most)
            most = line_columns(o->jobs[i].name);
    return most < MOST_NAME ? most : MOST_NAME;
}

static struct layout make_layout(const struct overview *o, const struct overview_view *v)
{
    static const enum column dear[] = {RATE, LOSS, BEST, SINCE}, dearest[] = {LEFT, STEP};
    struct layout l = {.name = name_columns(o), .limit = v->columns > 0 ? v->columns - 1 : PIPE_COLUMNS};
    for (int i = 0; i < COLUMNS; i++)
        l.in[i] = true;
    for (size_t i = 0; i < sizeof dear / sizeof *dear && width_of_all(&l) > l.limit; i++)
        l.in[dear[i]] = false;
    const int name = l.name; // shorter where that saves one of the last columns
    l.name = name < LEAST_NAME ? name : LEAST_NAME;
    for (size_t i = 0; i < sizeof dearest / sizeof *dearest && width_of_all(&l) > l.limit; i++)
        l.in[dearest[i]] = false;
    while (l.name < name && width_of_all(&l) < l.limit)
        l.name++;
    return l;
}

static void append_cell(char line[LINE_SIZE], const struct layout *l, enum column column, const char *text)
{
    char name[TEXT_COLUMN_SIZE];
    if (!l->in[column])
        return;
    text_column(name, text, l->name);
    line_append(line, "%s%*s", line[0] ? "  " : "", column == JOB ? 0 : columns[column].width,
                column == JOB ? name : text);
}

/* -------------------------------------------------------------------------------- cells */

static const char *show_count(char out[24], int64_t count)
{
    strcpy(out, "-");
    if (count >= 0)
        snprintf(out, 24, "%lld", (long long)count);
    return out;
}

/* "352/1000" */
static const char *show_step(char out[CELL], const struct seen_job *job)
{
    char step[24], steps[24];
    snprintf(out, CELL, "%s/%s", show_count(step, job->step), show_count(steps, job->steps));
    return out;
}

/* "0.01772 -17.0 %": the best validation loss, and what that is against the first. */
static const char *show_best(char out[CELL], const struct seen_job *job)
{
    char best[32];
    double gain = 100 * (job->validation_best / job->validation_first - 1);
    result_number(best, 5, job->validation_best);
    if (isfinite(gain))
        snprintf(out, CELL, "%.20s %+.1f %%", best, gain);
    else
        snprintf(out, CELL, "%.20s", best);
    return out;
}

static const char *show_rate(char out[CELL], const struct seen_job *job)
{
    strcpy(out, "-");
    if (job->state == SEEN_RUNNING && job->evaluations_per_second > 0)
        snprintf(out, CELL, "%.3g/s", job->evaluations_per_second);
    return out;
}

/* What is left of one that runs, and what one that has ended took. */
static double time_of(const struct seen_job *job)
{
    return job->state == SEEN_RUNNING ? job->seconds_left : job->state == SEEN_WAITING ? NAN : job->seconds;
}

/* "group 2, 4 ranks, node7" */
static const char *show_place(char out[128], const struct seen_job *job)
{
    char group[32] = "";
    if (job->group >= 0)
        snprintf(group, sizeof group, "group %lld", (long long)job->group);
    if (job->ranks > 0)
        snprintf(out, 128, "%s%s%lld rank%s%s%.60s", group, group[0] ? ", " : "", (long long)job->ranks,
                 job->ranks == 1 ? "" : "s", job->host ? ", " : "", job->host ? job->host : "");
    else
        snprintf(out, 128, "%s%s%.60s", group, group[0] && job->host ? ", " : "", job->host ? job->host : "");
    return out;
}

/* -------------------------------------------------------------------------------- a job */

/* A row, and what follows below; "": nothing. */
struct block {
    char row[LINE_SIZE], note[LINE_SIZE], log[PATH_SIZE + 8];
};

/* What is to be said of a job besides: why it failed, what it does besides steps, how old all this is. */
static void make_note(char note[LINE_SIZE], const struct overview *o, const struct seen_job *job, double now)
{
    char trouble[TROUBLE_SIZE], age[DURATION_SIZE];
    bool runs = job->state == SEEN_RUNNING, over = !runs && job->state != SEEN_DONE && job->state != SEEN_WAITING;
    note[0] = 0;
    if (line_trouble(trouble, job, now)[0])
        line_append(note, "%s", trouble);
    else if (runs && job->phase)
        line_append(note, "%s", job->phase);
    else if (over && job->reason)
        line_append(note, "%s", job->reason);
    if (runs && !job->gone && !job->silent && now - job->written > fresh)
        line_append(note, "%s%s ago", note[0] ? ", " : "", line_duration(age, now - job->written));
    if (job->state == SEEN_CANCELLED && o->kind == OVERVIEW_SPOOL)
        line_append(note, "%sput its file into the spool again to go on", note[0] ? "; " : "");
}

/* "log: FOLDER/NAME/log.txt" of a job that failed, if there is one. */
static void make_log(char out[PATH_SIZE + 8], const struct overview *o, const struct seen_job *job)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    out[0] = 0;
    if (job->state != SEEN_FAILED || !o->results || !job->name)
        return;
    snprintf(folder, sizeof folder, "%s", o->results);
    if (o->kind != OVERVIEW_RUN &&
        (job_name_check(job->name).code != ERROR_NONE || path_join(folder, o->results, job->name).code != ERROR_NONE))
        return;
    if (path_join(path, folder, "log.txt").code != ERROR_NONE || !file_exists(path))
        return;
    text_show_safely(path);
    snprintf(out, PATH_SIZE + 8, "log: %s", path);
}

static void make_row(char row[LINE_SIZE], const struct layout *l, const struct seen_job *job, double now)
{
    char text[CELL], when[WHEN_SIZE];
    row[0] = 0;
    append_cell(row, l, JOB, job->name ? job->name : "-");
    append_cell(row, l, STATE, seen_name(seen_shown(job)));
    append_cell(row, l, STEP, show_step(text, job));
    append_cell(row, l, LOSS, result_number(text, 5, job->loss));
    append_cell(row, l, BEST, show_best(text, job));
    append_cell(row, l, RATE, show_rate(text, job));
    append_cell(row, l, LEFT, line_duration(text, time_of(job)));
    append_cell(row, l, SINCE, line_time(when, job->since, now));
}

/* Notes go into the row where there is room; where a job runs, only then. */
static void make_block(struct block *b, const struct overview *o, const struct layout *l, const struct seen_job *job,
                       const struct overview_view *v)
{
    char place[128];
    bool runs = job->state == SEEN_RUNNING, endless = runs && v->columns == 0; // a pipe
    make_row(b->row, l, job, v->now);
    make_note(b->note, o, job, v->now);
    make_log(b->log, o, job);
    if (b->note[0] && (endless || line_columns(b->row) + 2 + line_columns(b->note) <= l->limit)) {
        line_append(b->row, "  %s", b->note);
        b->note[0] = 0;
    }
    show_place(place, job);
    if (runs && place[0] && (endless || line_columns(b->row) + 2 + line_columns(place) <= l->limit))
        line_append(b->row, "  %s", place);
}

/* out NULL: only counts. Returns how many lines. */
static int put_block(FILE *out, const struct block *b, const struct layout *l)
{
    int lines = line_put(out, b->row, 0, true);
    if (b->note[0])
        lines += line_put(out, b->note, l->limit, false);
    if (b->log[0])
        lines += line_put(out, b->log, l->limit, false);
    return lines;
}

/* -------------------------------------------------------------------------------- the table */

/* The jobs that are not shown, if there are any. out NULL: only counts lines. */
static int put_rest(FILE *out, const struct overview *o, int64_t from, const struct layout *l)
{
    int64_t counts[SEEN_STATES] = {0};
    char line[LINE_SIZE] = "... ";
    if (from == o->count)
        return 0;
    for (int64_t i = from; i < o->count; i++)
        if (o->jobs[i].state < SEEN_STATES)
            counts[seen_shown(&o->jobs[i])]++;
    line_append_counts(line, counts);
    line_append(line, " not shown; see --json");
    return line_put(out, line, l->limit, true);
}

int overview_table_print(const struct overview *o, const struct overview_view *view, int room)
{
    struct block block;
    const struct layout layout = make_layout(o, view);
    char head[LINE_SIZE] = "";
    for (int i = 0; i < COLUMNS; i++)
        append_cell(head, &layout, i, columns[i].title);
    int lines = line_put(view->out, head, 0, true);
    for (int64_t i = 0; i < o->count; i++) {
        make_block(&block, o, &layout, &o->jobs[i], view);
        bool cramped = room > 0 && i > 0; // one job is shown in any case
        if (cramped && lines + put_block(NULL, &block, &layout) + put_rest(NULL, o, i + 1, &layout) > room)
            return lines + put_rest(view->out, o, i, &layout);
        lines += put_block(view->out, &block, &layout);
    }
    return lines;
}
