#include "queue/results.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"
#include "files/file.h"
#include "files/json.h"
#include "report/metrics.h"
#include "zo/previous.h"

const char *result_number(char out[32], int decimals, double value)
{
    if (isfinite(value))
        snprintf(out, 32, "%.*f", decimals, value);
    else
        strcpy(out, "-");
    return out;
}

/* -------------------------------------------------------------------------------- one job */

/* What summary.json and job.json both say. */
cJSON *result_json(const struct job *job)
{
    const struct job_status *s = &job->status;
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "name", job->name);
    cJSON_AddStringToObject(o, "state", job_state_name(s->state));
    if (s->state == JOB_FAILED)
        cJSON_AddStringToObject(o, "reason", s->error.text);
    json_add_number(o, "steps", (double)s->step);
    json_add_number(o, "steps_wanted", (double)job->steps);
    if (s->ended[0])
        cJSON_AddStringToObject(o, "ended", s->ended);
    json_add_number(o, "loss", s->step > 0 ? s->loss : NAN);
    json_add_number(o, "validation_first", s->step > 0 ? s->validation_first : NAN);
    json_add_number(o, "validation_last", s->step > 0 ? s->validation : NAN);
    json_add_number(o, "validation_best", s->step > 0 ? s->validation_best : NAN);
    json_add_number(o, "best_step", (double)s->best_step);
    if (s->gain[0])
        cJSON_AddStringToObject(o, "word", s->gain);
    json_add_number(o, "seconds", s->seconds);
    json_add_number(o, "evaluations", s->evaluations);
    return o;
}

/* Frees the object. */
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

/* What a job leaves: the best word and the last, and where job.json has their CRC-32. */
enum { WORDS = 2 };
static const char *const words[WORDS] = {"learned_embeds.safetensors", "learned_embeds-last.safetensors"};
static const char *const sum_keys[WORDS] = {"word_crc32", "last_word_crc32"};

/* The CRC-32 of one of them, as text. */
static struct error word_sum(char sum[16], const struct job *job, int word)
{
    char path[PATH_SIZE];
    uint32_t crc;
    TRY(path_join(path, job->folder, words[word]));
    TRY(file_crc(path, &crc));
    snprintf(sum, 16, "%08x", crc);
    return ok();
}

struct error result_write(const struct job *job)
{
    char sums[WORDS][16] = {"", ""};
    for (int i = 0; i < WORDS && job->status.state == JOB_DONE; i++)
        TRY(word_sum(sums[i], job, i));
    cJSON *o = result_json(job);
    if (job->submitted > 0)
        json_add_number(o, "submitted", job->submitted);
    json_add_number(o, "finished", job->status.finished);
    cJSON_AddStringToObject(o, "recipe", job->recipe);
    for (int i = 0; i < WORDS; i++)
        if (sums[i][0])
            cJSON_AddStringToObject(o, sum_keys[i], sums[i]);
    if (job->subject)
        json_add_number(o, "sources", job->subject->dataset.sources);
    return write_json(o, job->folder, "job.json");
}

void result_remove(const struct job *job)
{
    char path[PATH_SIZE];
    if (path_join(path, job->folder, "job.json").code == ERROR_NONE)
        unlink(path);
}

/* Are the words on the disk those of which job.json says that they were finished? One without a sum is of an earlier
 * version: then the best word must be there, and the last need not. */
static bool has_words(const struct job *job, struct json *json)
{
    char sum[16];
    for (int i = 0; i < WORDS; i++) {
        const char *then = json_string(json, sum_keys[i], "");
        bool there = word_sum(sum, job, i).code == ERROR_NONE;
        if (then[0] ? !there || strcmp(sum, then) != 0 : i == 0 && !there)
            return false;
    }
    return true;
}

struct job_status result_status(int64_t job, struct json *json)
{
    const int64_t most = INT64_C(1) << 53;
    struct job_status found = job_status_unknown(job);
    found.step = json_integer(json, "steps", 0, 0, most);
    found.loss = json_number(json, "loss", NAN);
    found.validation_first = json_number(json, "validation_first", NAN);
    found.validation = json_number(json, "validation_last", NAN);
    found.validation_best = json_number(json, "validation_best", NAN);
    found.best_step = json_integer(json, "best_step", 0, 0, most);
    snprintf(found.gain, sizeof found.gain, "%s", json_string(json, "word", ""));
    snprintf(found.ended, sizeof found.ended, "%s", json_string(json, "ended", ""));
    text_show_safely(found.gain);
    text_show_safely(found.ended);
    found.last = found.ended[0] ? found.step : 0;
    found.seconds = json_number(json, "seconds", 0);
    found.finished = found.since = json_number(json, "finished", 0);
    found.evaluations = json_number(json, "evaluations", 0);
    found.state = job_state_of(json_string(json, "state", ""));
    return found;
}

