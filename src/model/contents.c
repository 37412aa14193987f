#include "model/contents.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#include "base/memory.h"
#include "base/pool.h"
#include "base/progress.h"
#include "files/file.h"
#include "files/safetensors.h"
#include "model/model_source.h"

/* Threads take pieces; a piece is looked at in blocks that stay in a core's cache between the two looks. */
enum { PIECE = 4 << 20, BLOCK = 64 << 10, TEXT_LIMIT = 256 << 20 };

struct piece {
    const struct safetensors *file;
    const struct entry *tensor;
    int64_t first, count; /* of the tensor's numbers */
    uint32_t crc;
    bool finite;
};

struct pass {
    struct safetensors files[MODEL_PARTS];
    int opened;
    struct piece *pieces;
    int64_t count, bytes;
    atomic_llong done; /* bytes */
    struct progress progress;
};

/* -------------------------------------------------------------------------------- pieces */

static int64_t numbers_of_piece(const struct entry *t)
{
    return PIECE / dtype_size(t->type);
}

static int64_t pieces_of(const struct entry *t)
{
    return (t->count + numbers_of_piece(t) - 1) / numbers_of_piece(t);
}

static void cut_tensor(struct pass *p, const struct safetensors *file, const struct entry *t)
{
    int64_t most = numbers_of_piece(t);
    for (int64_t first = 0; first < t->count; first += most) {
        int64_t left = t->count - first;
        p->pieces[p->count++] =
            (struct piece){.file = file, .tensor = t, .first = first, .count = left < most ? left : most};
    }
    p->bytes += entry_bytes(t);
}

static struct error open_parts(struct pass *p, const char *model)
{
    int64_t count = 0;
    for (int i = 0; i < MODEL_PARTS; i++) {
        TRY(model_part_open(&p->files[i], model, model_parts[i]));
        p->opened++;
        for (int64_t k = 0; k < p->files[i].entry_count; k++)
            count += pieces_of(&p->files[i].entries[k]);
    }
    p->pieces = memory_alloc(count, sizeof *p->pieces);
    if (!p->pieces)
        return error_memory("the list of a model's tensors");
    for (int i = 0; i < MODEL_PARTS; i++)
        for (int64_t k = 0; k < p->files[i].entry_count; k++)
            cut_tensor(p, &p->files[i], &p->files[i].entries[k]);
    return ok();
}

/* -------------------------------------------------------------------------------- the pass */

static void look(void *arg, int64_t i, int thread)
{
    struct pass *p = arg;
    struct piece *piece = &p->pieces[i];
    enum dtype type = piece->tensor->type;
    int64_t size = dtype_size(type);
    const unsigned char *data = (const unsigned char *)piece->tensor->data + piece->first * size;
    const struct entry all = {.type = type, .count = piece->count, .data = data};
    piece->finite = true;
    for (int64_t at = 0; at < piece->count; at += BLOCK / size) {
        int64_t left = piece->count - at, count = left < BLOCK / size ? left : BLOCK / size;
        piece->crc = (uint32_t)crc32_z(piece->crc, data + at * size, (size_t)(count * size));
        piece->finite = dtype_finite(data + at * size, type, count) && piece->finite;
    }
    safetensors_forget(piece->file, &all);
    int64_t done = atomic_fetch_add(&p->done, piece->count * size) + piece->count * size;
    if (thread == 0) // often enough
        progress_step(&p->progress, done / PROGRESS_MEGABYTE, "");
}

static struct error run(struct pass *p, int threads)
{
    struct pool *pool;
    TRY(pool_open(&pool, threads));
    progress_phase(&p->progress, "checking the model's weights", p->bytes / PROGRESS_MEGABYTE, "MB");
    pool_run(pool, p->count, look, p);
    progress_end(&p->progress);
    pool_close(pool);
    return ok();
}

static struct error check_finite(const struct pass *p)
{
    for (int64_t i = 0; i < p->count; i++)
        if (!p->pieces[i].finite)
            return error_input("%s: tensor %s: holds a value that is not a number (or infinite); expected finite "
                               "weights: the file is damaged, or was saved so by its training",
                               p->pieces[i].file->path, p->pieces[i].tensor->name);
    return ok();
}

