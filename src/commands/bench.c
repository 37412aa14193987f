#include <cjson/cJSON.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "commands/commands.h"
#include "commands/options.h"
#include "pipeline/memory_plan.h"
#include "pipeline/subject.h"
#include "zo/train.h"

static void print_help(void)
{
    printf("usage: zoodip bench CONFIG.json [--set KEY=VALUE]... [--evaluations N] [--quiet] [--log-format F]\n"
           "\n"
           "Runs training steps of a config without writing anything, and prints one line of JSON: evaluations per\n"
           "second, step time, memory. The first step is not counted.\n"
           "\n"
           "  --evaluations N   measure at least this many evaluations (default 30)\n"
           "  --quiet           only warnings and errors on stderr\n"
           "  --log-format F    plain (the default), or json: each line on stderr as an object of JSON\n"
           "\n"
           "example:\n"
           "  zoodip bench configs/toybox.json --set zo.n=2 --evaluations 300\n");
}

static struct error print_result(const struct subject *s, const struct training *t, int64_t steps, double seconds,
                                 double loading)
{
    const struct pipeline *p = s->pipeline;
    int64_t left, driver, slopes = s->config.zo.n * s->config.optim.batch_size; // in both ways (zo.derivative)
    TRY(device_memory_left(p->device, &left, &driver));
    cJSON *line = cJSON_CreateObject();
    if (!line)
        return error_memory("the result");
    cJSON_AddStringToObject(line, "device", device_name(p->device));
    cJSON_AddNumberToObject(line, "ranks", comm_size(p->comm));
    cJSON_AddNumberToObject(line, "bits", p->most_bits);
    cJSON_AddNumberToObject(line, "resolution", (double)s->resolution);
    cJSON_AddStringToObject(line, "derivative", derivative_name(s->config.zo.derivative));
    if (s->config.zo.derivative == DERIVATIVE_TANGENT)
        cJSON_AddNumberToObject(line, "tangent_bits", device_tangents(p->device));
    cJSON_AddNumberToObject(line, "lanes", (double)t->lanes);
    cJSON_AddNumberToObject(line, "steps", (double)steps);
    cJSON_AddNumberToObject(line, "evaluations", (double)(steps * t->lanes));
    cJSON_AddNumberToObject(line, "seconds", seconds);
    cJSON_AddNumberToObject(line, "step_seconds", seconds / (double)steps);
    cJSON_AddNumberToObject(line, "evaluations_per_second", (double)(steps * t->lanes) / seconds);
    cJSON_AddNumberToObject(line, "slopes_per_second", (double)(steps * slopes) / seconds);
    cJSON_AddNumberToObject(line, "loading_seconds", loading);
    cJSON_AddNumberToObject(line, "peak_bytes", (double)memory_peak());
    cJSON_AddNumberToObject(line, "device_bytes", (double)device_memory(p->device).most);
    cJSON_AddNumberToObject(line, "driver_bytes", (double)driver); // 0 on a CPU
    cJSON_AddNumberToObject(line, "weights_bytes",
                            (double)(p->text.weights.memory_bytes + p->unet.weights.memory_bytes));
    cJSON_AddNumberToObject(line, "arena_bytes", (double)training_arena(t));
    char *text = cJSON_PrintUnformatted(line);
    if (text)
        printf("%s\n", text);
    cJSON_free(text);
    cJSON_Delete(line);
    return text ? ok() : error_memory("the result");
}

static struct error measure(struct subject *s, int64_t evaluations)
{
    struct pipeline *p = s->pipeline;
    double began = clock_seconds();
    TRY(subject_encode(s));
    pipeline_log_loading(p);
    TRY(pipeline_load(p));
    TRY(subject_start(s));
    if (comm_rank(p->comm) == 0)
        subject_log_choices(s);
    const struct training_parts parts = subject_parts(s);
    struct training t;
    TRY(training_new(&t, &parts, false));
    double loading = clock_seconds() - began;
    int64_t steps = (evaluations + t.lanes - 1) / t.lanes;
    struct error e = training_step(&t);
    TRY(comm_barrier(p->comm));
    struct progress progress;
    progress_phase(&progress, "measuring steps", steps, "");
    began = clock_seconds();
    for (int64_t i = 0; i < steps && e.code == ERROR_NONE; i++) {
        e = training_step(&t);
        progress_step(&progress, i + 1, "");
    }
    double seconds = clock_seconds() - began;
    progress_end(&progress);
    if (e.code == ERROR_NONE && comm_rank(p->comm) == 0)
        e = print_result(s, &t, steps, seconds, loading);
    training_free(&t);
    return comm_agree(p->comm, e);
}

static struct error bench(const char *config, const struct text_list *sets, int64_t evaluations,
                          const struct host *host)
{
    struct subject s;
    struct pipeline p;
    struct memory_plan plan;
    struct comm *comm = host->comm;
    if (!config)
        return error_input("bench needs a CONFIG.json; see zoodip bench --help");
    TRY(subject_open(&s, &p, config, sets, comm, host->devices, START_NEW));
    if (comm_rank(comm) == 0 && device_note(p.device)[0])
        log_line("%s", device_note(p.device));
    struct error e = memory_plan_check(&plan, &s, PHASE_TRAIN); // it generates no pictures
    if (e.code == ERROR_NONE)
        e = measure(&s, evaluations);
    subject_close(&s);
    return e;
}

static struct error run(int argc, char **argv, const struct host *host)
{
    const char *config = NULL;
    struct text_list sets = {0};
    int64_t evaluations = 30;
    const struct option table[] = {{.name = "set", .many = &sets},
                                   {.name = "evaluations", .integer = &evaluations, .low = 1, .high = 1 << 30}};
    struct error e = options_read(argc, argv, table, sizeof table / sizeof *table, &config, 1);
    if (e.code == ERROR_NONE)
        e = bench(config, &sets, evaluations, host);
    memory_free(sets.items);
    return e;
}

const struct command command_bench = {"bench", "measure evaluations per second, step time and memory", print_help, run,
                                      false};
