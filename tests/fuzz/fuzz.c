/* libFuzzer's targets: all readers of files from outside. The program is built once, by clang, and the name that it is
 * called by chooses the reader: `build-fuzz/fuzz/png CORPUS`. tests/fuzz/run.sh runs them all.
 *
 * An input becomes the file, or the files, that the reader opens. It must end in success or in one clear line: a crash,
 * a leak, a sanitizer's report, ten seconds or 2 GB end the run, and the input is kept. */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/log.h"
#include "files/safetensors_write.h"
#include "helper.h"
#include "model/embedding.h"
#include "model/model_folder.h"
#include "model/model_source.h"
#include "model/noise_schedule.h"
#include "model/sampler.h"
#include "model/text_encoder.h"
#include "model/unet_config.h"
#include "model/vae.h"
#include "queue/jobs.h"
#include "queue/overview.h"
#include "queue/overview_show.h"
#include "readers.h"
#include "report/metrics.h"
#include "text/captions.h"
#include "text/characters.h"
#include "text/weighted_prompt.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_FILES = 4 };

struct target {
    const char *name;
    const char *files[MOST_FILES]; /* an input for several is cut at its zero bytes */
    bool whole_folder;             /* the reader opens the folder, not the first file */
    struct error (*read)(const char *path);
    void (*mend)(uint8_t *data, size_t size); /* makes checksums right, so that damage gets behind them */
};

static char folder[PATH_SIZE];

/* -------------------------------------------------------------------------------- readers that only fuzzing needs */

static struct error read_embedding(const char *path)
{
    struct embedding word;
    TRY(embedding_read(&word, path));
    embedding_free(&word);
    return ok();
}

static struct error read_caption(const char *path)
{
    char file[PATH_SIZE];
    snprintf(file, sizeof file, "%s", path);
    struct captions captions;
    struct text_few more;
    TRY(captions_beside(&captions, &(char *){file}, 1, "m\xc3\xbcg", &more));
    captions_free(&captions);
    return ok();
}

/* A model in one file: its settings, then every byte of its parts. */
static struct error read_single_file(const char *path)
{
    struct text_config text;
    struct unet_config unet;
    struct vae_config vae;
    struct noise_schedule schedule;
    TRY(model_check(path));
    TRY(text_config_read(&text, path));
    TRY(unet_config_read(&unet, path, PREDICTION_AS_MODEL));
    TRY(vae_config_read(&vae, path));
    TRY(noise_schedule_read(&schedule, path, PREDICTION_V));
    noise_schedule_free(&schedule);
    for (int i = 0; i < MODEL_PARTS; i++) {
        struct safetensors file;
        TRY(model_part_open(&file, path, model_parts[i]));
        TRY(use_tensors(&file));
    }
    return ok();
}

/* A schedule and what it says to samplers, each of which then takes its steps. */
static struct error read_schedule(const char *model)
{
    static const char *const names[] = {"pndm",         "ddim",         "euler", "euler_a",
                                        "dpm++_karras", "dpm++_2m_sde", "unipc", "lcm"};
    enum { STEPS = 5 };
    struct noise_schedule schedule;
    TRY(noise_schedule_read(&schedule, model, PREDICTION_AS_MODEL));
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        const struct sampler_type *type = sampler_find(names[k]);
        struct sampler s;
        if (sampler_check(&schedule, type).code != ERROR_NONE ||
            sampler_new(&s, &schedule, type, STEPS, 1).code != ERROR_NONE)
            continue;
        float sample = 1, input;
        for (int64_t i = 0; i < s.calls; i++) {
            sampler_input(&s, i, &sample, &input);
            sampler_step(&s, i, &input, &sample);
        }
        sampler_free(&s);
    }
    noise_schedule_free(&schedule);
    return ok();
}

static struct error read_metrics(const char *path)
{
    struct metric_table table;
    TRY(metrics_read(&table, path));
    metric_table_free(&table);
    struct metrics *metrics; // a resumed run cuts the file off after its step and appends to it
    TRY(metrics_open(&metrics, path, 3));
    metrics_close(metrics);
    return ok();
}