/* -------------------------------------------------------------------------------- the number */

static uint32_t crc_text(uint32_t crc, const char *text)
{
    return (uint32_t)crc32_z(crc, (const void *)text, strlen(text) + 1);
}

/* transformers writes a text encoder's names with "text_model." or, from 5.0 on, without: the same tensors. */
static uint32_t crc_name(uint32_t crc, const char *part, const char *name)
{
    static const char prefix[] = "text_model.";
    if (strcmp(part, "text_encoder") == 0 && strncmp(name, prefix, strlen(prefix)) != 0)
        crc = (uint32_t)crc32_z(crc, (const void *)prefix, strlen(prefix));
    return crc_text(crc, name);
}

/* The CRC-32 of each tensor's name, type, shape and bytes, in the order of names: that of one thread and one piece. */
static uint32_t combine(const struct pass *p)
{
    uint32_t crc = 0;
    const struct piece *piece = p->pieces;
    for (int i = 0; i < MODEL_PARTS; i++) {
        crc = crc_text(crc, model_parts[i]);
        for (int64_t k = 0; k < p->files[i].entry_count; k++) {
            const struct entry *t = &p->files[i].entries[k];
            crc = crc_text(crc_name(crc, model_parts[i], t->name), dtype_name(t->type));
            crc = (uint32_t)crc32_z(crc, (const void *)t->shape, (size_t)t->dimensions * sizeof *t->shape);
            for (int64_t n = pieces_of(t); n > 0; n--, piece++)
                crc = (uint32_t)crc32_combine(crc, piece->crc, piece->count * dtype_size(t->type));
        }
    }
    return crc;
}

struct error contents_tensors(const char *model, int threads, uint32_t *crc)
{
    struct pass p = {0};
    struct error e = open_parts(&p, model);
    if (e.code == ERROR_NONE)
        e = run(&p, threads);
    if (e.code == ERROR_NONE)
        e = check_finite(&p);
    if (e.code == ERROR_NONE)
        *crc = combine(&p);
    memory_free(p.pieces);
    for (int i = 0; i < p.opened; i++)
        safetensors_close(&p.files[i]);
    return e;
}

/* -------------------------------------------------------------------------------- beside the tensors */

static uint32_t crc_numbers(uint32_t crc, const int64_t *numbers, int64_t count)
{
    return (uint32_t)crc32_z(crc, (const void *)numbers, (size_t)count * sizeof *numbers);
}

static uint32_t crc_floats(uint32_t crc, const float *numbers, int64_t count)
{
    return (uint32_t)crc32_z(crc, (const void *)numbers, (size_t)count * sizeof *numbers);
}

static uint32_t unet_settings(uint32_t crc, const struct unet_config *u)
{
    const int64_t numbers[] = {
        u->in_channels,    u->out_channels, u->sample_size,    u->blocks,          u->cross_dim,
        u->groups,         u->time_dim,     u->conv_in_kernel, u->conv_out_kernel, u->downsample_padding,
        u->flip_sin_to_cos};
    const float floats[] = {u->eps, u->freq_shift};
    crc = crc_numbers(crc, numbers, sizeof numbers / sizeof *numbers);
    for (int64_t i = 0; i < u->blocks; i++) {
        const int64_t block[] = {u->channels[i], u->layers[i],     u->heads[i],
                                 u->depth[i],    u->down_cross[i], u->up_cross[i]};
        crc = crc_numbers(crc, block, sizeof block / sizeof *block);
    }
    return crc_floats(crc, floats, sizeof floats / sizeof *floats);
}

static uint32_t vae_settings(uint32_t crc, const struct vae_config *v)
{
    const int64_t numbers[] = {v->in_channels, v->out_channels, v->latent_channels, v->blocks,
                               v->layers,      v->groups,       v->quant_conv,      v->post_quant_conv};
    crc = crc_numbers(crc, numbers, sizeof numbers / sizeof *numbers);
    return crc_floats(crc_numbers(crc, v->channels, v->blocks), &v->scaling_factor, 1);
}

