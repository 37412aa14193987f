#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "commands/commands.h"
#include "commands/inspect_jobs.h"
#include "commands/inspect_model.h"
#include "commands/options.h"
#include "files/config.h"
#include "files/file.h"
#include "files/json.h"
#include "files/origin.h"
#include "files/safetensors.h"
#include "pipeline/derivative.h"
#include "pipeline/memory_plan.h"
#include "pipeline/outlook.h"
#include "report/gain.h"
#include "report/metrics.h"

static void print_help(void)
{
    printf(
        "usage: zoodip inspect PATH [--set KEY=VALUE]... [--job N|NAME]... [--prediction P] [--quiet] [--log-format "
        "F]\n"
        "\n"
        "Shows what PATH holds:\n"
        "  a model folder       its parts, their shapes, number types, parameters and bytes, and what is quantized\n"
        "  a checkpoint file    the same of a Stable Diffusion 1.x or 2.x in a single .safetensors file\n"
        "  a safetensors file   metadata and tensors (a learned word, weights, latents)\n"
        "  a checkpoint         its step, its zo.derivative, what it was made from and on, norms of its tensors\n"
        "  a run's folder       its zo.derivative, steps, losses, time, what the word it kept gained, files\n"
        "  a config             every key with its effective value, the evaluations of steps, looks and pictures, a\n"
        "                       step's arena by differences and by tangents, and the GPU memory its run needs\n"
        "  a jobs file          each job's number, steps, name and pictures, or why it is wrong: keys, or photos\n"
        "                       that are missing; model and output.dir; last, how many are wrong\n"
        "\n"
        "The exit code is 0 for a jobs file that run takes, even if some of its jobs are wrong. Scripts see it in the\n"
        "last line, \"0 of 8 jobs are wrong\"; the second word of a wrong job's line is wrong.\n"
        "\n"
        "  --set KEY=VALUE      a config key, as for train\n"
        "  --job N|NAME         of a jobs file, this job only (may be given several times)\n"
        "  --prediction P       what a model predicts, epsilon or v (default: as it says)\n"
        "  --quiet              only warnings and errors on stderr; for a config, no table of its memory plan\n"
        "  --log-format F       plain (the default), or json: each line on stderr as an object of JSON, and no table\n"
        "\n"
        "examples:\n"
        "  zoodip inspect dataset/toybox/model\n"
        "  zoodip inspect configs/toybox.json --set zo.n=4\n"
        "  zoodip inspect results/toybox/learned_embeds.safetensors\n"
        "  zoodip inspect configs/queues/toybox.json --job ball1\n");
}

/* -------------------------------------------------------------------------------- safetensors */

static void show_shape(char out[128], const struct entry *entry)
{
    size_t used = (size_t)snprintf(out, 128, "[");
    for (int i = 0; i < entry->dimensions && used < 100; i++)
        used += (size_t)snprintf(out + used, 128 - used, "%s%lld", i ? ", " : "", (long long)entry->shape[i]);
    snprintf(out + used, 128 - used, "]");
}

static bool has_norm(enum dtype type)
{
    return type == F64 || type == F32 || type == F16 || type == BF16 || type == I8;
}

static double norm_of(const struct entry *entry)
{
    float values[1024];
    double sum = 0;
    for (int64_t at = 0; at < entry->count; at += 1024) {
        int64_t count = entry->count - at < 1024 ? entry->count - at : 1024;
        dtype_to_float(values, (const char *)entry->data + at * dtype_size(entry->type), entry->type, count);
        for (int64_t i = 0; i < count; i++)
            sum += (double)values[i] * values[i];
    }
    return sqrt(sum);
}

static void print_entries(const struct safetensors *file, bool norms)
{
    int width = 6;
    for (int64_t i = 0; i < file->entry_count; i++)
        if ((int)strnlen(file->entries[i].name, 100) > width)
            width = (int)strnlen(file->entries[i].name, 100);
    printf("\n  %-*s  type  %-20s%s\n", width, "tensor", "shape", norms ? "  norm" : "");
    for (int64_t i = 0; i < file->entry_count; i++) {
        const struct entry *entry = &file->entries[i];
        char shape[128];
        show_shape(shape, entry);
        printf("  ");
        inspect_text(entry->name);
        printf("%*s  %-4s  %-20s", width - (int)strnlen(entry->name, (size_t)width), "", dtype_name(entry->type),
               shape);
        if (norms && has_norm(entry->type))
            printf("  %.6g", norm_of(entry));
        printf("\n");
    }
}

