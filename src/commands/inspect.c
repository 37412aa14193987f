#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "commands/commands.h"
#include "commands/inspect_jobs.h"
#include "commands/options.h"
#include "files/config.h"
#include "files/file.h"
#include "files/json.h"
#include "files/origin.h"
#include "files/safetensors.h"
#include "model/model_folder.h"
#include "pipeline/derivative.h"
#include "pipeline/memory_plan.h"
#include "pipeline/outlook.h"
#include "report/gain.h"
#include "report/metrics.h"

static void print_help(void)
{
    printf(
        "usage: zoodip inspect PATH [--set KEY=VALUE]... [--job N|NAME]... [--quiet] [--log-format F]\n"
        "\n"
        "Shows what PATH holds:\n"
        "  a model folder       its parts, their shapes, number types, parameters and bytes, and what is quantized\n"
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
        "  --quiet              only warnings and errors on stderr; for a config, no table of its memory plan\n"
        "  --log-format F       plain (the default), or json: each line on stderr as an object of JSON, and no table\n"
        "\n"
        "examples:\n"
        "  zoodip inspect dataset/toybox/model\n"
        "  zoodip inspect configs/toybox.json --set zo.n=4\n"
        "  zoodip inspect results/toybox/learned_embeds.safetensors\n"
        "  zoodip inspect configs/queues/toybox.json --job ball1\n");
}

