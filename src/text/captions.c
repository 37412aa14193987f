#include "text/captions.h"

#include <cjson/cJSON.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "files/json.h"

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

/* The captions of a subject: the object under its name, or the whole file if captions are at the top level. */
static const cJSON *captions_of(const cJSON *root, const char *subject)
{
    const cJSON *own = cJSON_GetObjectItemCaseSensitive(root, subject);
    if (cJSON_IsObject(own))
        return own;
    return root->child && cJSON_IsString(root->child) ? root : NULL;
}

static struct error read_subject(struct captions *c, const cJSON *root, const char *path, const char *subject,
                                 const char *const *names)
{
    const cJSON *own = captions_of(root, subject);
    if (!own)
        return error_input(
            "%s: %s: no captions for this subject; add {\"%s\": {\"FILE\": \"a photo of a {} ...\"}}, or "
            "set use_cc to false",
            path, subject, subject);
    for (int64_t i = 0; i < c->count; i++) {
        const cJSON *caption = cJSON_GetObjectItemCaseSensitive(own, names[i]);
        if (!caption)
            return error_input("%s: %s: no caption for picture %s; add one, or set use_cc to false", path, subject,
                               names[i]);
        if (!cJSON_IsString(caption) || strlen(caption->valuestring) > CAPTION_LIMIT)
            return error_input("%s: %s: %s: expected a caption of at most %d bytes", path, subject, names[i],
                               CAPTION_LIMIT);
        if (!strstr(caption->valuestring, "{}"))
            return error_input("%s: %s: %s: expected {} in the caption, where the word goes", path, subject, names[i]);
        c->templates[i] = memory_string(caption->valuestring);
        if (!c->templates[i])
            return error_memory("the captions");
    }
    return ok();
}

struct error captions_read(struct captions *c, const char *path, const char *subject, const char *const *names,
                           int64_t count)
{
    struct json json;
    TRY(json_open(&json, path));
    struct error e = alloc_templates(c, count);
    if (e.code == ERROR_NONE)
        e = read_subject(c, json.root, path, subject, names);
    if (e.code != ERROR_NONE)
        captions_free(c);
    json_close(&json);
    return e;
}

struct error captions_fill(const char *template, const char *word, char **text)
{
    *text = text_replace(template, "{}", word);
    return *text ? ok() : error_memory("a caption");
}