static struct error inspect_safetensors(const char *path)
{
    struct safetensors file;
    TRY(safetensors_open(&file, path));
    int64_t numbers = 0, bytes = 0;
    for (int64_t i = 0; i < file.entry_count; i++) {
        numbers += file.entries[i].count;
        bytes += entry_bytes(&file.entries[i]);
    }
    const char *step = safetensors_metadata(&file, "step");
    bool checkpoint = step && safetensors_metadata(&file, "recipe") && safetensors_metadata(&file, "crc32");
    inspect_text(path);
    printf(": %s, %lld tensors, %lld numbers, %lld bytes\n", checkpoint ? "a checkpoint" : "safetensors",
           (long long)file.entry_count, (long long)numbers, (long long)bytes);
    for (int64_t i = 0; i < file.metadata_count; i++) {
        printf("  ");
        inspect_text(file.metadata[2 * i]);
        printf(" = ");
        inspect_text(file.metadata[2 * i + 1]);
        printf("\n");
    }
    if (checkpoint)
        printf("  zo.derivative = %s\n", derivative_name(recipe_derivative(safetensors_metadata(&file, "recipe"))));
    print_entries(&file, numbers <= 1000000); /* a few numbers: reading them all takes no time */
    safetensors_close(&file);
    return ok();
}

/* -------------------------------------------------------------------------------- a run's folder */

static void print_looks(const struct metric_table *lines)
{
    const struct gain gain = gain_of(lines);
    char text[GAIN_TEXT];
    if (isfinite(gain.start))
        printf("  validation loss   %.5f at the start\n", gain.start);
    if (gain.looks > 0)
        printf("  validation loss   %.5f at step %lld\n", gain.last, (long long)gain.last_step);
    gain_text(text, &gain);
    if (text[0])
        printf("  the word is of    %s\n", text);
}

static void print_losses(const struct metric_table *lines)
{
    double sum = 0, time = 0;
    int64_t used = 0;
    for (int64_t i = 0; i < lines->count; i++) {
        if (isfinite(lines->seconds[i]))
            time += lines->seconds[i];
        if (i >= lines->count - 100 && isfinite(lines->losses[i])) {
            sum += lines->losses[i];
            used++;
        }
    }
    long long steps = lines->count ? (long long)lines->steps[lines->count - 1] : 0;
    printf("  steps             %lld, in %.1f s\n", steps, time);
    if (lines->ended) {
        printf("  ended by          ");
        inspect_text(lines->ended);
        printf("\n");
    }
    if (used)
        printf("  loss              %.5f (mean of the last %lld)\n", sum / (double)used, (long long)used);
    print_looks(lines);
}

static struct error print_files(const char *folder, const char *inside)
{
    char path[PATH_SIZE], **names;
    int64_t count;
    TRY(path_join(path, folder, inside));
    if (!folder_exists(path))
        return ok();
    TRY(folder_list(path, &names, &count));
    for (int64_t i = 0; i < count; i++) {
        printf("  ");
        inspect_text(strcmp(inside, ".") == 0 ? "" : inside);
        printf("%s", strcmp(inside, ".") == 0 ? "" : "/");
        inspect_text(names[i]);
        printf("\n");
    }
    folder_list_free(names, count);
    return ok();
}

/* If a checkpoint says it. */
static void print_derivative(const char *folder)
{
    enum derivative derivative;
    if (derivative_of_run(folder, &derivative).code == ERROR_NONE && derivative != DERIVATIVE_AUTO)
        printf("  zo.derivative     %s\n", derivative_name(derivative));
}

static struct error inspect_run(const char *folder)
{
    struct metric_table lines;
    TRY(metrics_read(&lines, folder));
    inspect_text(folder);
    printf(": a run\n");
    print_losses(&lines);
    metric_table_free(&lines);
    print_derivative(folder);
    printf("\n");
    TRY(print_files(folder, "."));
    return print_files(folder, "checkpoints");
}

/* -------------------------------------------------------------------------------- configs */

