#include "report/metrics.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "files/file.h"
#include "report/events.h"

enum { SCALARS = 5, MOST_WAITING = 64 << 20 };

/* A step's line, and its values for TensorBoard. */
struct line {
    char *text;
    size_t size;
    int64_t step;
    struct scalar start; /* of step 0; its value may be NAN */
    struct scalar scalars[SCALARS];
    int64_t scalar_count;
};

struct metrics {
    int file;
    char folder[PATH_SIZE], path[PATH_SIZE];
    struct events *events;
    int64_t end;          /* of the last whole line */
    int64_t step;         /* that line's */
    struct line *waiting; /* the lines after it, for which there was no room */
    int64_t waiting_count, waiting_room;
    size_t waiting_bytes;
};

/* -------------------------------------------------------------------------------- lines in */

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

/* Reads the next complete line; false at the end, or at an incomplete last line. */
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

/* The step of a line, or 0 if it has none. */
static int64_t step_of(const cJSON *object)
{
    double step = number_of(object, "step");
    return step >= 1 && step <= 9007199254740992.0 && step == floor(step) ? (int64_t)step : 0;
}

/* -------------------------------------------------------------------------------- opening */

/* Keeps only the complete lines of steps 1..from_step. */
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
    enum path_kind kind;
    TRY(path_look(m->path, &kind));
    if (from_step > 0 && kind == PATH_FILE)
        TRY(cut_lines(m->path, from_step));
    m->file = open(m->path, O_WRONLY | O_CREAT | O_CLOEXEC | (from_step > 0 ? 0 : O_TRUNC), 0666);
    if (m->file < 0)
        return error_errno("write", m->path);
    m->end = lseek(m->file, 0, SEEK_END);
    return events_open(&m->events, folder, from_step);
}

struct error metrics_open(struct metrics **metrics, const char *folder, int64_t from_step)
{
    struct metrics *made = memory_alloc(1, sizeof *made);
    if (!made)
        return error_memory("the metrics");
    made->file = -1;
    struct error e = open_files(made, folder, from_step);
    if (e.code != ERROR_NONE) {
        metrics_close(made);
        return e;
    }
    *metrics = made;
    return ok();
}

/* -------------------------------------------------------------------------------- lines out */

static void put_number(FILE *stream, const char *before, double value)
{
    fputs(before, stream);
    if (isfinite(value))
        fprintf(stream, "%.17g", value);
    else
        fputs("null", stream);
}

static void put_numbers(FILE *stream, const char *name, const double *values, int64_t count)
{
    fprintf(stream, ", \"%s\": [", name);
    for (int64_t i = 0; i < count; i++)
        put_number(stream, i ? ", " : "", values[i]);
    fputs("]", stream);
}

static void put_line(FILE *out, const struct metric *metric)
{
    fprintf(out, "{\"step\": %lld", (long long)metric->step);
    put_number(out, ", \"loss\": ", metric->loss);
    put_numbers(out, "losses", metric->losses, metric->loss_count);
    put_numbers(out, "slopes", metric->slopes, metric->slope_count);
    if (!isnan(metric->start))
        put_number(out, ", \"validation_start\": ", metric->start);
    if (!isnan(metric->validation)) {
        put_number(out, ", \"validation_loss\": ", metric->validation);
        fprintf(out, ", \"best_step\": %lld", (long long)metric->best_step);
    }
    if (!isnan(metric->slope_noise))
        put_number(out, ", \"slope_noise\": ", metric->slope_noise);
    put_number(out, ", \"grad_norm\": ", metric->grad_norm);
    fprintf(out, ", \"removed\": %lld", (long long)metric->removed);
    put_number(out, ", \"lr\": ", metric->lr);
    put_number(out, ", \"seconds\": ", metric->seconds);
    put_number(out, ", \"evaluations_per_second\": ", metric->evaluations_per_second);
    if (metric->ended)
        fprintf(out, ", \"ended\": \"%s\"", metric->ended);
    fputs("}\n", out);
}

