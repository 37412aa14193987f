#include "zo/dataset.h"

#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "files/file.h"
#include "files/photos.h"
#include "zo/masks.h"

/* -------------------------------------------------------------------------------- pictures */

static struct error add_source(struct dataset *s, const char *path)
{
    uint32_t file;
    TRY(file_crc(path, &file));
    s->sources = (uint32_t)crc32_z(s->sources, (const void *)&file, sizeof file);
    return ok();
}

/* A photo's part of dataset_sources, where the same file counts for something else as a mask than as a photo. */
static struct error add_sources(struct dataset *s, int64_t i)
{
    static const char mark[] = "mask";
    TRY(add_source(s, s->paths[i]));
    if (!s->photos.masks[i])
        return ok();
    s->sources = (uint32_t)crc32_z(s->sources, (const void *)mark, sizeof mark);
    return add_source(s, s->photos.masks[i]);
}

/* Those of a background other than white, and of a word's file that learning starts from. */
static struct error add_others(struct dataset *s, const struct config *config)
{
    static const uint8_t white[3] = {255, 255, 255};
    uint8_t background[4] = {0};
    bool shown = false;
    picture_background(config->data.background, background, &shown);
    background[3] = shown;
    if (!shown || memcmp(background, white, sizeof white) != 0)
        s->sources = (uint32_t)crc32_z(s->sources, background, sizeof background);
    return config_initializer_is_file(config) ? add_source(s, config->token.initializer) : ok();
}

/* small: a list of those that are enlarged. */
static struct error read_picture(struct dataset *s, int64_t i, const struct config *config, int64_t resolution,
                                 struct text_few *small)
{
    const char *path = s->paths[i];
    struct picture whole;
    uint8_t background[3];
    bool shown = false;
    picture_background(config->data.background, background, &shown);
    char name[PATH_SIZE + 64];
    TRY(add_sources(s, i));
    TRY(picture_read(&whole, path, shown ? background : NULL));
    if (whole.width < resolution || whole.height < resolution) {
        snprintf(name, sizeof name, "%s (%lldx%lld)", path_name(path), (long long)whole.width, (long long)whole.height);
        text_few_add(small, name);
    }
    enum fit fit = config->data.fit;
    struct error e = error_in(picture_fit(&s->pictures[i], &whole, resolution, resolution, fit), "%s", path);
    if (e.code == ERROR_NONE && s->photos.masks[i])
        e = mask_read(&s->masks[i], s->photos.masks[i], &whole, resolution, fit);
    picture_free(&whole);
    return e;
}

static void warn_of_small(struct text_few *small, int64_t count, const struct config *config, int64_t resolution)
{
    if (!small->count)
        return;
    text_few_end(small);
    struct error e =
        error_input("%lld of %lld are smaller than %lldx%lld and are enlarged: %s", (long long)small->count,
                    (long long)count, (long long)resolution, (long long)resolution, small->text);
    log_warning("%s", config_blame(config, "data.images", e).text);
}

/* After rank 0 has read it, if the picture has one. */
static struct error share_mask(struct dataset *s, int64_t i, int64_t resolution, struct comm *comm)
{
    int64_t size = resolution * resolution;
    bool there = comm_rank(comm) == 0 && s->masks[i];
    TRY(comm_broadcast(comm, &there, sizeof there, 0));
    if (!there)
        return ok();
    if (comm_rank(comm) != 0)
        s->masks[i] = memory_alloc(size, 1);
    TRY(comm_agree(comm, s->masks[i] ? ok() : error_memory("a mask")));
    return comm_broadcast(comm, s->masks[i], size, 0);
}

static struct error make_lists(struct dataset *s)
{
    s->pictures = memory_alloc(s->count, sizeof *s->pictures);
    s->masks = s->masked ? memory_alloc(s->count, sizeof *s->masks) : NULL;
    return s->pictures && (s->masks || !s->masked) ? ok() : error_memory("the pictures");
}

