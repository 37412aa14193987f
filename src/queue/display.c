#include "queue/display.h"

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/clock.h"
#include "files/file.h"
#include "files/json.h"
#include "report/report.h"

static const double table_pause = 0.2, line_pause = 5; /* seconds */

enum { NAME_COLUMNS = 24 };

const char *job_state_name(int64_t state)
{
    static const char *const names[] = {[JOB_WAITING] = "waiting",
                                        [JOB_RUNNING] = "running",
                                        [JOB_STOPPED] = "stopped",
                                        [JOB_DONE] = "done",
                                        [JOB_FAILED] = "failed"};
    return state >= 0 && state < (int64_t)(sizeof names / sizeof *names) ? names[state] : "unknown";
}

static int64_t state_named(const char *name)
{
    for (int64_t state = JOB_WAITING; state <= JOB_FAILED; state++)
        if (strcmp(name, job_state_name(state)) == 0)
            return state;
    return JOB_WAITING;
}

struct error display_open(struct display *b, struct jobs *jobs, double submitted)
{
    *b = (struct display){.jobs = jobs, .began = clock_seconds(), .submitted = submitted};
    if (submitted <= 0)
        b->submitted = clock_date();
    const char *kind = getenv("TERM");
    b->quiet = log_is_quiet();
    b->terminal = !b->quiet && isatty(STDERR_FILENO) && kind && strcmp(kind, "dumb") != 0;
    b->written = memory_alloc(jobs->count, sizeof *b->written);
    int copy = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    b->out = copy >= 0 ? fdopen(copy, "w") : NULL;
    if (!b->out && copy >= 0)
        close(copy);
    return b->out && b->written ? ok() : error_failed("cannot open the board");
}

void display_close(struct display *b)
{
    if (b->out)
        fclose(b->out);
    memory_free(b->written);
    *b = (struct display){0};
}

/* -------------------------------------------------------------------------------- showing */

/* A name in a column: cut at its width, in whole UTF-8 characters. */
static void show_name(char out[NAME_COLUMNS * 4 + 1], const char *name)
{
    int columns = 0;
    char *to = out;
    for (; *name && (columns < NAME_COLUMNS || ((unsigned char)*name & 0xc0) == 0x80); name++) {
        if (to == out + NAME_COLUMNS * 4)
            break;
        columns += ((unsigned char)*name & 0xc0) != 0x80;
        *to++ = *name;
    }
    for (; columns < NAME_COLUMNS && to < out + NAME_COLUMNS * 4; columns++)
        *to++ = ' ';
    *to = 0;
}

/* A number in a table: "-" if it is not known. */
static const char *show_number(char out[32], int decimals, double value)
{
    if (isfinite(value))
        snprintf(out, 32, "%.*f", decimals, value);
    else
        strcpy(out, "-");
    return out;
}

/* "step 120/1000, loss 0.0214, validation 0.0221, 110 evaluations/s" */
static void show_progress(char out[200], const struct job *job)
{
    const struct job_note *n = &job->note;
    char validation[32], rate[48] = "";
    if (n->evaluations_per_second > 0)
        snprintf(rate, sizeof rate, ", %.3g evaluations/s", n->evaluations_per_second);
    if (n->state == JOB_FAILED)
        snprintf(out, 200, "%.190s", n->error.text);
    else if (n->step == 0)
        snprintf(out, 200, "%lld steps", (long long)job->steps);
    else
        snprintf(out, 200, "%lld/%lld, loss %.5f, validation %s%s", (long long)n->step, (long long)job->steps, n->loss,
                 show_number(validation, 5, n->validation), rate);
}

static int terminal_size(int *columns)
{
    struct winsize size;
    bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 && size.ws_row > 3;
    *columns = known ? size.ws_col : 80;
    return known ? size.ws_row : 24;
}

static void put_job_line(struct display *b, const struct job *job, int columns)
{
    char name[NAME_COLUMNS * 4 + 1], progress[200], group[16] = "";
    show_name(name, job->name);
    show_progress(progress, job);
    if (job->note.state == JOB_RUNNING)
        snprintf(group, sizeof group, "group %lld", (long long)job->note.group);
    int room = columns - NAME_COLUMNS - 22;
    fprintf(b->out, "\033[K%s  %-8s %-10s %.*s\n", name, job_state_name(job->note.state), group, room > 0 ? room : 0,
            progress);
    b->lines++;
}

