#include "text/captions.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"
#include "base/text.h"
#include "files/file.h"
#include "files/json.h"
#include "text/characters.h"

enum { CAPTION_LIMIT = 4096 };

static const char *const object_templates[] = {
    "a photo of a {}",         "a rendering of a {}",      "a cropped photo of the {}", "the photo of a {}",
    "a photo of a clean {}",   "a photo of a dirty {}",    "a dark photo of the {}",    "a photo of my {}",
    "a photo of the cool {}",  "a close-up photo of a {}", "a bright photo of the {}",  "a cropped photo of a {}",
    "a photo of the {}",       "a good photo of the {}",   "a photo of one {}",         "a close-up photo of the {}",
    "a rendition of the {}",   "a photo of the clean {}",  "a rendition of a {}",       "a photo of a nice {}",
    "a good photo of a {}",    "a photo of the nice {}",   "a photo of the small {}",   "a photo of the weird {}",
    "a photo of the large {}", "a photo of a cool {}",     "a photo of a small {}",
};

static const char *const style_templates[] = {
    "a painting in the style of {}",         "a rendering in the style of {}",
    "a cropped painting in the style of {}", "the painting in the style of {}",
    "a clean painting in the style of {}",   "a dirty painting in the style of {}",
    "a dark painting in the style of {}",    "a picture in the style of {}",
    "a cool painting in the style of {}",    "a close-up painting in the style of {}",
    "a bright painting in the style of {}",  "a cropped painting in the style of {}",
    "a good painting in the style of {}",    "a close-up painting in the style of {}",
    "a rendition in the style of {}",        "a nice painting in the style of {}",
    "a small painting in the style of {}",   "a weird painting in the style of {}",
    "a large painting in the style of {}",
};

static struct error alloc_templates(struct captions *c, int64_t count)
{
    *c = (struct captions){.count = count, .templates = memory_alloc(count, sizeof *c->templates)};
    return c->templates ? ok() : error_memory("the captions");
}

void captions_free(struct captions *c)
{
    for (int64_t i = 0; i < c->count && c->templates; i++)
        memory_free(c->templates[i]);
    memory_free(c->templates);
    *c = (struct captions){0};
}

struct error captions_templates(struct captions *c, bool style)
{
    const char *const *all = style ? style_templates : object_templates;
    TRY(alloc_templates(c, style ? sizeof style_templates / sizeof *style_templates
                                 : sizeof object_templates / sizeof *object_templates));
    for (int64_t i = 0; i < c->count; i++) {
        c->templates[i] = memory_string(all[i]);
        if (!c->templates[i]) {
            captions_free(c);
            return error_memory("the captions");
        }
    }
    return ok();
}

/* -------------------------------------------------------------------------------- a file's captions */

/* A caption of the file, by its subject and its picture's name, both in NFC. A subject itself has the name "", what
 * stands at the top level the subject "". */
struct caption {
    char *subject, *name;
    const cJSON *value;
};

struct caption_table {
    struct caption *items;
    int64_t count, room;
};

static void free_table(struct caption_table *t)
{
    for (int64_t i = 0; i < t->count; i++) {
        memory_free(t->items[i].subject);
        memory_free(t->items[i].name);
    }
    memory_free(t->items);
}

/* NFC; bytes that are not UTF-8, as a file may be called, stay as they are. NULL: out of memory. */
static char *compose(const char *name)
{
    char *composed;
    struct error e = characters_compose(name, &composed);
    return e.code == ERROR_BAD_INPUT ? memory_string(name) : composed;
}

static struct error add_caption(struct caption_table *t, const char *subject, const char *name, const cJSON *value)
{
    struct caption *more = memory_grow(t->items, t->count, &t->room, sizeof *more);
    if (!more)
        return error_memory("the captions");
    t->items = more;
    struct caption *c = &t->items[t->count++];
    *c = (struct caption){compose(subject), compose(name), value};
    return c->subject && c->name ? ok() : error_memory("the captions");
}

static int by_name(const void *a, const void *b)
{
    const struct caption *x = a, *y = b;
    int order = strcmp(x->subject, y->subject);
    return order ? order : strcmp(x->name, y->name);
}

static struct error sort_table(struct caption_table *t, const char *path)
{
    if (t->count)
        qsort(t->items, (size_t)t->count, sizeof *t->items, by_name);
    for (int64_t i = 1; i < t->count; i++)
        if (by_name(&t->items[i - 1], &t->items[i]) == 0)
            return error_input("%s: %s%s%s: is given twice, as names are compared in NFC", path, t->items[i].subject,
                               *t->items[i].subject && *t->items[i].name ? ": " : "", t->items[i].name);
    return ok();
}