/* Rank 0 decodes; one photo is whole in its memory at a time. */
static struct error share_pictures(struct dataset *s, const struct config *config, int64_t resolution,
                                   struct comm *comm)
{
    struct text_few small = {0};
    struct error e = comm_agree(comm, make_lists(s));
    struct progress progress;
    progress_phase(&progress, "reading pictures", s->count, "");
    for (int64_t i = 0; i < s->count && e.code == ERROR_NONE; i++) {
        struct picture *picture = &s->pictures[i];
        e = comm_agree(comm, comm_rank(comm) == 0 ? read_picture(s, i, config, resolution, &small)
                                                  : picture_new(picture, resolution, resolution));
        if (e.code == ERROR_NONE)
            e = comm_broadcast(comm, picture->rgb, resolution * resolution * 3, 0);
        if (e.code == ERROR_NONE && s->masked)
            e = share_mask(s, i, resolution, comm);
        progress_step(&progress, i + 1, "");
    }
    progress_end(&progress);
    if (e.code == ERROR_NONE)
        e = comm_agree(comm, comm_rank(comm) == 0 ? add_others(s, config) : ok());
    if (e.code == ERROR_NONE)
        warn_of_small(&small, s->count, config, resolution);
    return e.code == ERROR_NONE ? comm_broadcast(comm, &s->sources, sizeof s->sources, 0) : e;
}

/* -------------------------------------------------------------------------------- captions */

/* more: of files beside pictures, those with lines that do not count. */
static struct error find_captions(struct dataset *s, const struct config *config, struct text_few *more)
{
    *more = (struct text_few){0};
    if (!config->use_cc)
        return captions_templates(&s->captions, config->data.property == PROPERTY_STYLE);
    if (!config->data.captions)
        return captions_beside(&s->captions, s->photos.captions, s->count, config->token.placeholder, more);
    enum path_kind kind;
    TRY(config_blame(config, "data.captions", path_look(config->data.captions, &kind)));
    if (kind != PATH_FILE)
        return config_blame(config, "data.captions", error_input("\"%.300s\": no such file", config->data.captions));
    return captions_read(&s->captions, config->data.captions, (const char *const *)s->paths, s->count);
}

/* The captions' part of dataset_sources. */
static void add_captions(struct dataset *s)
{
    for (int64_t i = 0; i < s->captions.count; i++) {
        const char *text = s->captions.templates[i];
        s->sources = (uint32_t)crc32_z(s->sources, (const void *)text, strlen(text) + 1);
    }
}

static struct error find_photos(struct dataset *s, const struct config *config)
{
    struct error e = photos_list(config, &s->photos);
    s->count = s->photos.count;
    s->paths = s->photos.paths;
    s->photos.paths = NULL;
    for (int64_t i = 0; i < s->count && e.code == ERROR_NONE; i++)
        s->masked += s->photos.masks[i] != NULL;
    return e;
}

static struct error find_sources(struct dataset *s, const struct config *config)
{
    struct text_few more;
    TRY(find_photos(s, config));
    TRY(find_captions(s, config, &more));
    add_captions(s);
    for (int64_t i = 0; i < s->count; i++)
        TRY(add_sources(s, i));
    return add_others(s, config);
}

struct error dataset_sources(const struct config *config, uint32_t *crc)
{
    struct dataset s = {0};
    struct error e = find_sources(&s, config);
    *crc = s.sources;
    dataset_free(&s);
    return e;
}

/* The file that caption i is from; NULL: none, it is a template. */
static const char *file_of(const struct dataset *s, const struct config *config, int64_t i)
{
    return !config->use_cc ? NULL : config->data.captions ? config->data.captions : s->photos.captions[i];
}

/* A caption is cut off before the word ends: a fault of the file, or, with templates, of too many vectors. */
static struct error too_long(const struct dataset *s, const struct config *config, int64_t i, const char *text)
{
    const char *file = file_of(s, config, i);
    struct error e = error_input("\"%.200s\": the word is not among its first %lld tokens; %s", text,
                                 (long long)s->length, file ? "shorten the caption" : "expected fewer vectors");
    return file ? error_in(e, "%s", file) : config_blame(config, "token.vectors", e);
}

/* What is worth a warning, and its first example. */
struct caption_notes {
    int64_t cut, twice;     /* captions longer than what counts; those that say the word where {} is not, too */
    struct error first_cut; /* what is left out of it */
    int64_t cut_at, twice_at;
};

