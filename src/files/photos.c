#include "files/photos.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"
#include "base/memory.h"
#include "files/file.h"

static const char caption_ending[] = ".txt";

/* The second is OneTrainer's. */
static const char *const mask_endings[] = {"-mask.png", "-masklabel.png"};
enum { MASK_ENDINGS = sizeof mask_endings / sizeof *mask_endings };

/* The one that a name has, or NULL. Also in capitals, which no picture's mask has: such a file is no picture either. */
static const char *mask_ending_of(const char *name)
{
    size_t length = strlen(name);
    for (int i = 0; i < MASK_ENDINGS; i++) {
        size_t end = strlen(mask_endings[i]);
        if (length > end && strcasecmp(name + length - end, mask_endings[i]) == 0)
            return mask_endings[i];
    }
    return NULL;
}

/* Hidden files, and others that file managers leave beside pictures. */
static bool is_left_behind(const char *name)
{
    return *name == '.' || strcasecmp(name, "Thumbs.db") == 0 || strcasecmp(name, "desktop.ini") == 0;
}

/* -------------------------------------------------------------------------------- beside a picture */

/* How many bytes of a picture's path its last ending leaves. */
static size_t stem_of(const char *path)
{
    const char *name = path_name(path), *dot = strrchr(name, '.');
    return dot ? (size_t)(dot - path) : strlen(path);
}

/* *found: the file that is called like the picture with another ending, or NULL. */
static struct error look_beside(const char *picture, const char *ending, char **found)
{
    char path[PATH_SIZE];
    enum path_kind kind = PATH_NOTHING;
    *found = NULL;
    if (snprintf(path, sizeof path, "%.*s%s", (int)stem_of(picture), picture, ending) < (int)sizeof path)
        TRY(path_look(path, &kind));
    if (kind != PATH_FILE || path_same(path, picture))
        return ok();
    *found = memory_string(path);
    return *found ? ok() : error_memory("the list of pictures");
}

static struct error no_caption(const struct config *config, const char *picture)
{
    char name[PATH_SIZE];
    snprintf(name, sizeof name, "%.*s%s", (int)stem_of(path_name(picture)), path_name(picture), caption_ending);
    return config_blame(
        config, "use_cc",
        error_input("is true, but %.150s has no caption; expected %.100s beside it, such as \"a photo of "
                    "a {} on the beach\", or data.captions to name a file with the captions of all",
                    picture, name));
}

/* The captions and masks of all pictures. */
static struct error look_beside_all(const struct config *config, struct photos *p)
{
    p->captions = memory_alloc(p->count, sizeof *p->captions);
    p->masks = memory_alloc(p->count, sizeof *p->masks);
    if (!p->captions || !p->masks)
        return error_memory("the list of pictures");
    bool wanted = config->use_cc && !config->data.captions;
    for (int64_t i = 0; i < p->count; i++) {
        for (int k = 0; k < MASK_ENDINGS && !p->masks[i]; k++)
            TRY(look_beside(p->paths[i], mask_endings[k], &p->masks[i]));
        if (!wanted)
            continue;
        TRY(look_beside(p->paths[i], caption_ending, &p->captions[i]));
        if (!p->captions[i])
            return no_caption(config, p->paths[i]);
    }
    return ok();
}

/* -------------------------------------------------------------------------------- a folder's */

struct listing {
    const char *folder;
    char **names; /* [count], sorted */
    enum path_kind *kinds;
    int64_t count;
};

static struct error add_path(struct photos *p, const char *path)
{
    p->paths[p->count] = memory_string(path);
    return p->paths[p->count++] ? ok() : error_memory("the list of pictures");
}

static bool has_picture(const struct listing *l, const char *name, const char *ending);