/* Text from a file, without control characters that would drive the reader's terminal. */
static void print_text(const char *text)
{
    for (; *text; text++)
        putchar((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text);
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
        print_text(entry->name);
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
    print_text(path);
    printf(": %s, %lld tensors, %lld numbers, %lld bytes\n", checkpoint ? "a checkpoint" : "safetensors",
           (long long)file.entry_count, (long long)numbers, (long long)bytes);
    for (int64_t i = 0; i < file.metadata_count; i++) {
        printf("  ");
        print_text(file.metadata[2 * i]);
        printf(" = ");
        print_text(file.metadata[2 * i + 1]);
        printf("\n");
    }
    if (checkpoint)
        printf("  zo.derivative = %s\n", derivative_name(recipe_derivative(safetensors_metadata(&file, "recipe"))));
    print_entries(&file, numbers <= 1000000); /* a few numbers: reading them all takes no time */
    safetensors_close(&file);
    return ok();
}

/* -------------------------------------------------------------------------------- model folders */

struct part {
    const char *name;
    const char *keys[8]; /* the keys of its config.json that give its shape */
};

static const struct part parts[] = {
    {"text_encoder",
     {"hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "vocab_size",
      "hidden_act"}},
    {"unet",
     {"block_out_channels", "layers_per_block", "attention_head_dim", "cross_attention_dim", "in_channels",
      "sample_size"}},
    {"vae", {"block_out_channels", "layers_per_block", "latent_channels", "scaling_factor", "sample_size"}},
    {"scheduler", {"_class_name", "num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type"}},
};

static struct error print_config_keys(const char *folder, const struct part *part)
{
    char name[64], path[PATH_SIZE];
    bool scheduler = strcmp(part->name, "scheduler") == 0;
    snprintf(name, sizeof name, "%s/%s", part->name, scheduler ? "scheduler_config.json" : "config.json");
    struct json json;
    TRY(path_join(path, folder, name));
    TRY(json_open(&json, path));
    for (int i = 0; i < 8 && part->keys[i]; i++) {
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(json.root, part->keys[i]);
        char *text = value ? cJSON_PrintUnformatted(value) : NULL;
        if (text) {
            printf("    %s ", part->keys[i]);
            print_text(text);
            printf("\n");
        }
        cJSON_free(text);
    }
    json_close(&json);
    return ok();
}

/* How many numbers a tensor of 4-bit codes stands for: it has as many rows as its scales. */
static int64_t packed_count(const struct safetensors *file, const struct entry *codes)
{
    char name[512];
    snprintf(name, sizeof name, "%.*s._scale", (int)(strlen(codes->name) - strlen("._data._data")), codes->name);
    const struct entry *scale = safetensors_find(file, name);
    if (!scale || scale->dimensions < 1 || codes->dimensions < 1 || codes->count == 0)
        return 2 * codes->count;
    return scale->shape[0] * (codes->count / codes->shape[0]);
}

/* Numbers, bytes and types of a part's weights; scales and shifts of quantized layers count as bytes, not as
 * parameters. */
static struct error print_weights(const char *folder, const char *part)
{
    char path[PATH_SIZE];
    struct safetensors file;
    TRY(model_folder_weights(path, folder, part));
    TRY(safetensors_open(&file, path));
    int64_t parameters = 0, bytes = 0, quantized = 0, packed4 = 0, types[DTYPE_COUNT] = {0};
    for (int64_t i = 0; i < file.entry_count; i++) {
        const struct entry *entry = &file.entries[i];
        bytes += entry_bytes(entry);
        if (text_ends_with(entry->name, "_scale") || text_ends_with(entry->name, "_shift"))
            continue;
        bool packed = text_ends_with(entry->name, ".weight._data._data");
        parameters += packed ? packed_count(&file, entry) : entry->count;
        types[entry->type] += entry->count;
        quantized += packed || text_ends_with(entry->name, ".weight._data");
        packed4 += packed;
    }
    printf("    %lld parameters, %.1f MB (", (long long)parameters, (double)bytes / 1e6);
    const char *comma = "";
    for (int type = 0; type < DTYPE_COUNT; type++)
        if (types[type]) {
            printf("%s%s", comma, dtype_name((enum dtype)type));
            comma = ", ";
        }
    printf("), ");
    if (quantized)
        printf("%lld layers quantized to %s\n", (long long)quantized, packed4 ? "4 bits" : "int8");
    else
        printf("not quantized\n");
    safetensors_close(&file);
    return ok();
}

static struct error inspect_model(const char *folder)
{
    print_text(folder);
    printf(": a model folder\n");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        printf("\n  %s\n", parts[i].name);
        TRY(print_config_keys(folder, &parts[i]));
        if (strcmp(parts[i].name, "scheduler") != 0)
            TRY(print_weights(folder, parts[i].name));
    }
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
        print_text(lines->ended);
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
        print_text(strcmp(inside, ".") == 0 ? "" : inside);
        printf("%s", strcmp(inside, ".") == 0 ? "" : "/");
        print_text(names[i]);
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
    print_text(folder);
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

static struct error inspect_folder(const char *path)
{
    char inside[PATH_SIZE];
    enum path_kind kind;
    TRY(path_join(inside, path, "model_index.json"));
    TRY(path_look(inside, &kind));
    if (kind == PATH_FILE)
        return inspect_model(path);
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

static struct error inspect_path(const char *path, const struct text_list *sets, const struct text_list *which,
                                 struct comm *comm)
{
    enum path_kind kind;
    TRY(path_look(path, &kind));
    if (kind != PATH_FOLDER && text_ends_with(path, ".json") && !text_ends_with(path, ".index.json"))
        return inspect_json(path, sets, which, comm);
    if (which->count)
        return error_input("--job: %s: is no jobs file", path);
    return kind == PATH_FOLDER ? inspect_folder(path) : inspect_safetensors(path);
}

static struct error run(int argc, char **argv, const struct host *host)
{
    const char *path = NULL;
    struct text_list sets = {0}, which = {0};
    const struct option table[] = {{.name = "set", .many = &sets}, {.name = "job", .many = &which}};
    struct error e = options_read(argc, argv, table, sizeof table / sizeof *table, &path, 1);
    if (e.code == ERROR_NONE && !path)
        e = error_input("inspect: expected one PATH; see zoodip inspect --help");
    if (e.code == ERROR_NONE && comm_rank(host->comm) == 0)
        e = inspect_path(path, &sets, &which, host->comm);
    memory_free(sets.items);
    memory_free(which.items);
    return comm_agree(host->comm, e);
}

const struct command command_inspect = {"inspect", "show what a model, file, checkpoint, config or result holds",
                                        print_help, run, false};