static struct error read_table(struct caption_table *t, const cJSON *root, const char *path)
{
    for (const cJSON *item = root->child; item; item = item->next) {
        TRY(cJSON_IsObject(item) ? add_caption(t, item->string, "", item) : add_caption(t, "", item->string, item));
        for (const cJSON *own = cJSON_IsObject(item) ? item->child : NULL; own; own = own->next)
            TRY(add_caption(t, item->string, own->string, own));
    }
    return sort_table(t, path);
}

static struct error find(const struct caption_table *t, const char *subject, const char *name, const cJSON **value)
{
    const struct caption wanted = {compose(subject), compose(name), NULL};
    struct error e = wanted.subject && wanted.name ? ok() : error_memory("the captions");
    const struct caption *found = NULL;
    if (e.code == ERROR_NONE && t->count)
        found = bsearch(&wanted, t->items, (size_t)t->count, sizeof *t->items, by_name);
    memory_free(wanted.subject);
    memory_free(wanted.name);
    *value = found ? found->value : NULL;
    return e;
}

/* -------------------------------------------------------------------------------- a picture's caption */

/* Where a picture is: as its path is written, with links in its folder's path resolved, with all links resolved. */
enum { AS_WRITTEN, REAL_FOLDER, REAL_FILE, WAYS };

struct place {
    char path[PATH_SIZE];
    const char *name; /* the file's, in the path */
    char subject[PATH_SIZE];
};

static bool resolve(char real[PATH_SIZE], const char *picture, int way)
{
    char folder[PATH_SIZE], whole[PATH_SIZE];
    const char *name = path_name(picture);
    if (way == AS_WRITTEN)
        return snprintf(real, PATH_SIZE, "%s", picture) < PATH_SIZE;
    if (way == REAL_FILE)
        return realpath(picture, real);
    snprintf(folder, sizeof folder, "%.*s", (int)(name - picture), picture);
    return realpath(*folder ? folder : ".", whole) && path_join(real, whole, name).code == ERROR_NONE;
}

/* Whether the picture's folder has a name there. */
static bool find_place(struct place *p, const char *picture, int way)
{
    if (!resolve(p->path, picture, way))
        return false;
    p->name = path_name(p->path);
    const char *end = p->name;
    while (end > p->path && end[-1] == '/')
        end--;
    const char *start = end;
    while (start > p->path && start[-1] != '/')
        start--;
    snprintf(p->subject, sizeof p->subject, "%.*s", (int)(end - start), start);
    return *p->subject && strcmp(p->subject, ".") != 0 && strcmp(p->subject, "..") != 0;
}

/* *subject, for errors: the first name that the picture's folder has; *known: the file has that subject, or another of
 * its names. */
static struct error find_caption(const struct caption_table *t, const char *picture, char subject[PATH_SIZE],
                                 bool *known, const cJSON **caption)
{
    struct place place;
    *subject = 0;
    *known = false;
    *caption = NULL;
    for (int way = AS_WRITTEN; way < WAYS && !*caption; way++) {
        const cJSON *own;
        if (!find_place(&place, picture, way))
            continue;
        if (!*subject)
            memcpy(subject, place.subject, sizeof place.subject);
        TRY(find(t, place.subject, "", &own));
        *known = *known || own;
        if (own)
            TRY(find(t, place.subject, place.name, caption));
    }
    return *known ? ok() : find(t, "", path_name(picture), caption);
}

static bool has_top_level(const struct caption_table *t)
{
    return t->count && !*t->items[0].subject;
}

static struct error read_caption(char **template, const struct caption_table *t, const char *path, const char *picture)
{
    char subject[PATH_SIZE];
    const char *name = path_name(picture);
    const cJSON *caption;
    bool known;
    TRY(find_caption(t, picture, subject, &known, &caption));
    if (!caption && !known && !has_top_level(t))
        return error_input(
            "%s: %s: no captions for this subject; add {\"%s\": {\"FILE\": \"a photo of a {} ...\"}}, or "
            "set use_cc to false",
            path, subject, subject);
    if (!caption)
        return error_input("%s: %s: no caption for picture %s; add one, or set use_cc to false", path, subject, name);
    if (!cJSON_IsString(caption) || strlen(caption->valuestring) > CAPTION_LIMIT)
        return error_input("%s: %s: %s: expected a caption of at most %d bytes", path, subject, name, CAPTION_LIMIT);
    if (!strstr(caption->valuestring, "{}"))
        return error_input("%s: %s: %s: expected {} in the caption, where the word goes", path, subject, name);
    *template = memory_string(caption->valuestring);
    return *template ? ok() : error_memory("the captions");
}