static int64_t count_braces(const char *template)
{
    int64_t count = 0;
    for (const char *at = template; (at = strstr(at, "{}")); at += 2)
        count++;
    return count;
}

/* Caption i -> its ids. */
static struct error encode_text(struct dataset *s, int64_t i, const char *text, const struct config *config,
                                const struct tokenizer *tokenizer, int32_t first_id, struct caption_notes *notes)
{
    int32_t *ids = s->ids + i * s->length;
    struct error e = tokenizer_encode(tokenizer, text, ids, s->length);
    TRY(config->use_cc ? error_in(e, "%s", file_of(s, config, i)) : e);
    int64_t seen = 0;
    for (int64_t k = 0; k < s->length; k++)
        seen += ids[k] == first_id + config->token.vectors - 1;
    if (seen == 0)
        return too_long(s, config, i, text);
    struct error cut = tokenizer_check_length(tokenizer, text, s->length);
    if (cut.code == ERROR_BAD_INPUT && notes->cut++ == 0) {
        notes->first_cut = cut;
        notes->cut_at = i;
    }
    if (seen > count_braces(s->captions.templates[i]) && notes->twice++ == 0)
        notes->twice_at = i;
    return cut.code == ERROR_BAD_INPUT ? ok() : cut;
}

static void warn_of_captions(const struct dataset *s, const struct config *config, const struct caption_notes *notes)
{
    char more[64] = "";
    if (notes->cut > 1)
        snprintf(more, sizeof more, "; so are %lld more captions", (long long)notes->cut - 1);
    if (notes->cut && config->use_cc)
        log_warning("%s: %s: %s%s", file_of(s, config, notes->cut_at), path_name(s->paths[notes->cut_at]),
                    notes->first_cut.text, more);
    struct error twice = error_input("\"%.60s\" also stands where {} is not, in %lld of %lld captions such as "
                                     "\"%.150s\", and is the new word there, too",
                                     config->token.placeholder, (long long)notes->twice, (long long)s->captions.count,
                                     s->captions.templates[notes->twice_at]);
    if (notes->twice)
        log_warning("%s", config_blame(config, "token.placeholder", twice).text);
}

static struct error encode_captions(struct dataset *s, const struct config *config, const struct tokenizer *tokenizer,
                                    int32_t first_id, int64_t length)
{
    struct caption_notes notes = {0};
    s->length = length;
    s->ids = memory_alloc(s->captions.count * length, sizeof *s->ids);
    if (!s->ids)
        return error_memory("the captions");
    for (int64_t i = 0; i < s->captions.count; i++) {
        char *text;
        TRY(captions_fill(s->captions.templates[i], config->token.placeholder, &text));
        struct error e = encode_text(s, i, text, config, tokenizer, first_id, &notes);
        memory_free(text);
        TRY(e);
    }
    warn_of_captions(s, config, &notes);
    return ok();
}

/* -------------------------------------------------------------------------------- rank 0's, for all */

/* Rank 0: which pictures there are, and their captions. */
static struct error find_all(struct dataset *s, const struct config *config, const struct tokenizer *tokenizer,
                             int32_t first_id, int64_t length)
{
    struct text_few more;
    TRY(find_photos(s, config));
    photos_warn_unused(config, &s->photos);
    if (config->data.hold_out && s->count < 2)
        return config_blame(config, "data.hold_out",
                            error_input("is true, but data.images has 1 picture, expected 2 or more: one to learn from "
                                        "and one to hold out"));
    if (s->count * config->data.repeats > INT32_MAX)
        return config_blame(config, "data.repeats",
                            error_input("%lld times %lld pictures is more than one epoch can hold",
                                        (long long)config->data.repeats, (long long)s->count));
    TRY(find_captions(s, config, &more));
    if (more.count)
        log_warning("of a caption's file only the first line counts; more lines are in: %s", more.text);
    add_captions(s);
    return encode_captions(s, config, tokenizer, first_id, length);
}

