#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <stdio_ext.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "files/events.h"
#include "files/file.h"
#include "files/report.h"

struct metrics {
    FILE *lines;
    char folder[4096], path[4096];
    struct events *events;
    off_t good;   /* where the last whole line ends */
    int64_t step; /* of that line */
};

/* Lines in */

struct reader {
    FILE *stream;
    char *line;
    size_t room;
    int64_t number; /* of the line just read, from 1 */
};

static struct error reader_open(struct reader *r, const char *path)
{
    *r = (struct reader){0};
    int descriptor;
    int64_t size;
    TRY(file_open(path, &descriptor, &size));
    r->stream = fdopen(descriptor, "rb");
    if (r->stream)
        return ok();
    struct error e = error_errno("read", path);
    close(descriptor);
    return e;
}

static void reader_close(struct reader *r)
{
    if (r->stream)
        fclose(r->stream);
    free(r->line);
}

/* The next line that ends as a line does; false at the end, or at a torn last line. */
static bool reader_next(struct reader *r)
{
    ssize_t length = getline(&r->line, &r->room, r->stream);
    r->number++;
    return length > 0 && r->line[length - 1] == '\n';
}

static double number_of(const cJSON *object, const char *name)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

/* The step of a line, or 0 where it is none. */
static int64_t step_of(const cJSON *object)
{
    double step = number_of(object, "step");
    return step >= 1 && step <= 9007199254740992.0 && step == floor(step) ? (int64_t)step : 0;
}

/* Opening */

/* Leaves the whole lines of steps 1..from_step. */
static struct error cut_lines(const char *path, int64_t from_step)
{
    struct reader r;
    struct whole_file file;
    TRY(reader_open(&r, path));
    struct error e = whole_file_begin(&file, path);
    if (e.code != ERROR_NONE) {
        reader_close(&r);
        return e;
    }
    while (e.code == ERROR_NONE && reader_next(&r)) {
        cJSON *object = cJSON_Parse(r.line);
        int64_t step = step_of(object);
        cJSON_Delete(object);
        if (step >= 1 && step <= from_step && fputs(r.line, file.stream) == EOF)
            e = error_errno("write", path);
    }
    if (e.code == ERROR_NONE && ferror(r.stream))
        e = error_errno("read", path);
    reader_close(&r);
    struct error ended = whole_file_end(&file, e.code == ERROR_NONE);
    return e.code == ERROR_NONE ? ended : e;
}

static struct error open_files(struct metrics *m, const char *folder, int64_t from_step)
{
    TRY(folder_make(folder));
    TRY(path_join(m->path, folder, "metrics.jsonl"));
    snprintf(m->folder, sizeof m->folder, "%s", folder);
    m->step = from_step;
    if (from_step > 0 && file_exists(m->path))
        TRY(cut_lines(m->path, from_step));
    m->lines = fopen(m->path, from_step > 0 ? "abe" : "wbe");
    if (!m->lines)
        return error_errno("write", m->path);
    fseeko(m->lines, 0, SEEK_END);
    m->good = ftello(m->lines);
    return events_open(&m->events, folder, from_step);
}

struct error metrics_open(struct metrics **metrics, const char *folder, int64_t from_step)
{
    struct metrics *made = memory_take(1, sizeof *made);
    if (!made)
        return error_memory("the metrics");
    struct error e = open_files(made, folder, from_step);
    if (e.code != ERROR_NONE) {
        metrics_close(made);
        return e;
    }
    *metrics = made;
    return ok();
}

/* Lines out */

static void put_number(FILE *stream, const char *before, double value)
{
    fputs(before, stream);
    if (isfinite(value))
        fprintf(stream, "%.17g", value);
    else
        fputs("null", stream);
}

/* What a failed write left of a line is taken back, so that the next try finds the file as it was. */
static struct error write_failed(struct metrics *metrics)
{
    struct error e = error_errno("write", metrics->path);
    __fpurge(metrics->lines);
    clearerr(metrics->lines);
    if (ftruncate(fileno(metrics->lines), metrics->good) == 0)
        fseeko(metrics->lines, metrics->good, SEEK_SET);
    return e;
}

struct error metrics_add(struct metrics *metrics, const struct metric *metric)
{
    FILE *out = metrics->lines;
    fprintf(out, "{\"step\": %lld", (long long)metric->step);
    put_number(out, ", \"loss\": ", metric->loss);
    fputs(", \"losses\": [", out);
    for (int64_t i = 0; i < metric->slots; i++)
        put_number(out, i ? ", " : "", metric->losses[i]);
    fputs("]", out);
    if (!isnan(metric->validation))
        put_number(out, ", \"validation_loss\": ", metric->validation);
    put_number(out, ", \"grad_norm\": ", metric->grad_norm);
    fprintf(out, ", \"removed\": %lld", (long long)metric->removed);
    put_number(out, ", \"lr\": ", metric->lr);
    put_number(out, ", \"seconds\": ", metric->seconds);
    put_number(out, ", \"evaluations_per_second\": ", metric->evaluations_per_second);
    if (fputs("}\n", out) == EOF || ferror(out) || fflush(out) != 0)
        return write_failed(metrics);
    metrics->good = ftello(out);
    metrics->step = metric->step;