/* A picture's mask in another format than PNG, which is not read as one: not a photo either. */
static bool is_odd_mask(const struct listing *l, const char *name)
{
    size_t stem = stem_of(name);
    for (int i = 0; i < MASK_ENDINGS; i++) {
        size_t end = strlen(mask_endings[i]) - strlen(".png");
        if (stem > end && strncasecmp(name + stem - end, mask_endings[i], end) == 0)
            return picture_is_named(name) && has_picture(l, name, name + stem - end);
    }
    return false;
}

static bool is_picture(const struct listing *l, int64_t i)
{
    const char *name = l->names[i];
    return l->kinds[i] != PATH_FOLDER && !is_left_behind(name) && picture_is_named(name) && !mask_ending_of(name) &&
           !is_odd_mask(l, name);
}

/* Is there a picture that is called like a name without that ending? */
static bool has_picture(const struct listing *l, const char *name, const char *ending)
{
    char stem[PATH_SIZE];
    int64_t from = 0;
    size_t length = (size_t)snprintf(stem, sizeof stem, "%.*s.", (int)(strlen(name) - strlen(ending)), name);
    for (int64_t end = l->count; from < end;) {
        int64_t middle = (from + end) / 2;
        if (strncmp(l->names[middle], stem, length) < 0)
            from = middle + 1;
        else
            end = middle;
    }
    for (; from < l->count && strncmp(l->names[from], stem, length) == 0; from++)
        if (!strchr(l->names[from] + length, '.') && is_picture(l, from))
            return true;
    return false;
}

/* Whether a file that is no picture is used beside one; if not, as what it could be. */
static bool is_used(const struct config *config, const struct listing *l, const char *name, enum unused_kind *kind)
{
    const char *mask = mask_ending_of(name);
    *kind = mask || is_odd_mask(l, name) ? UNUSED_MASKS : UNUSED_FILES;
    if (mask)
        return text_ends_with(name, mask) && has_picture(l, name, mask);
    if (!text_ends_with(name, caption_ending) || !has_picture(l, name, caption_ending))
        return false;
    *kind = UNUSED_CAPTIONS;
    return config->use_cc && !config->data.captions;
}

static void note_unused(const struct config *config, const struct listing *l, int64_t i, const char *path,
                        struct photos *p)
{
    char shown[PATH_SIZE];
    enum unused_kind kind = UNUSED_FILES;
    bool folder = l->kinds[i] == PATH_FOLDER;
    if ((config->data.captions && path_same(path, config->data.captions)) ||
        (!folder && is_used(config, l, l->names[i], &kind)))
        return;
    if (!folder && kind == UNUSED_FILES)
        picture_add_remedy(p->remedy, l->names[i]);
    snprintf(shown, sizeof shown, "%s%s", l->names[i], folder ? "/" : "");
    text_few_add(&p->unused[kind], shown);
}

static struct error sort_out(const struct config *config, struct listing *l, struct photos *p)
{
    char path[PATH_SIZE];
    p->paths = memory_alloc(l->count, sizeof *p->paths);
    l->kinds = memory_alloc(l->count, sizeof *l->kinds);
    if (!p->paths || !l->kinds)
        return error_memory("the list of pictures");
    for (int64_t i = 0; i < l->count; i++) {
        TRY(path_join(path, l->folder, l->names[i]));
        if (!is_left_behind(l->names[i]))
            TRY(path_look(path, &l->kinds[i]));
    }
    for (int64_t i = 0; i < l->count; i++) {
        TRY(path_join(path, l->folder, l->names[i]));
        if (is_picture(l, i))
            TRY(add_path(p, path));
        else if (!is_left_behind(l->names[i]))
            note_unused(config, l, i, path, p);
    }
    return ok();
}

static struct error list_folder(const struct config *config, const char *folder, struct photos *p)
{
    struct listing l = {.folder = folder};
    TRY(folder_list(folder, &l.names, &l.count));
    struct error e = sort_out(config, &l, p);
    memory_free(l.kinds);
    folder_list_free(l.names, l.count);
    return e;
}

/* -------------------------------------------------------------------------------- all */

