#include "queue/overview_show.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "base/progress.h"
#include "base/text.h"
#include "files/json.h"
#include "queue/results.h"

enum { LINE = 1024, NAME_COLUMNS = 24, WHEN = 16 };

static const double day = 86400, latest = 1e11; /* seconds; times after that are nonsense */

/* -------------------------------------------------------------------------------- texts */

/* Appends to a line as far as there is room. */
__attribute__((format(printf, 2, 3))) static void append(char line[LINE], const char *format, ...)
{
    size_t used = strlen(line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + used, LINE - used, format, arguments);
    va_end(arguments);
}

/* "13:20", with the date if that is not within a day of now; "-" if it is not known. */
static const char *show_time(char out[WHEN], double when, double now)
{
    strcpy(out, "-");
    struct tm parts;
    time_t whole = when > 0 && when < latest ? (time_t)when : 0;
    if (whole && localtime_r(&whole, &parts))
        strftime(out, WHEN, fabs(now - when) < day ? "%H:%M" : "%m-%d %H:%M", &parts);
    return out;
}

static const char *show_duration(char out[32], double seconds)
{
    strcpy(out, "-");
    if (seconds >= 0)
        progress_duration(out, seconds);
    return out;
}

static const char *show_count(char out[24], int64_t count)
{
    strcpy(out, "-");
    if (count >= 0)
        snprintf(out, 24, "%lld", (long long)count);
    return out;
}

/* One that is gone does not run, whatever it said last. */
static const char *show_state(const struct seen_job *job)
{
    return job->gone ? "gone" : seen_name(job->state);
}

/* What is wrong with one that is said to be running; "" if nothing is known to be. */
static const char *show_trouble(char out[64], const struct seen_job *job, double now)
{
    char when[WHEN];
    show_time(when, job->moved, now);
    out[0] = 0;
    if (job->gone)
        snprintf(out, 64, "its process is gone since %s", when);
    else if (job->silent)
        snprintf(out, 64, "no news since %s", when);
    return out;
}

/* -------------------------------------------------------------------------------- the whole */

/* "1 failed, 3 running, 12 waiting" of so many of each state. */
static void append_counts(char line[LINE], const int64_t counts[SEEN_STATES])
{
    const char *comma = "";
    for (int64_t state = 0; state < SEEN_STATES; state++)
        if (counts[state] > 0) {
            append(line, "%s%lld %s", comma, (long long)counts[state], seen_name(state));
            comma = ", ";
        }
}

/* "FOLDER: queue, running since 22:01 on node7, process 4711, 8 ranks in 4 groups" */
static void make_head(char line[LINE], const struct overview *o, const struct overview_view *v)
{
    const struct seen_job *all = &o->all;
    char folder[300], when[WHEN], trouble[64];
    snprintf(folder, sizeof folder, "%.*s", text_fitting(v->folder, 299), v->folder);
    text_show_safely(folder);
    line[0] = 0;
    append(line, "%s: %s, %s", folder, overview_kind_name(o->kind), show_state(all));
    bool runs = all->state == SEEN_RUNNING;
    double since = runs ? all->began : all->since > 0 ? all->since : all->written; // a queue ends by its last words
    if (since > 0 && !all->gone)
        append(line, " since %s", show_time(when, since, v->now));
    if (all->host && runs)
        append(line, " on %.64s", all->host);
    if (all->pid > 0 && runs)
        append(line, ", process %lld", (long long)all->pid);
    if (all->ranks > 0)
        append(line, ", %lld rank%s", (long long)all->ranks, all->ranks == 1 ? "" : "s");
    if (o->groups > 0)
        append(line, " in %lld group%s", (long long)o->groups, o->groups == 1 ? "" : "s");
    if (show_trouble(trouble, all, v->now)[0])
        append(line, "; %s", trouble);
}

/* "2 running, 12 waiting; about 1:20:00 left, until 03:40" */
static void make_summary(char line[LINE], const struct overview *o, const struct overview_view *v)
{
    char left[32], when[WHEN];
    line[0] = 0;
    if (o->kind != OVERVIEW_RUN)
        append_counts(line, o->counts);
    if (o->all.seconds_left >= 0)
        append(line, "%sabout %s left, until %s", line[0] ? "; " : "", show_duration(left, o->all.seconds_left),
               show_time(when, v->now + o->all.seconds_left, v->now));
}

/* -------------------------------------------------------------------------------- the table */

/* A line, cut at the view's columns. */
static void put_line(const struct overview_view *v, const char *line, int *lines)
{
    int length = v->columns > 0 ? text_fitting(line, v->columns - 1) : (int)strlen(line);
    while (length > 0 && line[length - 1] == ' ')
        length--;
    fprintf(v->out, "%.*s\n", length, line);
    ++*lines;
}

/* Names take as many columns as the longest needs, up to a limit. */
static int name_columns(const struct overview *o)
{
    size_t most = strlen("job");
    for (int64_t i = 0; i < o->count && most < NAME_COLUMNS; i++)
        if (o->jobs[i].name && strlen(o->jobs[i].name) > most)
            most = strlen(o->jobs[i].name);
    return most < NAME_COLUMNS ? (int)most : NAME_COLUMNS;
}

/* "0.01772 -17.0 %": the best validation loss, and what that is against the first. */
static void show_best(char out[48], const struct seen_job *job)
{
    char best[32];
    double gain = 100 * (job->validation_best / job->validation_first - 1);
    result_number(best, 5, job->validation_best);
    if (isfinite(gain))
        snprintf(out, 48, "%.20s %+.1f %%", best, gain);
    else
        snprintf(out, 48, "%.20s", best);
}

