#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/text.h"
#include "commands/commands.h"
#include "commands/options.h"
#include "pipeline/memory_plan.h"
#include "files/file.h"
#include "files/safetensors.h"
#include "model/embedding.h"
#include "model/denoiser.h"
#include "model/model_folder.h"
#include "text/captions.h"
#include "text/tokenizer.h"

static void print_help(void)
{
    char samplers[128];
    sampler_names(samplers, sizeof samplers);
    printf(
        "usage: zoodip generate --model DIR --prompt TEXT --output FILE.png [OPTIONS]\n"
        "\n"
        "Draws pictures from a prompt, with words that were learned.\n"
        "\n"
        "  --model DIR          a diffusers model folder\n"
        "  --embedding FILE     a learned word, for use in the prompt (may be given several times)\n"
        "  --prompt TEXT        what to draw\n"
        "  --negative TEXT      what not to draw (default: nothing)\n"
        "  --steps N            sampling steps (default 50)\n"
        "  --guidance X         classifier-free guidance; 1 or less: none (default 7.5)\n"
        "  --scheduler NAME     %s (default %s)\n"
        "  --seed N             seed of the random latents (default 0)\n"
        "  --latents FILE       start latents instead: a safetensors file with `latents` F32 [1 or count, c, h, w]\n"
        "  --size WxH           pixels (default: the model's own size)\n"
        "  --count N            number of pictures (default 1); several are named FILE-0001.png, ... and all are\n"
        "                       written at the end\n"
        "  --output FILE.png    where to write\n"
        "  --device NAME        auto (default: a GPU if there is one), cpu or cuda\n"
        "  --quiet              only warnings and errors on stderr\n"
        "\n"
        "examples:\n"
        "  zoodip generate --model dataset/toybox/model --prompt \"a photo of a toy on the beach\" --output toy.png\n"
        "  zoodip generate --model dataset/toybox/model --embedding results/toybox/learned_embeds.safetensors \\\n"
        "      --prompt \"a photo of a sks on the grass\" --count 4 --output sks.png\n",
        samplers, sampler_name(sampler_default()));
}

struct request {
    const char *model, *prompt, *negative, *scheduler, *latents, *size, *output, *device;
    double guidance;
    int64_t steps, seed, count;
    struct text_list embeddings;
};

struct session {
    const struct request *request;
    const struct device_kind *devices;
    struct device *device;
    struct tokenizer *tokenizer;
    struct noise_schedule schedule;
    struct text_encoder text;
    struct unet unet;
    struct embedding *words; /* [embeddings] */
    int32_t first_id;
    int64_t vectors;
    float *rows;             /* [vectors, width] */
    char *prompt, *negative; /* with words of several vectors spelled out */
    int32_t *ids;            /* of the negative prompt, if there is guidance, and of the prompt */
    int64_t height, width;   /* of the latents */
    float *start;            /* [given, h, w, c] from --latents; NULL: drawn */
    int64_t given;
    const struct sampler_type *sampler;
    int64_t count;   /* pictures to draw */
    float **latents; /* [count] of [h, w, c]: between UNet and VAE */
    bool simulated;  /* on a simulated GPU */
};

/* -------------------------------------------------------------------------------- words */

/* Every "sks" becomes "sks sks_1 sks_2", for a word of three vectors. */
static struct error spell_out(char **prompt, const struct embedding *word)
{
    char *words = captions_spell(word->placeholder, word->vectors);
    char *spelled = words ? text_replace(*prompt, word->placeholder, words) : NULL;
    memory_free(words);
    if (!spelled)
        return error_memory("the prompt");
    memory_free(*prompt);
    *prompt = spelled;
    return ok();
}

/* *found becomes true if the tokenizer finds a token in the text. */
static struct error find_token(const struct tokenizer *tokenizer, const char *text, int32_t token, bool *found)
{
    int64_t room = (int64_t)strlen(text) * 2 + 2, count = 0;
    int32_t *ids = memory_alloc(room, sizeof *ids);
    if (!ids)
        return error_memory("the prompt");
    struct error e = tokenizer_pieces(tokenizer, text, ids, room, &count);
    for (int64_t i = 0; i < count && i < room && e.code == ERROR_NONE; i++)
        *found = *found || ids[i] == token;
    memory_free(ids);
    return e;
}