static int64_t count_state(const struct jobs *jobs, int64_t state)
{
    int64_t count = 0;
    for (int64_t i = 0; i < jobs->count; i++)
        count += jobs->items[i].note.state == state;
    return count;
}

/* The whole queue if it fits, else the running jobs; drawn over the previous table. */
static void draw_table(struct display *b)
{
    const struct jobs *jobs = b->jobs;
    int columns, rows = terminal_size(&columns);
    bool all = jobs->count < rows - 2;
    if (b->lines > 0)
        fprintf(b->out, "\033[%dA", b->lines);
    fprintf(b->out, "\033[J");
    b->lines = 0;
    for (int64_t i = 0; i < jobs->count && b->lines < rows - 2; i++)
        if (all || jobs->items[i].note.state == JOB_RUNNING)
            put_job_line(b, &jobs->items[i], columns);
    fprintf(b->out, "\033[K%lld of %lld done, %lld failed, %.0f s\n", (long long)count_state(jobs, JOB_DONE),
            (long long)jobs->count, (long long)count_state(jobs, JOB_FAILED), clock_seconds() - b->began);
    b->lines++;
    fflush(b->out);
    b->drawn = clock_seconds();
}

static void put_line(struct display *b, const struct job *job)
{
    char progress[200];
    show_progress(progress, job);
    fprintf(b->out, "zoodip: %s: %s, %s\n", job->name, job_state_name(job->note.state), progress);
    fflush(b->out);
}

static void show(struct display *b, const struct job *job)
{
    struct display_line *line = &b->written[job->note.job];
    double now = clock_seconds();
    bool news = line->state != job->note.state;
    if (b->terminal && (news || now - b->drawn >= table_pause))
        draw_table(b);
    bool due = job_open(job) && now - line->shown >= line_pause;
    bool wanted = b->quiet ? news && job->note.state == JOB_FAILED : news || due;
    if (!b->terminal && wanted) {
        put_line(b, job);
        line->shown = now;
    }
    line->state = job->note.state;
}

/* -------------------------------------------------------------------------------- a job's result */

static void add_number(cJSON *object, const char *key, double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.17g", value);
    cJSON_AddRawToObject(object, key, isfinite(value) ? text : "null");
}

/* What summary.json and job.json both say. */
static cJSON *result_json(const struct job *job)
{
    const struct job_note *n = &job->note;
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "name", job->name);
    cJSON_AddStringToObject(o, "state", job_state_name(n->state));
    if (n->state == JOB_FAILED)
        cJSON_AddStringToObject(o, "reason", n->error.text);
    add_number(o, "steps", (double)n->step);
    add_number(o, "steps_wanted", (double)job->steps);
    add_number(o, "loss", n->step > 0 ? n->loss : NAN);
    add_number(o, "validation_first", n->step > 0 ? n->validation_first : NAN);
    add_number(o, "validation_last", n->step > 0 ? n->validation : NAN);
    add_number(o, "seconds", n->seconds);
    add_number(o, "evaluations", n->evaluations);
    return o;
}

static struct error write_json(cJSON *object, const char *folder, const char *name)
{
    char path[PATH_SIZE];
    char *text = cJSON_Print(object);
    struct error e = text ? path_join(path, folder, name) : error_memory(name);
    if (e.code == ERROR_NONE)
        e = file_write_whole(path, text, (int64_t)strlen(text));
    cJSON_free(text);
    cJSON_Delete(object);
    return e;
}

struct error result_write(const struct job *job)
{
    cJSON *o = result_json(job);
    if (job->submitted > 0)
        add_number(o, "submitted", job->submitted);
    add_number(o, "finished", job->note.finished);
    cJSON_AddStringToObject(o, "recipe", job->recipe);
    return write_json(o, job->folder, "job.json");
}

