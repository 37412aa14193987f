#include "report/parameters.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"

enum { VALUE = 1 << 12 };

/* As AUTOMATIC1111's quote(): a string of JSON, if it has a character that would end or begin a setting. */
static void put_setting(FILE *out, const char *name, const char *value)
{
    char quoted[VALUE];
    text_as_json(quoted, sizeof quoted, value);
    fprintf(out, "%s: %s, ", name, strpbrk(value, ",:\n") ? quoted : value);
}

/* The name of a file may be anything. */
static void put_file(FILE *out, const char *name, const char *file)
{
    char shown[VALUE];
    snprintf(shown, sizeof shown, "%s", file);
    text_show_safely(shown);
    put_setting(out, name, shown);
}

/* "DPM++ 2M Karras" is a sampler and how it spreads its sigmas. */
static void put_sampler(FILE *out, const char *label, const char *schedule)
{
    size_t size = strlen(label);
    if (schedule && text_ends_with(label, schedule))
        size -= strlen(schedule) + 1;
    fprintf(out, "Sampler: %.*s, ", (int)size, label);
    if (schedule)
        put_setting(out, "Schedule type", schedule);
}

static bool has_brackets(const struct parameters *p)
{
    return strpbrk(p->prompt, "([") || strpbrk(p->negative, "([");
}

static void put_all(FILE *out, const struct parameters *p)
{
    char guidance[TEXT_NUMBER];
    text_number(guidance, p->guidance);
    if (*p->prompt)
        fprintf(out, "%s\n", p->prompt);
    if (*p->negative)
        fprintf(out, "Negative prompt: %s\n", p->negative);
    fprintf(out, "Steps: %lld, ", (long long)p->steps);
    put_sampler(out, p->sampler, p->schedule);
    fprintf(out, "CFG scale: %s, ", guidance);
    if (p->latents)
        put_file(out, "Latents", p->latents);
    else
        fprintf(out, "Seed: %lld, ", (long long)p->seed);
    fprintf(out, "Size: %lldx%lld, ", (long long)p->width, (long long)p->height);
    put_setting(out, "Model hash", p->model_hash);
    put_file(out, "Model", p->model);
    if (p->bits)
        fprintf(out, "Bits: %d, ", p->bits);
    if (p->plain && has_brackets(p))
        put_setting(out, "Emphasis", "None");
    if (p->padded)
        put_setting(out, "Pad conds", "True");
    if (*p->word_hashes)
        put_setting(out, "TI hashes", p->word_hashes);
    fprintf(out, "Version: zoodip %s", ZOODIP_VERSION);
}

struct error parameters_text(const struct parameters *p, char **text)
{
    char *written = NULL;
    size_t size;
    *text = NULL;
    FILE *out = open_memstream(&written, &size);
    if (!out)
        return error_memory("a picture's text");
    put_all(out, p);
    bool failed = ferror(out);
    if (fclose(out) == 0 && !failed)
        *text = memory_string(written);
    free(written);
    return *text ? ok() : error_memory("a picture's text");
}
