#include "queue/overview_show.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

#include "base/text.h"
#include "files/json.h"
#include "queue/overview_lines.h"
#include "queue/overview_table.h"

/* -------------------------------------------------------------------------------- for people */

/* ", 8 ranks in 4 groups", or of an array ", 3 tasks with 12 ranks in all" */
static void append_ranks(char line[LINE_SIZE], const struct overview *o)
{
    int64_t ranks = o->all.ranks;
    if (o->tasks > 0)
        line_append(line, ", %lld task%s", (long long)o->tasks, o->tasks == 1 ? "" : "s");
    if (ranks > 0)
        line_append(line, "%s%lld rank%s%s", o->tasks > 0 ? " with " : ", ", (long long)ranks, ranks == 1 ? "" : "s",
                    o->tasks > 0 ? " in all" : "");
    if (o->groups > 0)
        line_append(line, " in %lld group%s", (long long)o->groups, o->groups == 1 ? "" : "s");
}

/* "FOLDER: queue, running since 22:01 on node7, process 4711, 8 ranks in 4 groups" */
static void make_head(char line[LINE_SIZE], const struct overview *o, const struct overview_view *v)
{
    const struct seen_job *all = &o->all;
    char folder[300], when[WHEN_SIZE], trouble[TROUBLE_SIZE];
    snprintf(folder, sizeof folder, "%.*s", text_fitting(v->folder, 299), v->folder);
    text_show_safely(folder);
    line[0] = 0;
    line_append(line, "%s: %s, %s", folder, overview_kind_name(o->kind), seen_name(seen_shown(all)));
    bool runs = all->state == SEEN_RUNNING;
    double since = runs ? all->began : all->since > 0 ? all->since : all->written; // a queue ends by its last words
    if (since > 0 && !all->gone && all->state != SEEN_WAITING)
        line_append(line, " since %s", line_time(when, since, v->now));
    if (all->host && runs)
        line_append(line, " on %.64s", all->host);
    if (all->pid > 0 && runs)
        line_append(line, ", process %lld", (long long)all->pid);
    append_ranks(line, o);
    if (line_trouble(trouble, all, v->now)[0])
        line_append(line, "; %s", trouble);
    if (all->reason && o->kind != OVERVIEW_RUN) // whose reason is in its row
        line_append(line, "; %s", all->reason);
}

/* "2 running, 12 waiting; about 1:20:00 left, until 03:40", or what all took */
static void make_summary(char line[LINE_SIZE], const struct overview *o, const struct overview_view *v)
{
    char time[DURATION_SIZE], when[WHEN_SIZE];
    const struct seen_job *all = &o->all;
    bool over = all->state != SEEN_RUNNING && all->state != SEEN_WAITING;
    line[0] = 0;
    if (o->kind != OVERVIEW_RUN)
        line_append_counts(line, o->counts);
    if (all->seconds_left >= 0)
        line_append(line, "%sabout %s left, until %s", line[0] ? "; " : "", line_duration(time, all->seconds_left),
                    line_time(when, v->now + all->seconds_left, v->now));
    if (over && all->seconds > 0)
        line_append(line, "%stook %s", line[0] ? "; " : "", line_duration(time, all->seconds));
}

int overview_print(const struct overview *o, const struct overview_view *view)
{
    char line[LINE_SIZE];
    int columns = view->columns > 0 ? view->columns - 1 : 0;
    make_head(line, o, view);
    int lines = line_put(view->out, line, columns, true);
    make_summary(line, o, view);
    if (line[0])
        lines += line_put(view->out, line, columns, true);
    if (o->warning) {
        snprintf(line, sizeof line, "warning: %s", o->warning);
        lines += line_put(view->out, line, columns, true);
    }
    int room = view->rows - lines - 1; // a line stays for the shell's prompt
    return lines + overview_table_print(o, view, view->rows == 0 ? 0 : room > 1 ? room : 1);
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
    json_add_number(root, "tasks", o->tasks >= 0 ? (double)o->tasks : NAN);
    if (o->warning)
        cJSON_AddStringToObject(root, "warning", o->warning);
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