/* A list may name masks, too. Those of its pictures are found beside them. */
static bool is_listed_mask(const struct texts *images, int64_t i, bool *used)
{
    const char *path = images->items[i], *ending = mask_ending_of(path_name(path));
    *used = false;
    if (!ending)
        return false;
    size_t stem = strlen(path) - strlen(ending);
    for (int64_t k = 0; k < images->count && !*used && text_ends_with(path, ending); k++)
        *used = stem_of(images->items[k]) == stem && strncmp(images->items[k], path, stem) == 0;
    return true;
}

static struct error list_files(const struct texts *images, struct photos *p)
{
    p->paths = memory_alloc(images->count, sizeof *p->paths);
    if (!p->paths)
        return error_memory("the list of pictures");
    for (int64_t i = 0; i < images->count; i++) {
        enum path_kind kind;
        bool used;
        TRY(path_look(images->items[i], &kind));
        if (kind == PATH_FOLDER)
            return error_input("\"%.300s\": is a folder; expected a single folder, or a list of files",
                               images->items[i]);
        if (kind != PATH_FILE)
            return error_input("\"%.300s\": no such file or folder", images->items[i]);
        if (!is_listed_mask(images, i, &used))
            TRY(add_path(p, images->items[i]));
        else if (!used)
            text_few_add(&p->unused[UNUSED_MASKS], path_name(images->items[i]));
    }
    return ok();
}

static struct error none_here(const char *place, const struct photos *p)
{
    char only[2 * sizeof p->unused->text] = "";
    for (int k = 0; k < UNUSED_KINDS; k++) {
        size_t used = strlen(only);
        if (p->unused[k].count)
            snprintf(only + used, sizeof only - used, "%s%s", used ? ", " : ", only ", p->unused[k].text);
    }
    return error_input("\"%.150s\": no pictures here (%s)%.300s%s", place, picture_endings, only, p->remedy);
}

static struct error list(const struct config *config, struct photos *p)
{
    const struct texts *images = &config->data.images;
    enum path_kind kind;
    TRY(path_look(images->items[0], &kind));
    TRY(images->count == 1 && kind == PATH_FOLDER ? list_folder(config, images->items[0], p) : list_files(images, p));
    for (int k = 0; k < UNUSED_KINDS; k++)
        text_few_end(&p->unused[k]);
    return p->count ? ok() : none_here(images->items[0], p);
}

struct error photos_list(const struct config *config, struct photos *p)
{
    *p = (struct photos){0};
    TRY(config_blame(config, "data.images", list(config, p)));
    return look_beside_all(config, p);
}

void photos_free(struct photos *p)
{
    for (int64_t i = 0; i < p->count; i++) {
        memory_free(p->paths ? p->paths[i] : NULL);
        memory_free(p->captions ? p->captions[i] : NULL);
        memory_free(p->masks ? p->masks[i] : NULL);
    }
    memory_free(p->paths);
    memory_free(p->captions);
    memory_free(p->masks);
    *p = (struct photos){0};
}

struct error photos_check(const struct config *config)
{
    struct photos photos;
    struct error e = photos_list(config, &photos);
    photos_free(&photos);
    return e;
}

void photos_warn_unused(const struct config *config, const struct photos *p)
{
    static const char *const why[UNUSED_KINDS] = {
        [UNUSED_FILES] = "pictures are ",
        [UNUSED_CAPTIONS] = "captions beside pictures count with use_cc and without data.captions",
        [UNUSED_MASKS] = "a picture NAME.png or NAME.jpg has its mask in NAME-mask.png"};
    for (int k = 0; k < UNUSED_KINDS; k++) {
        bool files = k == UNUSED_FILES;
        struct error e = error_input("\"%.150s\": not used: %s; %s%s%s", config->data.images.items[0],
                                     p->unused[k].text, why[k], files ? picture_endings : "", files ? p->remedy : "");
        if (p->unused[k].count)
            log_warning("%s", config_blame(config, "data.images", e).text);
    }
}