/* As diffusers' maybe_convert_prompt: words of several vectors that the tokenizer finds in the text are spelled out;
 * ours include words with capitals, which diffusers looks up in lower case and leaves as their first vector. named[i]
 * becomes true if word i is found. */
static struct error convert_prompt(const struct session *s, const char *text, char **prompt, bool *named)
{
    int32_t first = s->first_id;
    *prompt = memory_string(text);
    if (!*prompt)
        return error_memory("the prompt");
    for (int64_t i = 0; i < s->request->embeddings.count; first += (int32_t)s->words[i++].vectors) {
        bool found = false;
        TRY(find_token(s->tokenizer, text, first, &found));
        named[i] = named[i] || found;
        if (found && s->words[i].vectors > 1)
            TRY(spell_out(prompt, &s->words[i]));
    }
    return ok();
}

static struct error convert_prompts(struct session *s)
{
    const struct text_list *files = &s->request->embeddings;
    bool *named = memory_alloc(files->count, sizeof *named);
    struct error e = named ? ok() : error_memory("the prompt");
    if (e.code == ERROR_NONE)
        e = convert_prompt(s, s->request->prompt, &s->prompt, named);
    if (e.code == ERROR_NONE)
        e = convert_prompt(s, s->request->negative, &s->negative, named);
    for (int64_t i = 0; i < files->count && e.code == ERROR_NONE; i++)
        if (!named[i])
            log_warning("the prompt does not contain \"%s\", the word of %s", s->words[i].placeholder, files->items[i]);
    memory_free(named);
    return e;
}

static struct error encode_prompts(struct session *s, int64_t length)
{
    s->ids = memory_alloc(2 * length, sizeof *s->ids);
    if (!s->ids)
        return error_memory("the prompt");
    bool guided = s->request->guidance > 1;
    if (guided)
        TRY(error_in(tokenizer_encode(s->tokenizer, s->negative, s->ids, length), "--negative"));
    return error_in(tokenizer_encode(s->tokenizer, s->prompt, s->ids + (guided ? length : 0), length), "--prompt");
}

static struct error read_words(struct session *s, int64_t dim)
{
    const struct text_list *files = &s->request->embeddings;
    s->words = memory_alloc(files->count, sizeof *s->words);
    if (!s->words)
        return error_memory("learned words");
    s->first_id = tokenizer_size(s->tokenizer);
    for (int64_t i = 0; i < files->count; i++) {
        struct embedding *w = &s->words[i];
        int32_t first;
        TRY(embedding_read(w, files->items[i]));
        if (w->dim != dim)
            return error_input("%s: the word is %lld wide, the model's text encoder %lld", files->items[i],
                               (long long)w->dim, (long long)dim);
        TRY(error_in(embedding_add_tokens(s->tokenizer, w->placeholder, w->vectors, &first), "%s", files->items[i]));
        s->vectors += w->vectors;
    }
    s->rows = memory_alloc(s->vectors * dim, sizeof *s->rows);
    if (!s->rows)
        return error_memory("learned words");
    float *to = s->rows;
    for (int64_t i = 0; i < files->count; i++, to += s->words[i - 1].vectors * dim)
        memcpy(to, s->words[i].rows, (size_t)(s->words[i].vectors * dim) * sizeof *to);
    return ok();
}

/* -------------------------------------------------------------------------------- sizes, latents */

static struct error read_size(struct session *s, const struct unet_config *unet, const struct vae_config *vae)
{
    long long width = unet->sample_size * vae->factor, height = width;
    char end;
    const char *size = s->request->size;
    if (size && (sscanf(size, "%lldx%lld%c", &width, &height, &end) != 2 || width < vae->factor ||
                 height < vae->factor || width > 8192 || height > 8192))
        return error_input("--size: \"%s\": expected WIDTHxHEIGHT in pixels, such as 512x512", size);
    if (width % vae->factor || height % vae->factor)
        return error_input("--size: %lldx%lld: expected multiples of %lld", width, height, (long long)vae->factor);
    s->width = width / vae->factor;
    s->height = height / vae->factor;
    return ok();
}