static struct error read_jobs(const char *path)
{
    char *text;
    int64_t size;
    TRY(file_read(path, 1 << 20, &text, &size));
    const struct jobs_source source = {.kind = JOBS_FILE, .name = path, .sets = &(struct text_list){0}};
    struct jobs jobs;
    struct error e = jobs_read(&jobs, &source, text, size);
    jobs_free(&jobs);
    memory_free(text);
    return e;
}

/* What zoodip status makes of a folder. */
static struct error read_overview(const char *path)
{
    struct overview overview;
    FILE *nowhere = fopen("/dev/null", "w");
    const struct overview_view view = {.out = nowhere, .folder = path, .now = 1.8e9, .rows = 24, .columns = 80};
    struct error e = nowhere ? overview_read(&overview, path, view.now) : error_errno("write", "/dev/null");
    if (e.code == ERROR_NONE) {
        overview_print(&overview, &view);
        e = overview_print_json(&overview, &view);
    }
    if (nowhere) {
        overview_free(&overview);
        fclose(nowhere);
    }
    return e;
}

/* A prompt from a command line, which is no file: everything that reads it is given valid UTF-8. */
static struct error read_prompt(const char *path)
{
    char *text, *composed;
    int64_t size;
    TRY(file_read(path, 1 << 20, &text, &size));
    struct error e = characters_compose(text, &composed);
    if (e.code == ERROR_NONE) {
        const char *part;
        struct weighted_prompt prompt;
        if (weighted_prompt_find(text, &part) > (int64_t)strlen(text))
            e = error_failed("a part is longer than its text");
        e = error_first(e, weighted_prompt_read(&prompt, text, false));
        weighted_prompt_free(&prompt);
        memory_free(composed);
    }
    memory_free(text);
    return error_in(e, "%s", path);
}

/* A checkpoint whose checksum is wrong is read once more with the right one, which the error names. */
static struct error read_mended_checkpoint(const char *path)
{
    struct error e = read_checkpoint(path);
    char found[9], expected[9], *data;
    const char *said = strstr(e.text, "the CRC-32 of its contents is ");
    if (!said || sscanf(said, "the CRC-32 of its contents is %8[0-9a-f], expected %8[0-9a-f]", found, expected) != 2)
        return e;
    int64_t size;
    TRY(file_read(path, 1 << 20, &data, &size));
    char *sum = memmem(data, (size_t)size, expected, strlen(expected));
    if (sum && strlen(expected) == 8) {
        memcpy(sum, found, 8);
        e = file_write_whole(path, data, size);
        if (e.code == ERROR_NONE)
            e = read_checkpoint(path);
    }
    memory_free(data);
    return e;
}