/* The plan as numbers, beside the config's keys. */
static void add_plan(cJSON *root, const struct config_plan *plan)
{
    cJSON *all = cJSON_AddObjectToObject(root, "memory_plan");
    cJSON_AddStringToObject(all, "derivative", derivative_name(plan->takes_there));
    cJSON_AddNumberToObject(all, "bytes", (double)plan->on.most);
    for (int i = 0; i < PHASES; i++) {
        const struct memory_use *u = &plan->on.phases[i];
        cJSON *phase = cJSON_AddObjectToObject(all, memory_plan_phase(i));
        cJSON_AddNumberToObject(phase, "weights", (double)u->peak[MEMORY_WEIGHTS]);
        cJSON_AddNumberToObject(phase, "activations", (double)u->peak[MEMORY_ACTIVATIONS]);
        cJSON_AddNumberToObject(phase, "state", (double)u->peak[MEMORY_STATE]);
        cJSON_AddNumberToObject(phase, "scratch", (double)u->peak[MEMORY_SCRATCH]);
        cJSON_AddNumberToObject(phase, "bytes", (double)u->most);
    }
}

/* What a step takes, as numbers and for people. */
static void add_step(cJSON *root, const struct config_plan *plan)
{
    cJSON *step = cJSON_AddObjectToObject(root, "step");
    cJSON_AddStringToObject(step, "derivative", derivative_name(plan->takes));
    cJSON_AddNumberToObject(step, "lr", plan->lr);
    cJSON_AddNumberToObject(step, "vectors", (double)plan->vectors);
    cJSON *arenas = cJSON_AddObjectToObject(step, "arena_bytes");
    cJSON_AddNumberToObject(arenas, "difference", (double)plan->difference);
    if (plan->tangent)
        cJSON_AddNumberToObject(arenas, "tangent", (double)plan->tangent);
}

static void print_step(const struct config_plan *plan)
{
    char tangent[64] = "";
    if (plan->tangent)
        snprintf(tangent, sizeof tangent, ", %.1f MB by tangents", (double)plan->tangent / 1e6);
    log_line("a step on the CPU: zo.derivative %s; its arena is %.1f MB by differences%s, on one rank",
             derivative_name(plan->takes), (double)plan->difference / 1e6, tangent);
    if (plan->rate_was_auto)
        log_line("optim.lr auto is %g", plan->lr);
}

/* What the whole run does. */
static void add_evaluations(cJSON *root, const struct config *c)
{
    const struct run_evaluations r = outlook_evaluations(c);
    double steps = (double)c->optim.steps * (double)r.lanes, looks = (double)r.looks * (double)r.draws;
    double samples = (double)r.samples * (double)r.each, pictures = (double)r.pictures * (double)r.each;
    cJSON *all = cJSON_AddObjectToObject(root, "evaluations");
    cJSON_AddNumberToObject(all, "steps", steps);
    cJSON_AddNumberToObject(all, "looks", looks);
    cJSON_AddNumberToObject(all, "samples", samples);
    cJSON_AddNumberToObject(all, "pictures", pictures);
    bool early = c->optim.patience > 0 || c->optim.minutes > 0;
    log_line("evaluations%s: %.0f of %lld steps, %.0f of %lld looks, %.0f of %lld pictures", early ? ", at most" : "",
             steps, (long long)c->optim.steps, looks, (long long)r.looks, samples + pictures,
             (long long)(r.samples + r.pictures));
}

/* What the config's run would need, of one GPU and of a step: added to the JSON, and as a table for people on stderr. A
 * config is shown even if its model or pictures are not available. */
static struct error find_plan(cJSON *root, const char *path, const struct text_list *sets, struct comm *comm)
{
    struct config_plan plan;
    if (comm_size(comm) > 1) { // only rank 0 gets here, and a plan needs all ranks
        log_line("no memory plan for several ranks: inspect the config without mpirun");
        return ok();
    }
    struct error e = memory_plan_config(&plan, path, sets, comm);
    if (e.code == ERROR_BAD_INPUT) {
        log_line("no memory plan: %s", e.text);
        return ok();
    }
    TRY(e);
    add_step(root, &plan);
    print_step(&plan);
    add_plan(root, &plan);
    if (!log_is_quiet() && !log_is_json()) {
        memory_plan_print(&plan.on, stderr);
        fprintf(stderr,
                "for one GPU that evaluates all lanes, with zo.derivative %s; the CUDA context, kernel code and NCCL's "
                "buffers are extra\n",
                derivative_name(plan.takes_there));
    }
    return ok();
}