/* Has an earlier run of the job another recipe than the job has now? auto takes what is there,
 * and so does what is known once an initializer's file has been read. */
static bool differs(char difference[RECIPE_DIFFERENCE], const char *theirs, const struct job *job)
{
    struct config as_there = job->config;
    if (as_there.zo.derivative == DERIVATIVE_AUTO)
        as_there.zo.derivative = recipe_derivative(theirs);
    if (as_there.quant.tangents == 0)
        as_there.quant.tangents = recipe_tangents(theirs);
    if (as_there.optim.lr == 0)
        as_there.optim.lr = recipe_rate(theirs);
    if (config_initializer_is_file(&job->config) && !*job->config.initializer_contents) {
        int64_t vectors;
        bool file = recipe_initializer(theirs, as_there.initializer_contents, &vectors);
        if (file && !config_gives(&job->config, "token.vectors"))
            as_there.token.vectors = vectors;
    }
    char *ours = config_recipe(&as_there);
    bool differ = !ours || recipe_differs(difference, theirs, ours);
    memory_free(ours);
    return differ;
}

/* Has it done as many steps as are wanted, or ended by itself before? */
static bool is_whole(const struct job_status *found, int64_t wanted)
{
    return found->step == wanted || found->ended[0];
}

static void parse_result(struct job *job, struct json *json)
{
    char difference[RECIPE_DIFFERENCE];
    if (differs(difference, json_string(json, "recipe", ""), job))
        return;
    struct job_status found = result_status(job->status.job, json);
    if (found.state == JOB_DONE ? !is_whole(&found, job->steps) || !has_words(job, json) : !job->external)
        found.state = JOB_WAITING;
    if (found.state == JOB_FAILED)
        found.error = error_failed("%s", json_string(json, "reason", ""));
    double submitted = json_number(json, "submitted", 0);
    if (json->error.code != ERROR_NONE)
        return;
    job->status = found;
    if (job->submitted <= 0)
        job->submitted = submitted;
}

static bool open_json(struct json *json, const char *folder, const char *name)
{
    char path[PATH_SIZE];
    return path_join(path, folder, name).code == ERROR_NONE && json_open(json, path).code == ERROR_NONE;
}

/* What an --overwrite gave up counts no more, wherever it is by now. */
static bool open_result(struct json *json, const struct job *job)
{
    return !previous_given_up(job->folder) && open_json(json, job->folder, "job.json");
}

void result_read(struct job *job)
{
    struct json json;
    if (!open_result(&json, job))
        return;
    parse_result(job, &json);
    json_close(&json);
}

static enum finished parse_finished(struct job *job, struct json *json, char difference[RECIPE_DIFFERENCE])
{
    const int64_t most = INT64_C(1) << 53;
    struct job_status found = result_status(job->status.job, json);
    int64_t wanted = json_integer(json, "steps_wanted", 0, 0, most);
    const char *recipe = json_string(json, "recipe", "");
    double submitted = json_number(json, "submitted", 0);
    *difference = 0;
    if (json->error.code != ERROR_NONE || found.state != JOB_DONE || !is_whole(&found, wanted) || !has_words(job, json))
        return UNFINISHED;
    job->status = found;
    job->sources = json_integer(json, "sources", -1, 0, UINT32_MAX);
    if (job->submitted <= 0)
        job->submitted = submitted;
    if (differs(difference, recipe, job))
        return FINISHED_OTHERWISE;
    if (is_whole(&found, job->steps))
        return FINISHED;
    snprintf(difference, RECIPE_DIFFERENCE, ": optim.steps is %lld there and %lld here", (long long)wanted,
             (long long)job->steps);
    return FINISHED_OTHER_STEPS;
}

enum finished result_finished(struct job *job, char difference[RECIPE_DIFFERENCE])
{
    struct json json;
    if (!open_result(&json, job))
        return UNFINISHED;
    enum finished finished = parse_finished(job, &json, difference);
    json_close(&json);
    return finished;
}

bool result_unfinished(const struct job *job)
{
    struct json json;
    char difference[RECIPE_DIFFERENCE];
    if (!open_result(&json, job))
        return false;
    bool unfinished = job_state_of(json_string(&json, "state", "")) != JOB_DONE &&
                      !differs(difference, json_string(&json, "recipe", ""), job);
    json_close(&json);
    return unfinished;
}

void result_totals(struct job_status *s, const char *folder)
{
    struct metric_table lines;
    if (metrics_read(&lines, folder).code != ERROR_NONE)
        return;
    s->seconds = 0;
    for (int64_t i = 0; i < lines.count; i++)
        s->seconds += lines.seconds[i];
    if (lines.count > 0)
        s->loss = metric_table_loss(&lines);
    metric_table_free(&lines);
}