static void show_rate(char out[32], const struct seen_job *job)
{
    strcpy(out, "-");
    if (job->state == SEEN_RUNNING && job->evaluations_per_second > 0)
        snprintf(out, 32, "%.3g/s", job->evaluations_per_second);
}

/* "4 ranks, node7", of group 2. */
static void show_place(char out[128], const struct seen_job *job)
{
    char group[32] = "";
    if (job->group >= 0)
        snprintf(group, sizeof group, "group %lld", (long long)job->group);
    if (job->ranks > 0)
        snprintf(out, 128, "%s%s%lld rank%s%s%.60s", group, group[0] ? ", " : "", (long long)job->ranks,
                 job->ranks == 1 ? "" : "s", job->host ? ", " : "", job->host ? job->host : "");
    else
        snprintf(out, 128, "%s%s%.60s", group, group[0] && job->host ? ", " : "", job->host ? job->host : "");
}

static void make_row(char line[LINE], const struct seen_job *job, int columns, double now)
{
    char name[TEXT_COLUMN_SIZE], step[24], steps[24], both[50], loss[32], best[48], rate[32], left[32], since[WHEN],
        place[128] = "", trouble[64];
    bool runs = job->state == SEEN_RUNNING;
    text_column(name, job->name ? job->name : "-", columns);
    snprintf(both, sizeof both, "%s/%s", show_count(step, job->step), show_count(steps, job->steps));
    show_best(best, job);
    show_rate(rate, job);
    if (runs)
        show_place(place, job);
    line[0] = 0;
    append(line, "%s  %-9s %13s  %9s  %-17s %8s %8s %11s", name, show_state(job), both,
           result_number(loss, 5, job->loss), best, rate, show_duration(left, runs ? job->seconds_left : -1),
           show_time(since, job->since, now));
    const char *note = runs ? job->phase : job->state == SEEN_DONE ? NULL : job->reason;
    if (show_trouble(trouble, job, now)[0])
        note = trouble;
    append(line, "%s%s%s%s", note ? "  " : "", note ? note : "", place[0] ? "  " : "", place);
}

/* The jobs that are not shown. */
static void put_rest(const struct overview *o, int64_t from, const struct overview_view *v, int *lines)
{
    int64_t counts[SEEN_STATES] = {0};
    char line[LINE] = "... ";
    for (int64_t i = from; i < o->count; i++)
        if (o->jobs[i].state < SEEN_STATES)
            counts[o->jobs[i].state]++;
    append_counts(line, counts);
    append(line, " not shown; see --json");
    put_line(v, line, lines);
}

int overview_print(const struct overview *o, const struct overview_view *view)
{
    char line[LINE], name[TEXT_COLUMN_SIZE];
    int lines = 0, columns = name_columns(o);
    make_head(line, o, view);
    put_line(view, line, &lines);
    make_summary(line, o, view);
    if (line[0])
        put_line(view, line, &lines);
    text_column(name, "job", columns);
    line[0] = 0;
    append(line, "%s  %-9s %13s  %9s  %-17s %8s %8s %11s", name, "state", "step", "loss", "best validation", "rate",
           "left", "since");
    put_line(view, line, &lines);
    int64_t room = view->rows > 0 ? view->rows - lines - 1 : o->count; // a line stays for the shell's prompt
    int64_t shown = o->count <= room ? o->count : room > 1 ? room - 1 : 1;
    for (int64_t i = 0; i < shown && i < o->count; i++) {
        make_row(line, &o->jobs[i], columns, view->now);
        put_line(view, line, &lines);
    }
    if (shown < o->count)
        put_rest(o, shown, view, &lines);
    return lines;
}

/* -------------------------------------------------------------------------------- for programs */

/* Frees the object; without its last bracket, if more members follow. */
static struct error put_json(FILE *out, cJSON *object, bool open)
{
    char *text = cJSON_PrintUnformatted(object);
    cJSON_Delete(object);
    if (!text)
        return error_memory("the overview");
    fprintf(out, "%.*s", (int)strlen(text) - open, text);
    cJSON_free(text);
    return ok();
}

static cJSON *json_of_all(const struct overview *o, const struct overview_view *view)
{
    char folder[4096];
    cJSON *root = cJSON_CreateObject();
    snprintf(folder, sizeof folder, "%s", view->folder);
    text_show_safely(folder);
    cJSON_AddStringToObject(root, "folder", folder);
    cJSON_AddStringToObject(root, "kind", overview_kind_name(o->kind));
    json_add_number(root, "now", view->now);
    seen_job_add(root, &o->all);
    json_add_number(root, "groups", o->groups > 0 ? (double)o->groups : NAN);
    cJSON *counts = cJSON_AddObjectToObject(root, "counts");
    for (int64_t state = 0; state < SEEN_STATES; state++)
        json_add_number(counts, seen_name(state), (double)o->counts[state]);
    return root;
}

struct error overview_print_json(const struct overview *o, const struct overview_view *view)
{
    TRY(put_json(view->out, json_of_all(o, view), true));
    fprintf(view->out, ",\"jobs\":[");
    for (int64_t i = 0; i < o->count; i++) {
        cJSON *job = cJSON_CreateObject();
        seen_job_add(job, &o->jobs[i]);
        fprintf(view->out, i ? ",\n" : "\n");
        TRY(put_json(view->out, job, false));
    }
    fprintf(view->out, "\n]}\n");
    return ok();
}