/* The pictures' paths as one text, each with its zero byte; *size counts all but the last. */
static char *join_paths(const struct dataset *s, int64_t *size)
{
    *size = -1;
    for (int64_t i = 0; i < s->count; i++)
        *size += (int64_t)strlen(s->paths[i]) + 1;
    char *text = memory_alloc(*size + 1, 1), *at = text;
    for (int64_t i = 0; i < s->count && text; i++)
        at = stpcpy(at, s->paths[i]) + 1;
    return text;
}

/* And back; the list has room for all. */
static struct error split_paths(struct dataset *s, const char *text, int64_t count)
{
    for (int64_t i = 0; i < count; i++, text += strlen(text) + 1)
        if (!(s->paths[s->count++] = memory_string(text)))
            return error_memory("the list of pictures");
    return ok();
}

static struct error share_paths(struct dataset *s, int64_t count, struct comm *comm)
{
    int64_t size = 0;
    bool first = comm_rank(comm) == 0;
    char *text = first ? join_paths(s, &size) : NULL;
    struct error e = comm_agree(comm, first && !text ? error_memory("the list of pictures") : ok());
    if (e.code == ERROR_NONE)
        e = comm_share_text(comm, &text, &size);
    if (e.code == ERROR_NONE)
        e = comm_agree(comm, first ? ok() : split_paths(s, text, count));
    memory_free(text);
    return e;
}

/* Another rank makes room for what rank 0 has found. */
static struct error make_room(struct dataset *s, int64_t count, int64_t captions, int64_t length)
{
    s->length = length;
    s->paths = memory_alloc(count, sizeof *s->paths);
    s->captions.templates = memory_alloc(captions, sizeof *s->captions.templates);
    s->ids = memory_alloc(captions * length, sizeof *s->ids);
    if (!s->paths || !s->captions.templates || !s->ids)
        return error_memory("the list of pictures");
    s->captions.count = captions;
    return ok();
}

static struct error share_found(struct dataset *s, int64_t length, struct comm *comm)
{
    int64_t sizes[] = {s->count, s->captions.count, s->masked};
    TRY(comm_broadcast(comm, sizes, sizeof sizes, 0));
    s->masked = sizes[2];
    TRY(comm_agree(comm, comm_rank(comm) == 0 ? ok() : make_room(s, sizes[0], sizes[1], length)));
    TRY(share_paths(s, sizes[0], comm));
    return comm_broadcast(comm, s->ids, s->captions.count * s->length * (int64_t)sizeof *s->ids, 0);
}

struct error dataset_read(struct dataset *s, const struct config *config, const struct tokenizer *tokenizer,
                          int32_t first_id, int64_t resolution, int64_t length, struct comm *comm)
{
    *s = (struct dataset){.flip = config->data.flip, .caption_per_picture = config->use_cc};
    struct error mine = comm_rank(comm) == 0 ? find_all(s, config, tokenizer, first_id, length) : ok();
    struct error e = comm_agree(comm, mine);
    if (e.code == ERROR_NONE)
        e = share_found(s, length, comm);
    if (e.code == ERROR_NONE)
        e = share_pictures(s, config, resolution, comm);
    s->trained = s->count - config->data.hold_out;
    if (e.code != ERROR_NONE)
        dataset_free(s);
    return e;
}

struct dataset dataset_borrow(const struct dataset *from)
{
    struct dataset s = *from;
    s.borrowed = true;
    s.moments[0] = s.moments[1] = s.weights[0] = s.weights[1] = NULL;
    return s;
}

static void free_read(struct dataset *s)
{
    for (int64_t i = 0; i < s->count; i++) {
        if (s->paths)
            memory_free(s->paths[i]);
        if (s->pictures)
            picture_free(&s->pictures[i]);
        if (s->masks)
            memory_free(s->masks[i]);
    }
    memory_free(s->paths);
    memory_free(s->pictures);
    memory_free(s->masks);
    photos_free(&s->photos);
    captions_free(&s->captions);
    memory_free(s->ids);
}

void dataset_free(struct dataset *s)
{
    if (!s->borrowed)
        free_read(s);
    for (int m = 0; m < 2; m++) {
        memory_free(s->moments[m]);
        memory_free(s->weights[m]);
    }
    *s = (struct dataset){0};
}

int64_t dataset_validated(const struct dataset *s, int64_t draw)
{
    return s->trained < s->count ? s->trained : draw % s->count;
}