    struct scalar scalars[] = {
        {"loss", metric->loss},
        {"lr", metric->lr},
        {"grad_norm", metric->grad_norm},
        {"evaluations_per_second", metric->evaluations_per_second},
        {"validation_loss", metric->validation},
    };
    return events_add(metrics->events, metric->step, scalars, isnan(metric->validation) ? 4 : 5);
}

/* Does the path still lead to the file that is open? */
static bool still_there(const struct metrics *metrics)
{
    struct stat open, named;
    return fstat(fileno(metrics->lines), &open) == 0 && stat(metrics->path, &named) == 0 &&
           open.st_dev == named.st_dev && open.st_ino == named.st_ino;
}

static void close_files(struct metrics *metrics)
{
    if (metrics->lines)
        fclose(metrics->lines);
    events_close(metrics->events);
}

/* What somebody removed is lost and said to be; the lines to come go into a new file. */
static struct error begin_again(struct metrics *metrics)
{
    struct metrics *fresh = memory_take(1, sizeof *fresh);
    if (!fresh)
        return error_memory("the metrics");
    struct error e = open_files(fresh, metrics->folder, metrics->step);
    if (e.code == ERROR_NONE) {
        e = error_failed("%s: was removed; it begins again behind step %lld", metrics->path, (long long)metrics->step);
        struct metrics old = *metrics;
        *metrics = *fresh;
        *fresh = old;
    }
    close_files(fresh);
    memory_free(fresh);
    return e;
}

struct error metrics_flush(struct metrics *metrics)
{
    if (!still_there(metrics))
        return begin_again(metrics);
    if (fflush(metrics->lines) != 0 || fsync(fileno(metrics->lines)) != 0)
        return write_failed(metrics);
    return events_flush(metrics->events);
}

void metrics_close(struct metrics *metrics)
{
    if (!metrics)
        return;
    close_files(metrics);
    memory_free(metrics);
}

/* Reading back */

struct columns {
    int64_t count, room;
    int64_t *steps;
    double *losses, *validations, *seconds;
};

static void columns_free(struct columns *c)
{
    memory_free(c->steps);
    memory_free(c->losses);
    memory_free(c->validations);
    memory_free(c->seconds);
    *c = (struct columns){0};
}

/* Doubles the room of one column; the old one stays where memory is short. */
static bool widen(void *column, int64_t count, int64_t room)
{
    void *old, *wider = memory_take(room, 8);
    memcpy(&old, column, sizeof old);
    if (!wider)
        return false;
    if (count)
        memcpy(wider, old, (size_t)count * 8);
    memory_free(old);
    memcpy(column, &wider, sizeof wider);
    return true;
}

static struct error columns_add(struct columns *c, const cJSON *object)
{
    if (c->count == c->room) {
        int64_t room = c->room ? 2 * c->room : 1024;
        if (!widen(&c->steps, c->count, room) || !widen(&c->losses, c->count, room) ||
            !widen(&c->validations, c->count, room) || !widen(&c->seconds, c->count, room))
            return error_memory("the metrics");
        c->room = room;
    }
    c->steps[c->count] = step_of(object);
    c->losses[c->count] = number_of(object, "loss");
    c->validations[c->count] = number_of(object, "validation_loss");
    c->seconds[c->count] = number_of(object, "seconds");
    c->count++;
    return ok();
}

static struct error read_columns(struct columns *c, const char *path)
{
    struct reader r;
    TRY(reader_open(&r, path));
    struct error e = columns_add(c, NULL); /* so that an empty file has arrays too */
    c->count = 0;
    while (e.code == ERROR_NONE && reader_next(&r)) {
        cJSON *object = cJSON_Parse(r.line);
        e = step_of(object) ? columns_add(c, object)
                            : error_input("%s: line %lld: holds no step", path, (long long)r.number);
        cJSON_Delete(object);
    }
    if (e.code == ERROR_NONE && ferror(r.stream))
        e = error_errno("read", path);
    reader_close(&r);
    return e;
}

struct error metrics_read(const char *folder, int64_t *count, int64_t **steps, double **losses, double **validations,
                          double **seconds)
{
    char path[4096];
    TRY(path_join(path, folder, "metrics.jsonl"));
    struct columns c = {0};
    struct error e = read_columns(&c, path);
    if (e.code != ERROR_NONE) {
        columns_free(&c);
        return e;
    }
    *count = c.count;
    *steps = c.steps;
    *losses = c.losses;
    *validations = c.validations;
    *seconds = c.seconds;
    return ok();
}