static uint32_t big_endian(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Each chunk of a PNG: length, type, data, and the CRC-32 of the last two. */
static void mend_png(uint8_t *data, size_t size)
{
    for (size_t at = 8; at + 12 <= size;) {
        size_t length = big_endian(data + at);
        if (length > size - at - 12)
            break;
        uint32_t crc = (uint32_t)crc32_z(0, data + at + 4, length + 4);
        for (int i = 0; i < 4; i++)
            data[at + 8 + length + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
        at += 12 + length;
    }
}

/* -------------------------------------------------------------------------------- the targets */

static const struct target targets[] = {
    {"safetensors", {"x.safetensors"}, false, read_safetensors, NULL},
    {"index", {"x.safetensors.index.json"}, false, read_safetensors, NULL},
    {"settings", {"config.json"}, false, read_json, NULL},
    {"config", {"recipe.json"}, false, read_config, NULL},
    {"jobs", {"jobs.json"}, false, read_jobs, NULL},
    {"vocabulary",
     {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"},
     true,
     read_tokenizer,
     NULL},
    {"tokenizer", {"tokenizer.json", "tokenizer_config.json"}, true, read_tokenizer, NULL},
    {"png", {"x.png"}, false, read_picture, mend_png},
    {"jpeg", {"x.jpg"}, false, read_picture, NULL},
    {"webp", {"x.webp"}, false, read_picture, NULL},
    {"avif", {"x.avif"}, false, read_picture, NULL},
    {"heic", {"x.heic"}, false, read_picture, NULL},
    {"checkpoint", {"step-7.safetensors"}, false, read_mended_checkpoint, NULL},
    {"embedding", {"word.safetensors"}, false, read_embedding, NULL},
    {"caption", {"x.txt"}, false, read_caption, NULL},
    {"single_file", {"x.safetensors"}, false, read_single_file, NULL},
    {"schedule", {"scheduler/scheduler_config.json"}, true, read_schedule, NULL},
    {"metrics", {"metrics.jsonl"}, true, read_metrics, NULL},
    {"summary", {"summary.json"}, true, read_overview, NULL},
    {"prompt", {"prompt.txt"}, false, read_prompt, NULL},
    {"status", {"status.json", "job.json"}, true, read_overview, NULL},
};

static const struct target *target;

static void stop(const char *why, const char *text)
{
    fprintf(stderr, "fuzz: %s: %s\n", why, text);
    abort();
}

static void check(struct error e)
{
    if (e.code != ERROR_NONE)
        stop("cannot prepare", e.text);
}

/* The shards that index files name. */
static void write_shards(void)
{
    static const float numbers[6];
    for (int i = 0; i < 2; i++) {
        char path[PATH_SIZE];
        check(path_join(path, folder, i ? "x-2.safetensors" : "x-1.safetensors"));
        const struct entry entries[] = {helper_entry(i ? "c" : "a.weight", F32, 2, 3, numbers),
                                        helper_entry(i ? "d.bias" : "b", F16, 1, 6, numbers)};
        check(safetensors_write(path, entries, 2, NULL, 0));
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    const char *temporary = getenv("TMPDIR");
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
        if (strcmp(path_name((*argv)[0]), targets[i].name) == 0)
            target = &targets[i];
    if (!target)
        stop("no such target", (*argv)[0]);
    snprintf(folder, sizeof folder, "%s/fuzz-XXXXXX", temporary ? temporary : "/tmp");
    if (!mkdtemp(folder))
        stop("cannot make the folder", folder);
    log_set_quiet(true);
    char schedules[PATH_SIZE];
    check(path_join(schedules, folder, "scheduler"));
    check(folder_make(schedules));
    write_shards();
    return 0;
}

static void write_file(const char *name, const uint8_t *data, size_t size)
{
    char path[PATH_SIZE];
    check(path_join(path, folder, name));
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0)
        stop("cannot write", path);
}

/* Each file gets the bytes up to the next zero byte; the last one, and an only one, all the rest. */
static void write_files(const uint8_t *data, size_t size)
{
    for (int i = 0; i < MOST_FILES && target->files[i]; i++) {
        bool last = i + 1 == MOST_FILES || !target->files[i + 1];
        const uint8_t *zero = last || size == 0 ? NULL : memchr(data, 0, size);
        size_t length = zero ? (size_t)(zero - data) : size, used = zero ? length + 1 : length;
        write_file(target->files[i], data, length);
        data += used;
        size -= used;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = memory_alloc((int64_t)size, 1);
    if (!copy)
        stop("out of memory", target->name);
    if (size > 0)
        memcpy(copy, data, size);
    if (target->mend)
        target->mend(copy, size);
    write_files(copy, size);
    memory_free(copy);

    char path[PATH_SIZE];
    check(path_join(path, folder, target->files[0]));
    struct error e = target->read(target->whole_folder ? folder : path);
    if (e.code != ERROR_NONE && !strstr(e.text, folder))
        stop("an error that does not name the file", e.text);
    for (const char *c = e.text; *c; c++)
        if ((unsigned char)*c < ' ')
            stop("an error that is not one line", e.text);
    return 0;
}
