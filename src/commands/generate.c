#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/text.h"
#include "commands/commands.h"
#include "commands/options.h"
#include "files/file.h"
#include "pipeline/generation.h"
#include "pipeline/memory_plan.h"
#include "pipeline/model_label.h"
#include "pipeline/prompts.h"
#include "pipeline/start_latents.h"
#include "pipeline/words.h"
#include "report/parameters.h"
#include "text/tokenizer.h"

static void print_help(void)
{
    char samplers[SAMPLER_NAMES];
    sampler_names(samplers);
    printf(
        "usage: zoodip generate --model DIR|FILE --prompt TEXT --output FILE.png [OPTIONS]\n"
        "\n"
        "Draws pictures from a prompt, with words that were learned. Each says what it was drawn from, in a text that\n"
        "AUTOMATIC1111 reads (PNG Info).\n"
        "\n"
        "  --model DIR|FILE     a diffusers model folder, or a checkpoint in a single .safetensors file\n"
        "  --prediction NAME    what the model predicts, epsilon or v (default: as the model says)\n"
        "  --tokenizer DIR      another tokenizer than the model's own (for a checkpoint, that is CLIP's)\n"
        "  --embedding FILE     a learned word, for use in the prompt (may be given several times)\n"
        "  --embedding WORD=FILE  the same under another name: for two words that were both learned as sks\n"
        "  --prompt TEXT        what to draw\n"
        "  --negative TEXT      what not to draw (default: nothing)\n"
        "  --prompt-syntax NAME  plain (default): one text, of which 77 tokens count; a1111: AUTOMATIC1111's, with "
        "weights\n"
        "                       (word:1.3), (word), [word], chunks of 75 tokens, as many as it takes, and BREAK\n"
        "  --steps N            sampling steps (default 50)\n"
        "  --guidance X         classifier-free guidance; 1 or less: none (default 7.5)\n"
        "  --scheduler NAME     one of %s\n"
        "                       (default pndm; for a model with zero terminal SNR, from which pndm cannot begin, "
        "ddim,\n"
        "                       or euler if it predicts noise);\n"
        "                       also as AUTOMATIC1111 or diffusers call it, such as \"DPM++ 2M Karras\"\n"
        "  --seed N             seed of the random latents (default 0); of --count pictures the next has N + 1, and so "
        "on\n"
        "  --latents FILE       start latents instead: a safetensors file with `latents` F32 [1 or count, c, h, w]\n"
        "  --size WxH           pixels (default: the model's own size)\n"
        "  --count N            number of pictures (default 1); several are named FILE-0001.png, ... and all are\n"
        "                       written at the end\n"
        "  --output FILE.png    where to write\n"
        "  --bits N             8, 4, 16 or 32: quantizes text encoder and UNet first, as quant.bits of a run "
        "(default: as\n"
        "                       they are stored)\n"
        "  --device NAME        auto (default: a GPU if there is one), cpu or cuda\n"
        "  --quiet              only warnings and errors on stderr\n"
        "  --log-format F       plain (the default), or json: each line on stderr as an object of JSON\n"
        "\n"
        "examples:\n"
        "  zoodip generate --model dataset/toybox/model --prompt \"a photo of a toy on the beach\" --output toy.png\n"
        "  zoodip generate --model dataset/toybox/model --embedding results/toybox/learned_embeds.safetensors \\\n"
        "      --prompt \"a photo of a sks on the grass\" --count 4 --output sks.png\n"
        "  zoodip generate --model dataset/toybox/model --prompt-syntax a1111 --negative \"(blurry:1.2)\" \\\n"
        "      --prompt \"a photo of a (toy:1.3) on the [beach]\" --output toy.png\n"
        "  zoodip generate --model CHECKPOINT.safetensors --prompt \"a photo of a toy\" --output toy.png\n",
        samplers);
}

struct request {
    const char *model, *prompt, *negative, *syntax, *scheduler, *latents, *size, *output, *device, *prediction,
        *tokenizer;
    double guidance;
    int64_t steps, seed, count, bits;
    struct text_list embeddings;
};

struct session {
    const struct request *request;
    struct pipeline pipeline;
    struct tokenizer *tokenizer;
    struct words words;
    struct prompts prompts;
    struct start_latents start; /* from --latents; count 0: drawn */
    struct model_label label;
    char *word_hashes;
    struct generation generation;
};

static bool guided(const struct request *r)
{
    return r->guidance > 1;
}