static struct error line_new(struct line *line, const struct metric *metric)
{
    const struct scalar scalars[SCALARS] = {
        {"loss", metric->loss},
        {"lr", metric->lr},
        {"grad_norm", metric->grad_norm},
        {"evaluations_per_second", metric->evaluations_per_second},
        {"validation_loss", metric->validation},
    };
    *line = (struct line){.step = metric->step,
                          .start = {"validation_loss", metric->start},
                          .scalar_count = isnan(metric->validation) ? SCALARS - 1 : SCALARS};
    memcpy(line->scalars, scalars, sizeof scalars);
    FILE *out = open_memstream(&line->text, &line->size);
    if (!out)
        return error_memory("the metrics");
    put_line(out, metric);
    bool failed = ferror(out);
    if (fclose(out) == 0 && !failed)
        return ok();
    free(line->text);
    return error_memory("the metrics");
}

/* Drops the first `count` waiting lines. */
static void drop_lines(struct metrics *metrics, int64_t count)
{
    if (count == 0)
        return; // the array may not exist yet
    for (int64_t i = 0; i < count; i++) {
        metrics->waiting_bytes -= metrics->waiting[i].size;
        free(metrics->waiting[i].text);
    }
    metrics->waiting_count -= count;
    memmove(metrics->waiting, metrics->waiting + count, (size_t)metrics->waiting_count * sizeof *metrics->waiting);
}

/* Writes as many of the waiting lines as there is room for. */
static struct error write_lines(struct metrics *metrics)
{
    int64_t done = 0;
    struct error e = ok(), event = ok();
    for (; done < metrics->waiting_count; done++) {
        const struct line *line = &metrics->waiting[done];
        e = file_append(metrics->path, metrics->file, line->text, (int64_t)line->size, &metrics->end);
        if (e.code != ERROR_NONE)
            break;
        metrics->step = line->step;
        struct error added = isnan(line->start.value) ? ok() : events_add(metrics->events, 0, &line->start, 1);
        event = error_first(event, added);
        added = events_add(metrics->events, line->step, line->scalars, line->scalar_count);
        event = error_first(event, added);
    }
    drop_lines(metrics, done);
    return e.code == ERROR_NONE ? event : e;
}

/* Adds a line to those waiting. */
static struct error keep_line(struct metrics *metrics, const struct line *line)
{
    if (metrics->waiting_bytes + line->size > MOST_WAITING)
        return error_failed("%s: lost the line of step %lld: too many lines wait for room on the disk", metrics->path,
                            (long long)line->step);
    struct line *more = memory_grow(metrics->waiting, metrics->waiting_count, &metrics->waiting_room, sizeof *more);
    if (!more)
        return error_memory("the metrics");
    metrics->waiting = more;
    metrics->waiting[metrics->waiting_count++] = *line;
    metrics->waiting_bytes += line->size;
    return ok();
}

struct error metrics_add(struct metrics *metrics, const struct metric *metric)
{
    bool waits = metrics->waiting_count > 0; // there was no room; the next flush will try again
    struct line line;
    TRY(line_new(&line, metric));
    struct error e = keep_line(metrics, &line);
    if (e.code != ERROR_NONE) {
        free(line.text);
        return e;
    }
    return waits ? ok() : write_lines(metrics);
}

static void close_files(struct metrics *metrics)
{
    if (metrics->file >= 0)
        close(metrics->file);
    events_close(metrics->events);
}

/* Someone removed the file: reports that its lines are lost, and starts a new file for the waiting and coming lines. */
static struct error begin_again(struct metrics *metrics)
{
    struct metrics *fresh = memory_alloc(1, sizeof *fresh);
    if (!fresh)
        return error_memory("the metrics");
    fresh->file = -1;
    struct error e = open_files(fresh, metrics->folder, metrics->step);
    if (e.code == ERROR_NONE) {
        e = error_failed("%s: was removed; a new one begins after step %lld", metrics->path, (long long)metrics->step);
        struct metrics old = *metrics;
        metrics->file = fresh->file;
        metrics->events = fresh->events;
        metrics->end = fresh->end;
        *fresh = old;
    }
    close_files(fresh);
    memory_free(fresh);
    return e;
}