static struct error inspect_config(const char *path, const struct text_list *sets, struct comm *comm)
{
    struct config config;
    TRY(config_read(&config, path, sets));
    char *text = config_json(&config);
    cJSON *root = text ? cJSON_Parse(text) : NULL;
    if (root)
        add_evaluations(root, &config);
    config_free(&config);
    memory_free(text);
    struct error e = root ? find_plan(root, path, sets, comm) : error_memory("the config");
    text = e.code == ERROR_NONE ? cJSON_Print(root) : NULL;
    if (text)
        printf("%s\n", text);
    else if (e.code == ERROR_NONE)
        e = error_memory("the config");
    cJSON_free(text);
    cJSON_Delete(root);
    return e;
}

static struct error inspect_folder(const char *path, enum prediction_choice prediction)
{
    char inside[PATH_SIZE];
    enum path_kind kind;
    TRY(path_join(inside, path, "model_index.json"));
    TRY(path_look(inside, &kind));
    if (kind == PATH_FILE)
        return inspect_model(path, prediction);
    TRY(path_join(inside, path, "metrics.jsonl"));
    TRY(path_look(inside, &kind));
    if (kind == PATH_FILE)
        return inspect_run(path);
    TRY(path_join(inside, path, "summary.json"));
    TRY(path_look(inside, &kind));
    if (kind == PATH_FILE)
        return error_input("%s: is a queue's folder: zoodip status %s shows it, and zoodip inspect %s/NAME one of its "
                           "jobs",
                           path, path, path);
    return error_input("%s: holds neither model_index.json (a model) nor metrics.jsonl (a run)", path);
}

static struct error inspect_json(const char *path, const struct text_list *sets, const struct text_list *which,
                                 struct comm *comm)
{
    bool jobs;
    TRY(inspect_jobs(path, sets, which, &jobs));
    if (jobs)
        return ok();
    return which->count ? error_input("--job: %s: is no jobs file", path) : inspect_config(path, sets, comm);
}

static struct error inspect_file(const char *path, enum prediction_choice prediction)
{
    char reason[INSPECT_REASON];
    if (inspect_is_checkpoint(path, reason))
        return inspect_model(path, prediction);
    TRY(inspect_safetensors(path));
    if (*reason) {
        printf("\nnot a model: ");
        inspect_text(reason);
        printf("\n");
    }
    return ok();
}

static struct error inspect_path(const char *path, const struct text_list *sets, const struct text_list *which,
                                 enum prediction_choice prediction, struct comm *comm)
{
    enum path_kind kind;
    TRY(path_look(path, &kind));
    if (kind != PATH_FOLDER && text_ends_with(path, ".json") && !text_ends_with(path, ".index.json"))
        return inspect_json(path, sets, which, comm);
    if (which->count)
        return error_input("--job: %s: is no jobs file", path);
    return kind == PATH_FOLDER ? inspect_folder(path, prediction) : inspect_file(path, prediction);
}

static struct error run(int argc, char **argv, const struct host *host)
{
    const char *path = NULL, *prediction = NULL;
    struct text_list sets = {0}, which = {0};
    const struct option table[] = {
        {.name = "set", .many = &sets}, {.name = "job", .many = &which}, {.name = "prediction", .text = &prediction}};
    struct error e = options_read(argc, argv, table, sizeof table / sizeof *table, &path, 1);
    if (e.code == ERROR_NONE && !path)
        e = error_input("inspect: expected one PATH; see zoodip inspect --help");
    if (e.code == ERROR_NONE)
        e = error_in(prediction_check(prediction), "--prediction");
    if (e.code == ERROR_NONE && comm_rank(host->comm) == 0)
        e = inspect_path(path, &sets, &which, prediction_named(prediction), host->comm);
    memory_free(sets.items);
    memory_free(which.items);
    return comm_agree(host->comm, e);
}

const struct command command_inspect = {"inspect", "show what a model, file, checkpoint, config or result holds",
                                        print_help, run, false};