static enum prompt_syntax syntax_of(const struct request *r)
{
    return strcmp(r->syntax, "a1111") == 0 ? SYNTAX_A1111 : SYNTAX_PLAIN;
}

/* -------------------------------------------------------------------------------- prompts */

static struct error encode_prompts(struct session *s)
{
    const struct request *r = s->request;
    struct generation *g = &s->generation;
    const struct prompt_source sources[] = {{"--negative", r->negative, true}, {"--prompt", r->prompt, false}};
    if (!guided(r) && *r->negative)
        log_warning("--negative: is not used, because --guidance is 1 or less");
    const int64_t first = guided(r) ? 0 : 1;
    TRY(prompts_read(&s->prompts, &s->words, sources + first, 2 - first, syntax_of(r), g->length));
    g->chunks = s->prompts.chunks;
    g->weights = s->prompts.weights;
    words_warn_unnamed(&s->words);
    return ok();
}

static struct error read_words(struct session *s)
{
    const struct tokenizer *base;
    TRY(pipeline_tokenizer(&s->pipeline, &base));
    TRY(tokenizer_derive(&s->tokenizer, base));
    s->generation.length = tokenizer_length(s->tokenizer, s->pipeline.text_config.positions);
    return words_read(&s->words, &s->request->embeddings, s->tokenizer, s->pipeline.text_config.width);
}

/* -------------------------------------------------------------------------------- sizes, latents */

static struct error read_size(struct session *s)
{
    int64_t factor = s->pipeline.vae.factor;
    long long width = s->pipeline.unet_config.sample_size * factor, height = width;
    char end;
    const char *size = s->request->size;
    if (size && (sscanf(size, "%lldx%lld%c", &width, &height, &end) != 2 || width < factor || height < factor ||
                 width > 8192 || height > 8192))
        return error_input("--size: \"%s\": expected WIDTHxHEIGHT in pixels, such as 512x512", size);
    if (width % factor || height % factor)
        return error_input("--size: %lldx%lld: expected multiples of %lld", width, height, (long long)factor);
    s->generation.width = width / factor;
    s->generation.height = height / factor;
    return ok();
}

static struct error read_latents(struct session *s)
{
    const char *path = s->request->latents;
    const struct start_latents *l = &s->start;
    struct generation *g = &s->generation;
    TRY(start_latents_read(&s->start, path, s->pipeline.vae.latent_channels));
    if (l->count != 1 && l->count != s->request->count)
        return error_input("%s: tensor latents: %lld pictures, expected 1 or --count %lld", path, (long long)l->count,
                           (long long)s->request->count);
    if (s->request->size && (l->height != g->height || l->width != g->width))
        return error_input("%s: tensor latents: its size is not that of --size", path);
    g->height = l->height;
    g->width = l->width;
    return ok();
}

/* -------------------------------------------------------------------------------- output */

/* FILE.png, or FILE-0001.png for several. */
static struct error output_path(char path[PATH_SIZE], const struct request *r, int64_t i)
{
    size_t length = strlen(r->output);
    int written = r->count == 1
                      ? snprintf(path, PATH_SIZE, "%s", r->output)
                      : snprintf(path, PATH_SIZE, "%.*s-%04lld.png", (int)(length - 4), r->output, (long long)i + 1);
    return written < PATH_SIZE ? ok() : error_input("--output: the path is too long");
}

static struct error make_folder_of(const char *output)
{
    char folder[PATH_SIZE];
    const char *end = strrchr(output, '/');
    if (!end || end == output)
        return ok();
    if (end - output >= (int)sizeof folder)
        return error_input("--output: the path is too long");
    snprintf(folder, sizeof folder, "%.*s", (int)(end - output), output);
    return error_in(folder_make(folder), "--output");
}

/* Pictures are written at the very end, so check early that they can be. */
static struct error check_output(const struct request *r)
{
    char path[PATH_SIZE];
    TRY(make_folder_of(r->output));
    for (int64_t i = 0; i < r->count; i++) {
        TRY(output_path(path, r, i));
        if (folder_exists(path))
            return error_input("--output: %s: is a folder, expected a file", path);
    }
    struct whole_file trial;
    TRY(error_in(whole_file_begin(&trial, path), "--output"));
    return whole_file_end(&trial, false);
}

/* -------------------------------------------------------------------------------- pictures */