struct error metrics_flush(struct metrics *metrics)
{
    if (!path_is_of(metrics->path, metrics->file))
        return begin_again(metrics);
    TRY(write_lines(metrics));
    return fsync(metrics->file) == 0 ? ok() : error_errno("write", metrics->path);
}

struct error metrics_add_picture(struct metrics *metrics, int64_t step, const char *tag, const struct picture *picture)
{
    return events_add_picture(metrics->events, step, tag, picture);
}

void metrics_close(struct metrics *metrics)
{
    if (!metrics)
        return;
    drop_lines(metrics, metrics->waiting_count);
    memory_free(metrics->waiting);
    close_files(metrics);
    memory_free(metrics);
}

/* -------------------------------------------------------------------------------- reading back */

void metric_table_free(struct metric_table *table)
{
    memory_free(table->steps);
    memory_free(table->losses);
    memory_free(table->validations);
    memory_free(table->seconds);
    memory_free(table->ended);
    *table = (struct metric_table){0};
}

double metric_table_loss(const struct metric_table *table)
{
    const int64_t most = 100;
    int64_t from = table->count > most ? table->count - most : 0;
    double sum = 0;
    for (int64_t i = from; i < table->count; i++)
        sum += table->losses[i];
    return table->count > 0 ? sum / (double)(table->count - from) : NAN;
}

static bool grow_numbers(double **numbers, int64_t count, int64_t room)
{
    double *more = memory_grow(*numbers, count, &room, sizeof *more);
    *numbers = more ? more : *numbers;
    return more;
}

/* Makes room for one more line. */
static bool table_grow(struct metric_table *table, int64_t *room)
{
    int64_t count = table->count, before = *room;
    int64_t *steps = memory_grow(table->steps, count, room, sizeof *steps);
    table->steps = steps ? steps : table->steps;
    return steps && grow_numbers(&table->losses, count, before) && grow_numbers(&table->validations, count, before) &&
           grow_numbers(&table->seconds, count, before);
}

static struct error table_add(struct metric_table *table, int64_t *room, const cJSON *object)
{
    if (!table_grow(table, room))
        return error_memory("the metrics");
    table->steps[table->count] = step_of(object);
    table->losses[table->count] = number_of(object, "loss");
    table->validations[table->count] = number_of(object, "validation_loss");
    table->seconds[table->count] = number_of(object, "seconds");
    table->count++;
    double start = number_of(object, "validation_start");
    table->start = isnan(start) ? table->start : start;
    const cJSON *ended = cJSON_GetObjectItemCaseSensitive(object, "ended");
    memory_free(table->ended);
    table->ended = cJSON_IsString(ended) ? memory_string(ended->valuestring) : NULL;
    return ok();
}

static struct error read_table(struct metric_table *table, const char *path)
{
    struct reader r;
    TRY(reader_open(&r, path));
    int64_t room = 0;
    struct error e = ok();
    while (e.code == ERROR_NONE && reader_next(&r)) {
        cJSON *object = cJSON_Parse(r.line);
        e = step_of(object) ? table_add(table, &room, object)
                            : error_input("%s: line %lld: has no step", path, (long long)r.number);
        cJSON_Delete(object);
    }
    if (e.code == ERROR_NONE && ferror(r.stream))
        e = error_errno("read", path);
    reader_close(&r);
    return e;
}

struct error metrics_read(struct metric_table *table, const char *folder)
{
    char path[PATH_SIZE];
    *table = (struct metric_table){.start = NAN};
    TRY(path_join(path, folder, "metrics.jsonl"));
    struct error e = read_table(table, path);
    if (e.code != ERROR_NONE)
        metric_table_free(table);
    return e;
}

void metrics_range(const char *folder, int64_t *first, int64_t *last)
{
    struct metric_table table;
    *first = *last = 0;
    if (metrics_read(&table, folder).code != ERROR_NONE)
        return;
    for (int64_t i = 0; i < table.count && (i == 0 || table.steps[i] == *last + 1); i++)
        *last = table.steps[i];
    *first = table.count > 0 ? table.steps[0] : 0;
    metric_table_free(&table);
}