static struct error read_all(struct captions *c, const cJSON *root, const char *path, const char *const *pictures)
{
    struct caption_table table = {0};
    struct error e = read_table(&table, root, path);
    for (int64_t i = 0; i < c->count && e.code == ERROR_NONE; i++)
        e = read_caption(&c->templates[i], &table, path, pictures[i]);
    free_table(&table);
    return e;
}

struct error captions_read(struct captions *c, const char *path, const char *const *pictures, int64_t count)
{
    struct json json;
    TRY(json_open(&json, path));
    struct error e = alloc_templates(c, count);
    if (e.code == ERROR_NONE)
        e = read_all(c, json.root, path, pictures);
    if (e.code != ERROR_NONE)
        captions_free(c);
    json_close(&json);
    return e;
}

/* -------------------------------------------------------------------------------- a text file for each picture */

enum { FILE_LIMIT = 1 << 16 };

static bool is_of_word(int32_t c)
{
    enum character_kind kind = character_kind(c);
    return kind == CHARACTER_LETTER || kind == CHARACTER_NUMBER || c == '_';
}

static bool begins_in_word(const char *text)
{
    int32_t c;
    character_read(text, &c);
    return is_of_word(c);
}

/* The last character before the end of a text, which is not empty. */
static const char *last_character(const char *text, const char *end)
{
    do
        end--;
    while (end > text && ((unsigned char)*end & 0xc0) == 0x80);
    return end;
}

/* Does the word stand at a place of the text, and not as a part of a longer one? All are valid UTF-8. */
static bool is_at(const char *text, const char *at, const char *word)
{
    size_t length = strlen(word);
    if (strncasecmp(at, word, length) != 0)
        return false;
    if (at > text && begins_in_word(word) && begins_in_word(last_character(text, at)))
        return false;
    return !at[length] || !begins_in_word(last_character(word, word + length)) || !begins_in_word(at + length);
}

/* The text with "{}" for every such place. NULL: out of memory. */
static char *mark_word(const char *text, const char *word)
{
    char *template = memory_alloc(2 * (int64_t)strlen(text) + 1, 1), *to = template;
    for (const char *at = text; *at && template;)
        if (is_at(text, at, word)) {
            to = stpcpy(to, "{}");
            at += strlen(word);
        } else {
            *to++ = *at++;
        }
    return template;
}

/* Where the first line with text begins; the rest of it is cut off. *more: is there any? */
static char *first_line(char *text, bool *more)
{
    static const char blank[] = " \t\r\n\f\v";
    char *line = text + strspn(text, blank), *end = line + strcspn(line, "\r\n");
    *more = end[strspn(end, blank)] != 0;
    while (end > line && strchr(blank, end[-1]))
        end--;
    *end = 0;
    return line;
}

static struct error make_template(char **template, char *text, const char *path, const char *word, bool *more)
{
    static const char byte_order_mark[] = "\xef\xbb\xbf";
    const char *line =
        first_line(text + (strncmp(text, byte_order_mark, 3) == 0 ? sizeof byte_order_mark - 1 : 0), more);
    if (!*line)
        return error_input("%s: is empty, expected a caption such as \"a photo of a {}\"", path);
    if (strlen(line) > CAPTION_LIMIT)
        return error_input("%s: expected a caption of at most %d bytes", path, CAPTION_LIMIT);
    *template = strstr(line, "{}") ? memory_string(line) : mark_word(line, word);
    if (!*template)
        return error_memory("the captions");
    return strstr(*template, "{}")
               ? ok()
               : error_input("%s: expected {} in the caption, where the word goes, or \"%.60s\", the "
                             "word itself",
                             path, word);
}

static struct error read_text(char **template, const char *path, const char *word, bool *more)
{
    char *text;
    int64_t size;
    TRY(file_read(path, FILE_LIMIT, &text, &size));
    struct error e = json_check_text(path, text, size);
    if (e.code == ERROR_NONE)
        e = make_template(template, text, path, word, more);
    memory_free(text);
    return e;
}

struct error captions_beside(struct captions *c, char *const *files, int64_t count, const char *word,
                             struct text_few *more)
{
    *more = (struct text_few){0};
    TRY(alloc_templates(c, count));
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++) {
        bool longer = false;
        e = read_text(&c->templates[i], files[i], word, &longer);
        if (longer)
            text_few_add(more, path_name(files[i]));
    }
    text_few_end(more);
    if (e.code != ERROR_NONE)
        captions_free(c);
    return e;
}

struct error captions_fill(const char *template, const char *word, char **text)
{
    *text = text_replace(template, "{}", word);
    return *text ? ok() : error_memory("a caption");
}