/* Reads from a file that may hold anything. */
static void take_result(struct job *job, struct json *json)
{
    struct job_note *n = &job->note;
    const int64_t most = INT64_C(1) << 53;
    if (strcmp(json_string(json, "recipe", ""), job->recipe) != 0)
        return;
    struct job_note found = job_note_unknown(n->job);
    found.step = json_integer(json, "steps", 0, 0, most);
    found.loss = json_number(json, "loss", NAN);
    found.validation_first = json_number(json, "validation_first", NAN);
    found.validation = json_number(json, "validation_last", NAN);
    found.seconds = json_number(json, "seconds", 0);
    found.finished = json_number(json, "finished", 0);
    found.evaluations = json_number(json, "evaluations", 0);
    found.state = state_named(json_string(json, "state", ""));
    if (found.state == JOB_DONE ? found.step != job->steps : !job->elsewhere)
        found.state = JOB_WAITING;
    if (found.state == JOB_FAILED)
        found.error = error_failed("%s", json_string(json, "reason", ""));
    double submitted = json_number(json, "submitted", 0);
    if (json->error.code != ERROR_NONE)
        return;
    *n = found;
    if (job->submitted <= 0)
        job->submitted = submitted;
}

void result_read(struct job *job)
{
    char path[PATH_SIZE];
    struct json json;
    if (path_join(path, job->folder, "job.json").code != ERROR_NONE || json_open(&json, path).code != ERROR_NONE)
        return;
    take_result(job, &json);
    json_close(&json);
}

double summary_submitted(const char *folder)
{
    char path[PATH_SIZE];
    struct json json;
    if (path_join(path, folder, "summary.json").code != ERROR_NONE || json_open(&json, path).code != ERROR_NONE)
        return 0;
    double submitted = json_number(&json, "submitted", 0);
    json_close(&json);
    return submitted;
}

/* Seconds from the submission to the end; NAN while the job is open. */
static double turnaround(const struct display *b, const struct job *job)
{
    double submitted = job->submitted > 0 ? job->submitted : b->submitted;
    return job->note.finished > 0 ? fmax(0, job->note.finished - submitted) : NAN;
}

/* Updates the states of other runs' jobs; true if any has changed. */
static bool look_elsewhere(struct display *b)
{
    bool news = false;
    for (int64_t i = 0; i < b->jobs->count; i++) {
        struct job *job = &b->jobs->items[i];
        struct job_note before = job->note;
        if (!job->elsewhere || !job->folder)
            continue;
        job->note = job_note_unknown(before.job);
        result_read(job);
        news |= job->note.state != before.state || job->note.finished != before.finished;
    }
    return news;
}

static struct error write_summary(struct display *b)
{
    look_elsewhere(b);
    const struct jobs *jobs = b->jobs;
    cJSON *root = cJSON_CreateObject();
    add_number(root, "submitted", b->submitted);
    add_number(root, "seconds", clock_seconds() - b->began);
    add_number(root, "ranks", b->ranks);
    add_number(root, "groups", b->groups);
    cJSON *list = cJSON_AddArrayToObject(root, "jobs");
    for (int64_t i = 0; i < jobs->count; i++) {
        cJSON *o = result_json(&jobs->items[i]);
        add_number(o, "turnaround", turnaround(b, &jobs->items[i]));
        cJSON_AddItemToArray(list, o);
    }
    return write_json(root, jobs->folder, "summary.json");
}

/* -------------------------------------------------------------------------------- news */

void display_hear(void *arg, const struct job_note *note)
{
    struct display *b = arg;
    struct job *job = &b->jobs->items[note->job];
    job->note = *note;
    bool ended = note->state >= JOB_STOPPED && b->written[note->job].state != note->state;
    show(b, job);
    if (ended)
        write_summary(b); // a failure is reported at the end, when it is written for the last time
}

struct error display_begin(struct display *b, int ranks, int groups)
{
    b->ranks = ranks;
    b->groups = groups;
    return write_summary(b);
}

void display_refresh(struct display *b)
{
    for (int64_t i = 0; i < b->jobs->count; i++)
        if (!b->jobs->items[i].elsewhere && !job_open(&b->jobs->items[i]))
            show(b, &b->jobs->items[i]);
}

/* -------------------------------------------------------------------------------- the end */

enum { FACTS = 5 };

struct subject_facts {
    char text[FACTS][600];
    const char *pairs[2 * FACTS];
    char link[1024];
};

