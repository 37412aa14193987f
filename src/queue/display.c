#include "queue/display.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "queue/results.h"

static const double table_pause = 0.2, line_pause = 5; /* seconds between two updates without news */

enum { NAME_COLUMNS = 24 };

struct display {
    const struct results *results;
    FILE *out;  /* the original stderr */
    bool quiet; /* shows jobs that fail, and nothing else */
    bool terminal;
    int lines;         /* of the table on the terminal */
    double table_when; /* it was last shown */
};

struct error display_open(struct display **display, const struct results *results)
{
    struct display *d = *display = memory_alloc(1, sizeof *d);
    if (!d)
        return error_memory("the display");
    d->results = results;
    d->quiet = log_is_quiet();
    d->terminal = !d->quiet && log_is_live();
    int copy = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    d->out = copy >= 0 ? fdopen(copy, "w") : NULL;
    if (!d->out && copy >= 0)
        close(copy);
    return d->out ? ok() : error_failed("cannot open the display");
}

void display_close(struct display *d)
{
    if (!d)
        return;
    if (d->out)
        fclose(d->out);
    memory_free(d);
}

/* -------------------------------------------------------------------------------- texts */

/* How many steps it does. */
static long long steps_of(const struct job *job)
{
    return job->status.last > 0 ? job->status.last : job->steps;
}

/* What a running job does: ", 110 evaluations/s, 0:12 left", or ", generating pictures 3/8, 1:10 left". */
static void print_pace(char out[100], const struct job *job)
{
    const struct job_status *s = &job->status;
    char what[60] = "", left[32];
    bool ending = s->state == JOB_RUNNING && s->step == steps_of(job); // nothing is evaluated any more
    if (s->phase[0])
        snprintf(what, sizeof what, ", %s", s->phase);
    else if (s->evaluations_per_second > 0 && !ending)
        snprintf(what, sizeof what, ", %.3g evaluations/s", s->evaluations_per_second);
    progress_duration(left, s->left);
    bool known = s->state == JOB_RUNNING && s->left >= 0;
    snprintf(out, 100, "%s%s%s%s", what, known ? ", " : "", known ? left : "", known ? " left" : "");
}

/* "120/1000, loss 0.02140, validation 0.02210, 110 evaluations/s, 0:12 left" */
static void print_progress(char out[200], const struct job *job)
{
    const struct job_status *s = &job->status;
    char validation[32], pace[100];
    print_pace(pace, job);
    if (s->state == JOB_FAILED)
        snprintf(out, 200, "%.190s", s->error.text);
    else if (s->step == 0)
        snprintf(out, 200, "%lld steps%s", steps_of(job), pace);
    else if (s->phase[0])
        snprintf(out, 200, "%lld/%lld%s", (long long)s->step, steps_of(job), pace);
    else
        snprintf(out, 200, "%lld/%lld, loss %.5f, validation %s%s", (long long)s->step, steps_of(job), s->loss,
                 result_number(validation, 5, s->validation), pace);
}

/* -------------------------------------------------------------------------------- on a terminal */

/* Returns the rows. The terminal is asked by the original stderr, since the other may be a job's log by now. */
static int terminal_size(const struct display *d, int *columns)
{
    struct winsize size;
    bool known = ioctl(fileno(d->out), TIOCGWINSZ, &size) == 0 && size.ws_col > 20 && size.ws_row > 3;
    *columns = known ? size.ws_col : 80;
    return known ? size.ws_row : 24;
}

static void put_row(struct display *d, const struct job *job, int columns)
{
    char name[TEXT_COLUMN_SIZE], progress[200], group[16] = "";
    text_column(name, job->name, NAME_COLUMNS);
    print_progress(progress, job);
    if (job->status.state == JOB_RUNNING)
        snprintf(group, sizeof group, "group %lld", (long long)job->status.group);
    int room = columns - NAME_COLUMNS - 22;
    fprintf(d->out, "\033[K%s  %-8s %-10s %.*s\n", name, job_state_name(job->status.state), group, room > 0 ? room : 0,
            progress);
    d->lines++;
}

/* Of this run; negative: in any state. */
static int64_t count_state(const struct jobs *jobs, int64_t state)
{
    int64_t count = 0;
    for (int64_t i = 0; i < jobs->count; i++)
        count += !jobs->items[i].past && (state < 0 || jobs->items[i].status.state == state);
    return count;
}