/* [n, c, h, w] -> [n, h, w, c] */
static struct error take_latents(struct session *s, const struct entry *t)
{
    int64_t places = s->height * s->width, channels = t->shape[1];
    float *flat = memory_alloc(t->count, sizeof *flat);
    s->start = memory_alloc(t->count, sizeof *s->start);
    if (!flat || !s->start) {
        memory_free(flat);
        return error_memory("the latents");
    }
    dtype_to_float(flat, t->data, t->type, t->count);
    for (int64_t n = 0; n < t->shape[0]; n++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = 0; p < places; p++)
                s->start[(n * places + p) * channels + c] = flat[(n * channels + c) * places + p];
    s->given = t->shape[0];
    memory_free(flat);
    return ok();
}

static struct error read_latents(struct session *s, const struct unet_config *unet)
{
    const char *path = s->request->latents;
    struct safetensors file;
    TRY(safetensors_open(&file, path));
    const struct entry *t = safetensors_find(&file, "latents");
    struct error e = ok();
    if (!t)
        e = error_input("%s: tensor latents: is missing", path);
    else if (t->ranks != 4 || t->shape[1] != unet->in_channels || !dtype_is_weight(t->type))
        e = error_input("%s: tensor latents: expected F32 [1 or count, %lld, h, w]", path,
                        (long long)unet->in_channels);
    else if (t->shape[0] != 1 && t->shape[0] != s->request->count)
        e = error_input("%s: tensor latents: %lld pictures, expected 1 or --count %lld", path, (long long)t->shape[0],
                        (long long)s->request->count);
    else if (s->request->size && (t->shape[2] != s->height || t->shape[3] != s->width))
        e = error_input("%s: tensor latents: its size is not that of --size", path);
    else if (t->shape[2] < 1 || t->shape[3] < 1 || t->shape[2] > 1024 || t->shape[3] > 1024)
        e = error_input("%s: tensor latents: height and width must lie in 1 to 1024", path);
    else {
        s->height = t->shape[2];
        s->width = t->shape[3];
        e = take_latents(s, t);
    }
    safetensors_close(&file);
    return e;
}

/* -------------------------------------------------------------------------------- drawing */

static struct error show_step(void *arg, int64_t call, int64_t calls)
{
    (void)calls;
    progress_step(arg, call, "");
    return ok();
}

/* FILE.png, or FILE-0001.png for several. */
static struct error output_path(char path[PATH_SIZE], const struct request *r, int64_t i)
{
    size_t length = strlen(r->output);
    int written = r->count == 1
                      ? snprintf(path, PATH_SIZE, "%s", r->output)
                      : snprintf(path, PATH_SIZE, "%.*s-%04lld.png", (int)(length - 4), r->output, (long long)i + 1);
    return written < PATH_SIZE ? ok() : error_input("--output: the path is too long");
}

/* In memory of this process; for a simulated GPU, nowhere. */
static struct store store_of(const struct session *s)
{
    return s->simulated ? store_simulated() : store_alone();
}

static int64_t steps_of(const struct session *s)
{
    // few steps take as much memory as many
    return s->simulated ? sampler_least_steps(&s->schedule, s->sampler) : s->request->steps;
}

static struct error paint_one(struct session *s, struct denoiser *d, int64_t i)
{
    const struct request *r = s->request;
    float *latents = s->latents[i] = memory_alloc(d->numbers, sizeof *latents);
    if (!latents)
        return error_memory("the latents");
    if (s->given)
        memcpy(latents, s->start + (s->given > 1 ? i : 0) * d->numbers, (size_t)d->numbers * sizeof *latents);
    else
        rng_normals((uint64_t)r->seed, (uint64_t)i, STREAM_SAMPLE, 0, d->numbers, latents);
    struct progress progress;
    char what[64];
    snprintf(what, sizeof what, "drawing %lld of %lld", (long long)i + 1, (long long)r->count);
    progress_begin(&progress, what, 0, sampler_calls(&s->schedule, s->sampler, steps_of(s)), s->simulated);
    struct error e = denoiser_run(d, s->ids, s->rows, latents, show_step, &progress);
    progress_end(&progress);
    return e;
}

/* Draws the latents of all pictures with loaded networks. */
static struct error paint_all(struct session *s)
{
    const struct denoiser_setup setup = {
        .device = s->device,
        .text = &s->text,
        .unet = &s->unet,
        .schedule = &s->schedule,
        .sampler = s->sampler,
        .steps = steps_of(s),
        .guidance = s->request->guidance,
        .length = s->text.config.positions,
        .height = s->height,
        .width = s->width,
        .vectors = s->vectors,
        .first_id = s->first_id,
    };
    struct denoiser d;
    TRY(denoiser_new(&d, &setup));
    struct error e = ok();
    for (int64_t i = 0; i < s->count && e.code == ERROR_NONE; i++)
        e = paint_one(s, &d, i);
    denoiser_free(&d);
    return e;
}

