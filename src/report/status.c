#include "report/status.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "files/json.h"

enum { LOSSES = 100 }; /* steps that the loss is a mean over, as in a queue's summary */

static const double usual_pause = 5, phase_pause = 1, longest_pause = 20; /* seconds between two writes */
static const double share = 1e-3;                                         /* of the time, for writes */

/* -------------------------------------------------------------------------------- the file */

/* Seconds from the last write to the next. One write that took long met a busy machine, two a slow disk. */
static double pause_of(const struct run_status *s, double pause)
{
    return fmin(longest_pause, fmax(pause, fmin(s->cost, s->cost_before) / share));
}

static double known(int64_t count)
{
    return count >= 0 ? (double)count : NAN;
}

static char *print_status(const struct run_status *s, const char *state, const char *reason)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "name", s->name);
    cJSON_AddStringToObject(o, "state", state);
    if (reason)
        cJSON_AddStringToObject(o, "reason", reason);
    if (s->phase[0])
        cJSON_AddStringToObject(o, "phase", s->phase);
    json_add_number(o, "step", known(s->step));
    json_add_number(o, "steps", known(s->steps));
    json_add_number(o, "loss", s->losses > 0 ? s->loss : NAN);
    json_add_number(o, "validation_first", s->validation_first);
    json_add_number(o, "validation_best", s->validation_best);
    json_add_number(o, "best_step", known(s->best_step));
    json_add_number(o, "evaluations_per_second", s->evaluations_per_second);
    json_add_number(o, "seconds_left", s->seconds_left);
    json_add_number(o, "ranks", s->ranks);
    cJSON_AddStringToObject(o, "host", s->host);
    json_add_number(o, "pid", (double)getpid());
    json_add_number(o, "began", s->began);
    json_add_number(o, "since", s->since);
    json_add_number(o, "moved", s->moved);
    json_add_number(o, "interval", fmax(s->longest, pause_of(s, usual_pause)));
    json_add_number(o, "written", clock_date());
    cJSON_AddStringToObject(o, "version", ZOODIP_VERSION);
    char *text = cJSON_Print(o);
    cJSON_Delete(o);
    return text;
}

static void write_status(struct run_status *s, const char *state, const char *reason)
{
    double began = clock_seconds();
    char *text = print_status(s, state, reason);
    if (text)
        held_write_lightly(&s->folder, "status.json", text); // what goes wrong is no matter of the run
    cJSON_free(text);
    s->written_at = clock_seconds();
    s->cost_before = s->cost;
    s->cost = s->written_at - began;
    strcpy(s->told, s->phase);
}

/* -------------------------------------------------------------------------------- in a run */

/* The last part of a path that may end with slashes. */
static void name_folder(char name[256], const char *folder)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s", folder);
    for (size_t end = strlen(path); end > 1 && path[end - 1] == '/'; end--)
        path[end - 1] = 0;
    snprintf(name, 256, "%.255s", path_name(path));
    text_show_safely(name);
}

void run_status_begin(struct run_status *s, const char *folder, int ranks)
{
    double now = clock_date();
    *s = (struct run_status){.step = -1,
                             .steps = -1,
                             .best_step = -1,
                             .validation_first = NAN,
                             .validation_best = NAN,
                             .evaluations_per_second = NAN,
                             .seconds_left = NAN,
                             .ranks = ranks,
                             .began = now,
                             .since = now,
                             .moved = now,
                             .moved_at = clock_seconds()};
    name_folder(s->name, folder);
    gethostname(s->host, sizeof s->host - 1);
    text_show_safely(s->host);
    s->open = true;
    run_status_reopen(s, folder);
}

void run_status_reopen(struct run_status *s, const char *folder)
{
    if (!s->open)
        return;
    if (s->folder.path[0])
        held_close(&s->folder);
    s->open = held_open(&s->folder, folder).code == ERROR_NONE;
    s->written_at = -INFINITY;
}

void run_status_step(struct run_status *s, int64_t step, double loss)
{
    s->step = step;
    s->losses += s->losses < LOSSES;
    s->loss += (loss - s->loss) / (double)s->losses;
}

void run_status_tick(struct run_status *s)
{
    if (!s->open)
        return;
    double now = clock_seconds();
    s->longest = fmax(s->longest, now - s->moved_at);
    s->moved_at = now;
    s->moved = clock_date();
    progress_phase_now(s->phase);
    bool other = strcmp(s->phase, s->told) != 0;
    if (now - s->written_at >= pause_of(s, other ? phase_pause : usual_pause))
        write_status(s, "running", NULL);
}

void run_status_end(struct run_status *s, const char *state, const char *reason)
{
    if (!s->open)
        return;
    s->moved = s->since = clock_date();
    s->phase[0] = 0;
    s->seconds_left = NAN;
    write_status(s, state, reason);
    run_status_close(s);
}

void run_status_close(struct run_status *s)
{
    if (s->open)
        held_close(&s->folder);
    s->open = false;
}