/* The whole queue if it fits, else the running jobs; over the previous table. */
static void put_table(struct display *d)
{
    const struct jobs *jobs = d->results->jobs;
    int columns, rows = terminal_size(d, &columns);
    bool all = count_state(jobs, -1) < rows - 2;
    if (d->lines > 0)
        fprintf(d->out, "\033[%dA", d->lines);
    fprintf(d->out, "\033[J");
    d->lines = 0;
    for (int64_t i = 0; i < jobs->count && d->lines < rows - 2; i++)
        if (!jobs->items[i].past && (all || jobs->items[i].status.state == JOB_RUNNING))
            put_row(d, &jobs->items[i], columns);
    char so_far[32], left[48] = "";
    progress_duration(so_far, clock_seconds() - d->results->began);
    if (isfinite(d->results->left))
        progress_duration(stpcpy(left, ", about "), d->results->left);
    fprintf(d->out, "\033[K%lld of %lld done, %lld failed%s%s (%s so far)\n", (long long)count_state(jobs, JOB_DONE),
            (long long)count_state(jobs, -1), (long long)count_state(jobs, JOB_FAILED), left, *left ? " left" : "",
            so_far);
    d->lines++;
    fflush(d->out);
    d->table_when = clock_seconds();
}

/* -------------------------------------------------------------------------------- while jobs run */

static void put_line(struct display *d, const struct job *job)
{
    const struct job_status *s = &job->status;
    char progress[200], line[1024];
    print_progress(progress, job);
    snprintf(line, sizeof line, "%s: %s, %s", job->name, job_state_name(s->state), progress);
    const struct log_facts facts = {.job = job->name,
                                    .state = job_state_name(s->state),
                                    .done = s->step,
                                    .total = steps_of(job),
                                    .timed = s->state == JOB_RUNNING && s->left >= 0,
                                    .seconds_left = s->left};
    log_write(fileno(d->out), s->state == JOB_FAILED ? LEVEL_ERROR : LEVEL_INFO, line, &facts);
}

bool display_show(struct display *d, struct job *job)
{
    struct job_shown *shown = &job->shown;
    double now = clock_seconds();
    bool news = shown->state != job->status.state;
    if (d->terminal && (news || now - d->table_when >= table_pause))
        put_table(d);
    bool due = job_is_pending(job) && now - shown->when >= line_pause;
    bool wanted = d->quiet ? news && job->status.state == JOB_FAILED : news || due;
    if (!d->terminal && wanted) {
        put_line(d, job);
        shown->when = now;
    }
    shown->state = job->status.state;
    return news;
}

/* -------------------------------------------------------------------------------- the end */

void display_finish(struct display *d)
{
    if (d->terminal)
        put_table(d);
}

static void put_summary(struct display *d)
{
    const struct jobs *jobs = d->results->jobs;
    fprintf(d->out, "%-*s  %-8s %15s %10s %10s %9s %11s\n", NAME_COLUMNS, "subject", "state", "steps", "initial",
            "validation", "seconds", "turnaround");
    for (int64_t i = 0; i < jobs->count; i++) {
        const struct job *job = &jobs->items[i];
        const struct job_status *s = &job->status;
        char name[TEXT_COLUMN_SIZE], steps[48], numbers[4][32];
        text_column(name, job->name, NAME_COLUMNS);
        snprintf(steps, sizeof steps, "%lld/%lld", (long long)s->step, (long long)job->steps);
        fprintf(d->out, "%s  %-8s %15s %10s %10s %9s %11s", name, job_state_name(s->state), steps,
                result_number(numbers[0], 5, s->validation_first), result_number(numbers[1], 5, s->validation),
                result_number(numbers[2], 1, s->seconds),
                result_number(numbers[3], 0, results_turnaround(d->results, job)));
        const char *why = s->state == JOB_FAILED ? s->error.text : s->state == JOB_DONE ? s->ended : "";
        fprintf(d->out, "%s%s\n", *why ? "  " : "", why);
    }
}

void display_summary(struct display *d, bool written)
{
    static const char *const files[] = {"summary.json", "index.html"};
    if (!d->quiet && !log_is_json())
        put_summary(d);
    fflush(d->out);
    for (size_t i = 0; i < sizeof files / sizeof *files && !d->quiet && written; i++) {
        char line[1024];
        snprintf(line, sizeof line, "wrote %s/%s", d->results->jobs->folder, files[i]);
        log_write(fileno(d->out), LEVEL_INFO, line, NULL);
    }
}