static struct error decode_one(const struct session *s, struct decoder *d, int64_t i)
{
    char path[PATH_SIZE];
    struct picture picture;
    TRY(output_path(path, s->request, i));
    TRY(decoder_run(d, s->latents[i], &picture));
    struct error e = s->simulated ? ok() : picture_write(&picture, path);
    picture_free(&picture);
    if (e.code == ERROR_NONE && !s->simulated)
        log_line("wrote %s", path);
    return e;
}

/* Decodes the latents into pictures. */
static struct error decode_all(const struct session *s, const struct vae *vae)
{
    struct decoder d;
    TRY(decoder_new(&d, s->device, vae, s->height, s->width));
    struct error e = ok();
    for (int64_t i = 0; i < s->count && e.code == ERROR_NONE; i++)
        e = decode_one(s, &d, i);
    decoder_free(&d);
    return e;
}

/* Loads text encoder and UNet, draws, and frees them. */
static struct error paint(struct session *s)
{
    const char *model = s->request->model;
    struct error e = text_encoder_load(&s->text, s->device, model, 0, store_of(s));
    if (e.code == ERROR_NONE)
        e = unet_load(&s->unet, s->device, model, 0, store_of(s));
    if (e.code == ERROR_NONE)
        e = paint_all(s);
    unet_free(&s->unet);
    text_encoder_free(&s->text);
    return e;
}

static struct error decode(const struct session *s)
{
    struct vae vae;
    TRY(vae_load(&vae, s->device, s->request->model, 0, false, true, store_of(s)));
    struct error e = decode_all(s, &vae);
    vae_free(&vae);
    return e;
}

static void free_latents(struct session *s)
{
    for (int64_t i = 0; i < s->count && s->latents; i++)
        memory_free(s->latents[i]);
    memory_free(s->latents);
    s->latents = NULL;
}

/* Draws `count` pictures in two halves, so that UNet and VAE are never in memory together. halves: the memory that each
 * took. */
static struct error draw(struct session *s, int64_t count, int64_t halves[2])
{
    s->count = count;
    s->latents = memory_alloc(count, sizeof *s->latents);
    struct error e = s->latents ? paint(s) : error_memory("the latents");
    halves[0] = device_memory(s->device).most;
    device_memory_reset_peak(s->device);
    if (e.code == ERROR_NONE)
        e = decode(s);
    halves[1] = device_memory(s->device).most;
    free_latents(s);
    return e;
}

/* The GPU memory that each half will need, found by drawing one picture on a simulated GPU. */
static struct error plan(struct session *s, int64_t halves[2])
{
    struct device *device = s->device;
    struct error e = device_simulate(&s->device);
    if (e.code == ERROR_NONE) {
        s->simulated = true;
        e = draw(s, 1, halves);
        s->simulated = false;
        device_close(s->device);
    }
    s->device = device;
    return e;
}

static int64_t larger(const int64_t halves[2])
{
    return halves[0] > halves[1] ? halves[0] : halves[1];
}