static struct report_subject subject_of(const struct job *job, double waited, struct subject_facts *f)
{
    static const char *const names[FACTS] = {"state", "steps", "validation loss", "time", "turnaround"};
    const struct job_note *n = &job->note;
    char first[32], last[32], wait[32];
    snprintf(f->text[0], sizeof *f->text, "%s%s%s", job_state_name(n->state), n->state == JOB_FAILED ? ": " : "",
             n->state == JOB_FAILED ? n->error.text : "");
    snprintf(f->text[1], sizeof *f->text, "%lld of %lld, %.0f evaluations", (long long)n->step, (long long)job->steps,
             n->evaluations);
    snprintf(f->text[2], sizeof *f->text, "%s, %s at the start", show_number(last, 5, n->validation),
             show_number(first, 5, n->validation_first));
    snprintf(f->text[3], sizeof *f->text, "%.1f s in steps", n->seconds);
    snprintf(f->text[4], sizeof *f->text, "%s s from submission to the end", show_number(wait, 0, waited));
    for (int i = 0; i < FACTS; i++) {
        f->pairs[2 * i] = names[i];
        f->pairs[2 * i + 1] = f->text[i];
    }
    snprintf(f->link, sizeof f->link, "%s/report.html", job->name);
    return (struct report_subject){.name = job->name,
                                   .folder = job->folder ? job->folder : "",
                                   .link = n->state == JOB_DONE ? f->link : NULL,
                                   .facts = f->pairs,
                                   .fact_count = n->step > 0 ? FACTS : 1};
}

static struct error write_page(const struct display *b)
{
    const struct jobs *jobs = b->jobs;
    char path[PATH_SIZE];
    TRY(path_join(path, jobs->folder, "index.html"));
    struct report_subject *subjects = memory_alloc(jobs->count, sizeof *subjects);
    struct subject_facts *facts = memory_alloc(jobs->count, sizeof *facts);
    struct error e = subjects && facts ? ok() : error_memory("the page");
    for (int64_t i = 0; i < jobs->count && e.code == ERROR_NONE; i++)
        subjects[i] = subject_of(&jobs->items[i], turnaround(b, &jobs->items[i]), &facts[i]);
    if (e.code == ERROR_NONE)
        e = report_subjects(path, "Words learned by zoodip", subjects, jobs->count);
    memory_free(subjects);
    memory_free(facts);
    return e;
}

static void put_summary(const struct display *b)
{
    const struct jobs *jobs = b->jobs;
    fprintf(b->out, "%-*s  %-8s %15s %10s %10s %9s %11s\n", NAME_COLUMNS, "subject", "state", "steps", "initial",
            "validation", "seconds", "turnaround");
    for (int64_t i = 0; i < jobs->count; i++) {
        const struct job *job = &jobs->items[i];
        const struct job_note *n = &job->note;
        char name[NAME_COLUMNS * 4 + 1], steps[48], numbers[4][32];
        show_name(name, job->name);
        snprintf(steps, sizeof steps, "%lld/%lld", (long long)n->step, (long long)job->steps);
        fprintf(b->out, "%s  %-8s %15s %10s %10s %9s %11s", name, job_state_name(n->state), steps,
                show_number(numbers[0], 5, n->validation_first), show_number(numbers[1], 5, n->validation),
                show_number(numbers[2], 1, n->seconds), show_number(numbers[3], 0, turnaround(b, job)));
        fprintf(b->out, n->state == JOB_FAILED ? "  %s\n" : "\n", n->error.text);
    }
}

struct error display_finish(struct display *b)
{
    if (b->terminal)
        draw_table(b);
    // if several runs end at the same time, the last to write knows the outcome of all
    struct error e;
    do {
        e = write_summary(b);
        if (e.code == ERROR_NONE)
            e = write_page(b);
    } while (e.code == ERROR_NONE && look_elsewhere(b));
    if (!b->quiet)
        put_summary(b);
    if (!b->quiet && e.code == ERROR_NONE)
        fprintf(b->out, "zoodip: wrote %s/summary.json\nzoodip: wrote %s/index.html\n", b->jobs->folder,
                b->jobs->folder);
    fflush(b->out);
    return e;
}