static struct error begin_picture(void *arg, int64_t i, int32_t *ids, float *latents)
{
    struct session *s = arg;
    const struct request *r = s->request;
    const struct generation *g = &s->generation;
    const struct prompts *p = &s->prompts;
    int64_t numbers = g->height * g->width * s->pipeline.vae.latent_channels;
    memcpy(ids, p->ids, (size_t)(p->lanes * p->chunks * p->length) * sizeof *ids);
    if (s->start.count)
        memcpy(latents, s->start.values + (s->start.count > 1 ? i : 0) * numbers, (size_t)numbers * sizeof *latents);
    else // so that any of them can be drawn alone
        rng_normals((uint64_t)r->seed + (uint64_t)i, 0, STREAM_SAMPLE, 0, numbers, latents);
    return ok();
}

/* What picture i says about itself. */
static struct error describe(const struct session *s, int64_t i, char **text)
{
    const struct request *r = s->request;
    const struct generation *g = &s->generation;
    const struct parameters p = {
        .prompt = r->prompt,
        .negative = guided(r) ? r->negative : "",
        .sampler = sampler_label(g->sampler),
        .schedule = sampler_schedule_label(&s->pipeline.schedule, g->sampler),
        .steps = g->steps,
        .seed = (int64_t)((uint64_t)r->seed + (uint64_t)i),
        .latents = r->latents ? path_name(r->latents) : NULL,
        .width = g->width * s->pipeline.vae.factor,
        .height = g->height * s->pipeline.vae.factor,
        .guidance = g->guidance,
        .bits = (int)r->bits,
        .model = s->label.name,
        .model_hash = s->label.hash,
        .word_hashes = s->word_hashes,
        .plain = syntax_of(r) == SYNTAX_PLAIN,
        .padded = s->prompts.padded,
    };
    return parameters_text(&p, text);
}

static struct error write_picture(void *arg, int64_t i, struct picture *picture)
{
    const struct session *s = arg;
    char path[PATH_SIZE], *text = NULL;
    struct error e = output_path(path, s->request, i);
    if (e.code == ERROR_NONE)
        e = describe(s, i, &text);
    if (e.code == ERROR_NONE)
        e = picture_write(picture, path, text);
    memory_free(text);
    picture_free(picture);
    if (e.code == ERROR_NONE)
        log_line("wrote %s", path);
    return e;
}

static struct error spoiled_picture(void *arg, int64_t i)
{
    const struct session *s = arg;
    char path[PATH_SIZE];
    TRY(output_path(path, s->request, i));
    return error_failed(
        "%.300s: is not written: the picture is not a number: its latents or pixels hold NaN or infinity", path);
}

static struct error generate_all(struct session *s, const struct pipeline_choice *choice)
{
    struct generation *g = &s->generation;
    int64_t planned;
    TRY(memory_plan_generation(g, choice, &planned));
    TRY(pipeline_load(&s->pipeline));
    struct error e = generation_run(g, s->request->count);
    if (e.code == ERROR_NONE && planned > 0)
        log_line("GPU memory: %lld bytes planned, %lld taken: %lld to draw latents, %lld to decode them",
                 (long long)planned, (long long)generation_bytes(g), (long long)g->latents_bytes,
                 (long long)g->pictures_bytes);
    return e;
}

/* -------------------------------------------------------------------------------- the command */

/* Reads and checks everything else before the weights are loaded. */
static struct error prepare(struct session *s)
{
    const struct request *r = s->request;
    struct generation *g = &s->generation;
    *g = (struct generation){
        .pipeline = &s->pipeline,
        .sampler = r->scheduler ? sampler_find(r->scheduler) : sampler_default(&s->pipeline.schedule),
        .steps = r->steps,
        .seed = (uint64_t)r->seed,
        .guidance = r->guidance,
        .unload = true,
        .begin = begin_picture,
        .end = write_picture,
        .spoiled = spoiled_picture,
        .arg = s,
        .measure = true,
    };
    TRY(sampler_check(&s->pipeline.schedule, g->sampler));
    struct sampler trial; // does the schedule have that many steps?
    TRY(error_in(sampler_new(&trial, &s->pipeline.schedule, g->sampler, r->steps, 1), "--steps"));
    sampler_free(&trial);
    TRY(read_words(s));
    g->rows = s->words.rows;
    g->vectors = s->words.vectors;
    g->first_id = s->words.first_id;
    TRY(encode_prompts(s));
    TRY(read_size(s));
    if (r->latents)
        TRY(read_latents(s));
    return check_output(r);
}