static struct error draw_all(struct session *s)
{
    int64_t planned[2], taken[2];
    bool gpu = device_identity(s->device) != 0;
    if (gpu) {
        TRY(plan(s, planned));
        TRY(memory_plan_fits_alone(larger(planned), s->device, "--size, or use a model written by zoodip quantize"));
    }
    TRY(draw(s, s->request->count, taken));
    if (gpu)
        log_line("GPU memory: %lld bytes planned, %lld taken: %lld to draw latents, %lld to decode them",
                 (long long)larger(planned), (long long)larger(taken), (long long)taken[0], (long long)taken[1]);
    return ok();
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

/* Reads all small files and checks before the weights are loaded. */
static struct error read_all(struct session *s)
{
    const struct request *r = s->request;
    struct text_config text;
    struct unet_config unet;
    struct vae_config vae;
    char folder[PATH_SIZE];
    TRY(error_in(model_folder_check(r->model), "--model"));
    TRY(text_config_read(&text, r->model));
    TRY(unet_config_read(&unet, r->model));
    TRY(vae_config_read(&vae, r->model));
    if (unet.cross_dim != text.width || unet.in_channels != vae.latent_channels ||
        unet.out_channels != unet.in_channels)
        return error_input("%s: text_encoder, unet and vae do not fit together", r->model);
    TRY(noise_schedule_read(&s->schedule, r->model));
    noise_schedule_for_pictures(&s->schedule);
    struct sampler trial; // does the schedule have that many steps?
    TRY(sampler_new(&trial, &s->schedule, s->sampler, r->steps, 1));
    sampler_free(&trial);
    TRY(path_join(folder, r->model, "tokenizer"));
    TRY(tokenizer_load(&s->tokenizer, folder));
    if (tokenizer_size(s->tokenizer) > text.vocab)
        return error_input("%s: has more tokens than vocab_size in text_encoder/config.json", folder);
    TRY(read_words(s, text.width));
    TRY(convert_prompts(s));
    TRY(encode_prompts(s, text.positions));
    TRY(read_size(s, &unet, &vae));
    if (r->latents)
        TRY(read_latents(s, &unet));
    return check_output(r);
}

/* The VAE is loaded last, so check early that it is complete. */
static struct error open_all(struct session *s)
{
    const char *model = s->request->model;
    struct vae vae;
    TRY(error_in(device_open(&s->device, s->devices, s->request->device, 0, pool_default_threads(1)), "--device"));
    if (device_note(s->device)[0])
        log_line("%s", device_note(s->device));
    log_line("loading %s on %s", model, device_name(s->device));
    TRY(vae_load(&vae, s->device, model, 0, false, true, store_nowhere()));
    vae_free(&vae);
    return ok();
}

static void close_session(struct session *s)
{
    noise_schedule_free(&s->schedule);
    tokenizer_free(s->tokenizer);
    device_close(s->device);
    for (int64_t i = 0; i < s->request->embeddings.count && s->words; i++)
        embedding_free(&s->words[i]);
    memory_free(s->words);
    memory_free(s->rows);
    memory_free(s->prompt);
    memory_free(s->negative);
    memory_free(s->ids);
    memory_free(s->start);
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
    char samplers[128];
    sampler_names(samplers, sizeof samplers);
    return sampler_find(r->scheduler) ? ok() : error_input("--scheduler: \"%s\": expected %s", r->scheduler, samplers);
}

static struct error generate(const struct request *r, const struct device_kind *devices)
{
    TRY(check_request(r));
    struct session s = {.request = r, .devices = devices, .sampler = sampler_find(r->scheduler)};
    struct error e = read_all(&s);
    if (e.code == ERROR_NONE)
        e = open_all(&s);
    if (e.code == ERROR_NONE)
        e = draw_all(&s);
    close_session(&s);
    return e;
}

static struct error run(int argc, char **argv, const struct host *host)
{
    struct request r = {.negative = "",
                        .scheduler = sampler_name(sampler_default()),
                        .guidance = 7.5,
                        .steps = 50,
                        .count = 1,
                        .device = "auto"};
    const char *none[1];
    r.embeddings.items = memory_alloc(argc, sizeof *r.embeddings.items);
    if (!r.embeddings.items)
        return error_memory("the command line");
    const struct option table[] = {
        {.name = "model", .text = &r.model},
        {.name = "embedding", .many = &r.embeddings},
        {.name = "prompt", .text = &r.prompt},
        {.name = "negative", .text = &r.negative},
        {.name = "steps", .integer = &r.steps, .low = 1, .high = 1 << 20},
        {.name = "guidance", .number = &r.guidance},
        {.name = "scheduler", .text = &r.scheduler},
        {.name = "seed", .integer = &r.seed},
        {.name = "latents", .text = &r.latents},
        {.name = "size", .text = &r.size},
        {.name = "count", .integer = &r.count, .low = 1, .high = 9999},
        {.name = "output", .text = &r.output},
        {.name = "device", .text = &r.device},
    };
    struct error e = options_read(argc, argv, table, sizeof table / sizeof *table, none, 0);
    if (e.code == ERROR_NONE && comm_rank(host->comm) == 0)
        e = generate(&r, host->devices);
    memory_free(r.embeddings.items);
    return comm_agree(host->comm, e);
}

const struct command command_generate = {"generate", "draw pictures from a prompt, with learned words", print_help, run,
                                         false};