uint32_t contents_settings(uint32_t crc, const struct text_config *text, const struct unet_config *unet,
                           const struct vae_config *vae, const struct noise_schedule *schedule)
{
    const int64_t numbers[] = {text->vocab,     text->width, text->inner,     text->layers,        text->heads,
                               text->positions, text->act,   schedule->steps, schedule->prediction};
    crc = crc_floats(crc_numbers(crc, numbers, sizeof numbers / sizeof *numbers), &text->eps, 1);
    crc = vae_settings(unet_settings(crc, unet), vae);
    return crc_floats(crc, schedule->alphas_cumprod, schedule->steps);
}

/* Files of FOLDER, under their names there behind GROUP: "unet/config.json". */
static struct error add_texts(uint32_t *crc, const char *folder, const char *group, const char *const *names)
{
    for (int i = 0; names[i]; i++) {
        char path[PATH_SIZE], name[64], *text;
        int64_t size;
        snprintf(name, sizeof name, "%s%s", group, names[i]);
        TRY(path_join(path, folder, names[i]));
        struct error e = file_read(path, TEXT_LIMIT, &text, &size);
        if (e.code == ERROR_BAD_INPUT)
            continue;
        TRY(e);
        *crc = (uint32_t)crc32_z(crc_text(*crc, name), (const void *)&size, sizeof size);
        *crc = (uint32_t)crc32_z(*crc, (const void *)text, (size_t)size);
        memory_free(text);
    }
    return ok();
}

struct error contents_texts(uint32_t *crc, const char *model, const char *tokenizer)
{
    static const char *const settings[] = {"text_encoder/config.json", "unet/config.json", "vae/config.json",
                                           "scheduler/scheduler_config.json", NULL};
    static const char *const words[] = {
        "tokenizer.json",          "vocab.json",        "merges.txt", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json", NULL};
    char folder[PATH_SIZE];
    const char *pads;
    if (!model_is_file(model)) // a file's settings follow from its tensors
        TRY(add_texts(crc, model, "", settings));
    struct error e = model_tokenizer_folder(folder, model, tokenizer, &pads);
    if (e.code == ERROR_BAD_INPUT)
        return ok();
    TRY(e);
    return add_texts(crc, folder, "tokenizer/", words);
}

static uint32_t stamp_file(uint32_t crc, const char *path, const char *name)
{
    struct stat found;
    if (stat(path, &found) != 0)
        return crc;
    const int64_t facts[] = {(int64_t)found.st_ino, found.st_size, found.st_mtim.tv_sec, found.st_mtim.tv_nsec};
    return (uint32_t)crc32_z(crc_text(crc, name), (const void *)facts, sizeof facts);
}

static uint32_t stamp_files(uint32_t crc, const char *folder)
{
    char path[PATH_SIZE], **files;
    int64_t count;
    if (folder_list(folder, &files, &count).code != ERROR_NONE)
        return crc;
    for (int64_t i = 0; i < count; i++)
        if (path_join(path, folder, files[i]).code == ERROR_NONE)
            crc = stamp_file(crc, path, files[i]);
    folder_list_free(files, count);
    return crc;
}

uint32_t contents_stamp(const char *model)
{
    static const char *const names[] = {"text_encoder", "unet", "vae", "tokenizer", "scheduler"};
    uint32_t crc = 0;
    if (model_is_file(model))
        return stamp_file(crc, model, "");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char folder[PATH_SIZE];
        if (path_join(folder, model, names[i]).code == ERROR_NONE)
            crc = stamp_files(crc, folder);
    }
    return crc;
}

struct contents_place contents_place_of(const char *model)
{
    struct contents_place place = {0};
    bool whole = model_is_file(model);
    for (int i = 0; i < MODEL_PARTS; i++) {
        char path[PATH_SIZE];
        struct stat found;
        if (path_join(path, model, model_parts[i]).code != ERROR_NONE || stat(whole ? model : path, &found) != 0)
            continue;
        place.device[i] = found.st_dev;
        place.folder[i] = found.st_ino;
    }
    return place;
}