static void free_all(struct session *s)
{
    words_free(&s->words);
    tokenizer_free(s->tokenizer);
    prompts_free(&s->prompts);
    start_latents_free(&s->start);
    memory_free(s->word_hashes);
    pipeline_close(&s->pipeline);
}

static struct error check_request(const struct request *r)
{
    const struct {
        const char *name, *value;
    } needed[] = {{"model", r->model}, {"prompt", r->prompt}, {"output", r->output}};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!needed[i].value)
            return error_input("generate needs --%s; see zoodip generate --help", needed[i].name);
    size_t length = strlen(r->output);
    if (length < 5 || strcmp(r->output + length - 4, ".png") != 0)
        return error_input("--output: %s: expected a name ending in .png", r->output);
    if (r->bits && r->bits != 4 && r->bits != 8 && r->bits != 16 && r->bits != 32)
        return error_input("--bits: %lld: expected 4, 8, 16 or 32", (long long)r->bits);
    if (strcmp(r->syntax, "plain") != 0 && syntax_of(r) == SYNTAX_PLAIN)
        return error_input("--prompt-syntax: \"%s\": expected plain or a1111", r->syntax);
    char samplers[SAMPLER_NAMES];
    sampler_names(samplers);
    return !r->scheduler || sampler_find(r->scheduler)
               ? ok()
               : error_input("--scheduler: \"%s\": expected %s", r->scheduler, samplers);
}

/* alone: a communicator of this rank, which does all the work. */
static struct error generate(const struct request *r, struct comm *alone, const struct device_kind *devices)
{
    const struct pipeline_choice choice = {.model = r->model,
                                           .tokenizer = r->tokenizer,
                                           .prediction = prediction_named(r->prediction),
                                           .device = r->device,
                                           .bits = (int)r->bits};
    struct session s = {.request = r};
    TRY(check_request(r));
    TRY(error_in(prediction_check(r->prediction), "--prediction"));
    TRY(pipeline_open(&s.pipeline, &choice, alone, devices));
    struct error e = prepare(&s);
    if (e.code == ERROR_NONE)
        e = pipeline_compare(&s.pipeline, NULL);
    if (e.code == ERROR_NONE)
        e = model_label_read(&s.label, &s.pipeline);
    if (e.code == ERROR_NONE)
        e = words_hashes(&s.words, &s.word_hashes);
    if (e.code == ERROR_NONE) {
        if (device_note(s.pipeline.device)[0])
            log_line("%s", device_note(s.pipeline.device));
        log_line("loading %s on %s", r->model, device_name(s.pipeline.device));
        e = generate_all(&s, &choice);
    }
    free_all(&s);
    return e;
}

static struct error run(int argc, char **argv, const struct host *host)
{
    struct request r = {.negative = "", .syntax = "plain", .guidance = 7.5, .steps = 50, .count = 1, .device = "auto"};
    const char *none[1];
    const struct option table[] = {
        {.name = "model", .text = &r.model},
        {.name = "prediction", .text = &r.prediction},
        {.name = "tokenizer", .text = &r.tokenizer},
        {.name = "embedding", .many = &r.embeddings},
        {.name = "prompt", .text = &r.prompt},
        {.name = "negative", .text = &r.negative},
        {.name = "prompt-syntax", .text = &r.syntax},
        {.name = "steps", .integer = &r.steps, .low = 1, .high = 1 << 20},
        {.name = "guidance", .number = &r.guidance},
        {.name = "scheduler", .text = &r.scheduler},
        {.name = "seed", .integer = &r.seed, .low = 0, .high = INT64_MAX - 9999},
        {.name = "latents", .text = &r.latents},
        {.name = "size", .text = &r.size},
        {.name = "bits", .integer = &r.bits},
        {.name = "count", .integer = &r.count, .low = 1, .high = 9999},
        {.name = "output", .text = &r.output},
        {.name = "device", .text = &r.device},
    };
    struct error e = options_read(argc, argv, table, sizeof table / sizeof *table, none, 0);
    struct comm *alone = NULL;
    if (e.code == ERROR_NONE)
        e = comm_split(host->comm, comm_rank(host->comm), &alone);
    if (e.code == ERROR_NONE && comm_rank(host->comm) == 0)
        e = generate(&r, alone, host->devices);
    memory_free(r.embeddings.items);
    e = comm_agree(host->comm, e);
    comm_close(alone);
    return e;
}

const struct command command_generate = {"generate", "generate pictures from a prompt, with learned words", print_help,
                                         run, false};
